//! The NIF of OOM: decodes, calls the `oom` crate, encodes. No decisions are made here.
//!
//! Only NIFs which may wait (the first sample, the end of the thread) are dirty; all remaining
//! NIFs read or write one word, or hand the thread a command.

mod config;
mod owner;
mod report;
mod resource;
mod settled;
mod trim;

use oom::watcher::{Clock, Command};
use rustler::{Encoder, Env, LocalPid, NifResult, ResourceArc, Term};

use report::{LevelAtom, ReportMap};
use resource::WatcherResource;
use settled::SettledResource;

mod atoms {
    rustler::atoms! { ok, error, unsupported, oom_watch, level, tick, problem, down }
}

rustler::init!("Elixir.OOM.Native");

/// Returns `{:ok, watcher}`, with a first report, or `{:error, {reason, message}}`.
#[rustler::nif(schedule = "DirtyIo")]
fn watcher_start<'a>(env: Env<'a>, owner: LocalPid, config: Term<'a>) -> Term<'a> {
    let started = config::decode(config).and_then(|it| resource::start(env, owner, it));
    match started {
        Ok(watcher) => (atoms::ok(), watcher).encode(env),
        Err(refused) => (atoms::error(), (refused.reason, refused.message)).encode(env),
    }
}

#[rustler::nif]
fn watcher_ack(watcher: ResourceArc<WatcherResource>) -> rustler::Atom {
    watcher.watcher().shared().ack();
    atoms::ok()
}

#[rustler::nif]
fn watcher_feed(watcher: ResourceArc<WatcherResource>, usage_bytes: u64) -> rustler::Atom {
    watcher.watcher().send(Command::Feed(usage_bytes));
    atoms::ok()
}

#[rustler::nif]
fn watcher_slack(watcher: ResourceArc<WatcherResource>, bytes: u64) -> rustler::Atom {
    watcher.watcher().send(Command::Slack(bytes));
    atoms::ok()
}

#[rustler::nif]
fn watcher_workers(watcher: ResourceArc<WatcherResource>, any: bool) -> rustler::Atom {
    watcher.watcher().send(Command::Workers(any));
    atoms::ok()
}

#[rustler::nif]
fn watcher_sample(watcher: ResourceArc<WatcherResource>) -> rustler::Atom {
    watcher.watcher().send(Command::Sample);
    atoms::ok()
}

#[rustler::nif(schedule = "DirtyIo")]
fn watcher_stop(watcher: ResourceArc<WatcherResource>) -> rustler::Atom {
    watcher.watcher().stop();
    atoms::ok()
}

#[rustler::nif]
fn watcher_report<'a>(env: Env<'a>, watcher: ResourceArc<WatcherResource>) -> Term<'a> {
    let shared = watcher.watcher().shared();
    let report = shared.latest();
    let report = report.as_ref().map(|report| {
        let age = watcher.clock().now().saturating_sub(report.sampled_at);
        ReportMap::new(report, age)
    });
    report.encode(env)
}

#[rustler::nif]
fn watcher_level(watcher: ResourceArc<WatcherResource>) -> LevelAtom {
    watcher.watcher().shared().level().into()
}

#[rustler::nif]
fn watcher_samples(watcher: ResourceArc<WatcherResource>) -> u64 {
    watcher.watcher().shared().samples()
}

#[rustler::nif]
fn watcher_alive(watcher: ResourceArc<WatcherResource>) -> bool {
    watcher.watcher().shared().running()
}

#[rustler::nif]
fn watcher_priority_raised(watcher: ResourceArc<WatcherResource>) -> bool {
    watcher.watcher().shared().priority_raised()
}

#[rustler::nif]
fn settled_new() -> ResourceArc<SettledResource> {
    ResourceArc::new(SettledResource::default())
}

/// Some milliseconds for 100,000 processes, so not on a scheduler of the VM's own.
#[rustler::nif(schedule = "DirtyCpu")]
fn settled_begin<'a>(
    settled: ResourceArc<SettledResource>,
    processes: Term<'a>,
) -> NifResult<Vec<Term<'a>>> {
    settled.begin(processes)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn settled_end(
    settled: ResourceArc<SettledResource>,
    outside: Term<'_>,
) -> NifResult<rustler::Atom> {
    settled.end(outside)?;
    Ok(atoms::ok())
}

/// The Elixir stub raises, so a caller learns of a missing library.
#[rustler::nif]
fn loaded() -> bool {
    true
}

#[rustler::nif]
fn trim() -> rustler::Atom {
    if trim::clear_segment_cache() {
        atoms::ok()
    } else {
        atoms::unsupported()
    }
}

#[rustler::nif]
fn trim_supported() -> bool {
    trim::supported()
}
