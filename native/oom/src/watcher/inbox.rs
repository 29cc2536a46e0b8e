//! What the thread waits on: commands, or the time.
//!
//! A condition variable instead of a channel. A channel's receiver spins and yields before it
//! sleeps, and on a machine with a full run queue, which is where we have to be quick, each
//! yield gives the CPU away for a time slice. Besides, of several commands only the last of
//! each kind matters, so nothing has to queue.

use std::mem::take;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{Command, Config};

#[derive(Debug, Default)]
pub(super) struct Inbox {
    pending: Mutex<Pending>,
    arrived: Condvar,
}

/// Commands that have not been obeyed yet.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Pending {
    pub(super) stop: bool,
    pub(super) sample: bool,
    pub(super) feed: Option<u64>,
    pub(super) slack: Option<u64>,
    pub(super) config: Option<Config>,
}

impl Inbox {
    /// Leaves a command and wakes the thread.
    pub(super) fn post(&self, command: Command) {
        let mut pending = self.pending.lock();
        match command {
            Command::Feed(usage_bytes) => pending.feed = Some(usage_bytes),
            Command::Slack(bytes) => pending.slack = Some(bytes),
            Command::Reconfigure(config) => pending.config = Some(config),
            Command::Sample => pending.sample = true,
            Command::Stop => pending.stop = true,
        }
        self.arrived.notify_one();
    }

    /// What has been posted; waits for it if need be, but not for longer than `at_most`.
    pub(super) fn wait(&self, at_most: Duration) -> Pending {
        let mut pending = self.pending.lock();
        if *pending == Pending::default() {
            self.arrived.wait_for(&mut pending, at_most);
        }
        take(&mut *pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_last_of_each_kind_counts() {
        let inbox = Inbox::default();
        for command in [
            Command::Feed(1),
            Command::Sample,
            Command::Feed(2),
            Command::Sample,
        ] {
            inbox.post(command);
        }
        let expected = Pending {
            sample: true,
            feed: Some(2),
            ..Pending::default()
        };
        assert_eq!(inbox.wait(HOUR), expected);
        assert_eq!(inbox.wait(Duration::ZERO), Pending::default());
    }

    #[test]
    fn what_was_posted_before_the_wait_is_not_waited_for() {
        let inbox = Inbox::default();
        inbox.post(Command::Stop);
        assert!(inbox.wait(HOUR).stop);
    }
}
