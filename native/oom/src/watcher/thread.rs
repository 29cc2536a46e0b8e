//! The thread: waits, obeys, samples; and the handle owning the thread.

use std::fmt;
use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use parking_lot::Mutex;

use crate::reading::Source;

use super::engine::Engine;
use super::inbox::Inbox;
use super::{sys, Clock, Command, Config, Shared, Sink};

/// The name the system's tools show; Linux allows 15 bytes.
const THREAD_NAME: &str = "oom_watcher";

/// Owns the thread. Dropping the watcher wakes the thread and waits for its end, well below a
/// millisecond unless the kernel holds the thread in a read.
pub struct Watcher {
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

impl Watcher {
    /// Takes the first sample here and starts the thread.
    pub fn spawn<S, K, C>(config: Config, source: S, sink: K, clock: C) -> io::Result<Self>
    where
        S: Source + 'static,
        K: Sink + 'static,
        C: Clock + 'static,
    {
        let shared = Arc::new(Shared::default());
        let inbox = Arc::new(Inbox::default());
        let mut engine = Engine::new(config, source, inbox.hears(), Arc::clone(&shared));
        engine.observe(clock.now());
        // Before the thread starts: a caller asking right after the spawn must not see a dead
        // watcher.
        shared.running.store(true, Ordering::Release);
        let (its_shared, its_inbox) = (Arc::clone(&shared), Arc::clone(&inbox));
        let thread = Builder::new().name(THREAD_NAME.to_owned()).spawn(move || {
            its_shared
                .priority_raised
                .store(sys::raise_priority(), Ordering::Release);
            enter(engine, sink, &clock, &its_inbox);
            its_shared.running.store(false, Ordering::Release);
        })?;
        Ok(Self {
            inbox,
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    #[must_use]
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Hands the thread a command and wakes the thread. An ended thread hears nothing.
    pub fn send(&self, command: Command) {
        self.inbox.post(command);
    }

    /// Wakes the thread and waits until its end. Further calls do no harm.
    pub fn stop(&self) {
        self.send(Command::Stop);
        // Held while joining: on return every caller knows the thread is gone.
        let mut thread = self.thread.lock();
        if let Some(thread) = thread.take() {
            // A panic was caught inside; there is no error to handle.
            let _ = thread.join();
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs the loop and reports an end by a panic.
fn enter<S: Source, K: Sink, C: Clock>(
    mut engine: Engine<S>,
    mut sink: K,
    clock: &C,
    inbox: &Inbox,
) {
    let looped = || run(&mut engine, &mut sink, clock, inbox);
    if catch_unwind(AssertUnwindSafe(looped)).is_err() {
        // The panic may have come from the sink.
        let _ = catch_unwind(AssertUnwindSafe(|| sink.died()));
    }
}

/// Samples until told to stop, or until nobody listens any more.
fn run<S: Source, K: Sink, C: Clock>(
    engine: &mut Engine<S>,
    sink: &mut K,
    clock: &C,
    inbox: &Inbox,
) {
    while engine.announce(sink).is_ok() {
        let pending = inbox.wait(engine.interval(), engine.bell());
        if pending.stop {
            return;
        }
        if let Some(config) = pending.config {
            engine.reconfigure(config);
        }
        if let Some(usage_bytes) = pending.feed {
            engine.feed(usage_bytes);
        }
        if let Some(bytes) = pending.slack {
            engine.slack(bytes);
        }
        if let Some(any) = pending.workers {
            engine.workers(any);
        }
        if pending.sample {
            engine.asked();
        }
        if pending.rang {
            engine.rang(clock.now());
        }
        // After a command, a bell or the interval: look.
        engine.observe(clock.now());
    }
}

#[cfg(test)]
#[path = "thread_tests.rs"]
mod tests;
