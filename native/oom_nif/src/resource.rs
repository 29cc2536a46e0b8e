//! The resource owning the watcher, and with it the thread.
//!
//! The thread must end before the library is unmapped: a thread without its code crashes. The VM
//! keeps the library mapped while a resource with a destructor lives, and the destructor drops the
//! watcher, which joins the thread. The owner's death only asks the thread to stop: the `down`
//! callback must not wait.

use oom::source::SystemSource;
use oom::watcher::{Command, SystemClock, Watcher};
use rustler::{Env, LocalPid, Monitor, Resource, ResourceArc};

use crate::config::{Refused, Settings};
use crate::owner::Owner;

pub(crate) struct WatcherResource {
    watcher: Watcher,
    clock: SystemClock,
}

impl WatcherResource {
    pub(crate) fn watcher(&self) -> &Watcher {
        &self.watcher
    }

    /// The clock of the reports' times.
    pub(crate) fn clock(&self) -> &SystemClock {
        &self.clock
    }
}

#[rustler::resource_impl]
impl Resource for WatcherResource {
    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.watcher.send(Command::Stop);
    }
}

pub(crate) fn start(
    env: Env<'_>,
    owner: LocalPid,
    settings: Settings,
) -> Result<ResourceArc<WatcherResource>, Refused> {
    let clock = SystemClock::default();
    let source = SystemSource::new(settings.source);
    let watcher = Watcher::spawn(settings.watcher, source, Owner::new(owner), clock)?;
    let resource = ResourceArc::new(WatcherResource { watcher, clock });
    match env.monitor(&resource, &owner) {
        Some(_) => Ok(resource),
        // Dropping the resource ends the thread.
        None => Err(Refused::owner()),
    }
}
