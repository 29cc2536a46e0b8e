//! The thread's waiting place: for commands, the source's bell, or the time.
//!
//! An eventfd, or a condition variable where eventfd is missing, instead of a channel. A channel's
//! receiver spins and yields before it sleeps. On a machine with a full run queue, where the
//! watcher has to be quick, each yield gives the CPU away for a time slice. Besides, of several
//! commands only the last of each kind matters, so nothing has to queue.

use std::mem::take;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{Command, Config};
use crate::event::{self, Event};

#[derive(Debug)]
pub(super) struct Inbox {
    pending: Mutex<Pending>,
    arrived: Condvar,
    /// `None` where no descriptor was left: then only commands and the time wake the thread.
    event: Option<Event>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            pending: Mutex::default(),
            arrived: Condvar::new(),
            event: Event::new().ok(),
        }
    }
}

/// Pending commands, and whether the source's bell rang.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Pending {
    pub(super) stop: bool,
    pub(super) sample: bool,
    pub(super) feed: Option<u64>,
    pub(super) slack: Option<u64>,
    pub(super) workers: Option<bool>,
    pub(super) config: Option<Config>,
    pub(super) rang: bool,
}

impl Inbox {
    /// Leaves a command and wakes the thread.
    pub(super) fn post(&self, command: Command) {
        let mut pending = self.pending.lock();
        match command {
            Command::Feed(usage_bytes) => pending.feed = Some(usage_bytes),
            Command::Slack(bytes) => pending.slack = Some(bytes),
            Command::Workers(any) => pending.workers = Some(any),
            Command::Reconfigure(config) => pending.config = Some(config),
            Command::Sample => pending.sample = true,
            Command::Stop => pending.stop = true,
        }
        match &self.event {
            Some(event) => event.ring(),
            None => {
                self.arrived.notify_one();
            }
        }
    }

    /// Whether the inbox can wait for a bell.
    pub(super) fn hears(&self) -> bool {
        self.event.is_some()
    }

    /// Returns the posted commands; waits for a command or the bell if need be, at most for
    /// `at_most`.
    pub(super) fn wait(&self, at_most: Duration, bell: Option<BorrowedFd<'_>>) -> Pending {
        let Some(event) = &self.event else {
            let mut pending = self.pending.lock();
            if *pending == Pending::default() {
                self.arrived.wait_for(&mut pending, at_most);
            }
            return take(&mut *pending);
        };
        let [posted, rang] = event::wait(event.fd(), bell, at_most);
        let mut pending = self.pending.lock();
        if posted {
            event.clear();
        }
        Pending {
            rang,
            ..take(&mut *pending)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// One of each kind: woken by a descriptor, and by the condition variable.
    fn inboxes() -> [Inbox; 2] {
        let without = Inbox {
            event: None,
            ..Inbox::default()
        };
        [Inbox::default(), without]
    }

    #[test]
    fn the_last_of_each_kind_counts() {
        for inbox in inboxes() {
            for command in [
                Command::Feed(1),
                Command::Sample,
                Command::Feed(2),
                Command::Workers(true),
                Command::Sample,
                Command::Workers(false),
            ] {
                inbox.post(command);
            }
            let expected = Pending {
                sample: true,
                feed: Some(2),
                workers: Some(false),
                ..Pending::default()
            };
            assert_eq!(inbox.wait(HOUR, None), expected);
            assert_eq!(inbox.wait(Duration::ZERO, None), Pending::default());
        }
    }

    #[test]
    fn what_was_posted_before_the_wait_is_not_waited_for() {
        for inbox in inboxes() {
            inbox.post(Command::Stop);
            assert!(inbox.wait(HOUR, None).stop);
        }
    }

    #[test]
    fn a_command_wakes_who_waits() {
        for inbox in inboxes() {
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| inbox.wait(HOUR, None));
                inbox.post(Command::Sample);
                assert!(waiting.join().is_ok_and(|pending| pending.sample));
            });
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_bell_wakes_it_as_well() -> std::io::Result<()> {
        let (inbox, bell) = (Inbox::default(), Event::new()?);
        assert!(inbox.hears());
        bell.ring();
        let rang = Pending {
            rang: true,
            ..Pending::default()
        };
        assert_eq!(inbox.wait(HOUR, Some(bell.fd())), rang);
        Ok(())
    }
}
