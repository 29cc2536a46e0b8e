//! Real threads. Nothing here waits for time to pass: intervals are longer than the tests, and
//! tests wait for a command or the end of a channel.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::super::testing::{sink, FakeClock, FakeSource, Told, LIMIT};
use super::*;
use crate::level::Level;
use crate::pace::Pace;

/// Longer than any test may take: the awaited message comes, or the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

fn idle() -> Config {
    let hour = Duration::from_secs(3600);
    Config {
        pace: Pace::new(hour, hour).unwrap_or_default(),
        ..Config::default()
    }
}

fn watch(config: Config, source: FakeSource) -> io::Result<(Watcher, Receiver<Told>)> {
    let (sink, heard) = sink();
    Ok((
        Watcher::spawn(config, source, sink, FakeClock::default())?,
        heard,
    ))
}

#[test]
fn has_a_report_as_soon_as_it_is_spawned() -> io::Result<()> {
    let (watcher, _heard) = watch(idle(), FakeSource::using(LIMIT))?;
    let report = watcher.shared().latest().unwrap_or_default();
    assert_eq!((report.level, report.samples), (Level::Critical, 1));
    assert!(watcher.shared().running());
    Ok(())
}

#[test]
fn says_an_alarm_of_the_first_sample() -> io::Result<()> {
    let (_watcher, heard) = watch(idle(), FakeSource::using(LIMIT))?;
    assert_eq!(
        heard.recv_timeout(PATIENCE),
        Ok(Told::Level(Level::Critical))
    );
    Ok(())
}

#[test]
fn commands_wake_it() -> io::Result<()> {
    let source = FakeSource::using(0);
    let (watcher, heard) = watch(idle(), source.clone())?;
    watcher.send(Command::Feed(LIMIT));
    assert_eq!(
        heard.recv_timeout(PATIENCE),
        Ok(Told::Level(Level::Critical))
    );
    watcher.send(Command::Sample);
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Told::Tick));
    source.set(None);
    watcher.send(Command::Reconfigure(idle()));
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Told::Level(Level::Normal)));
    Ok(())
}

#[test]
fn samples_on_its_own_at_its_interval() -> io::Result<()> {
    let source = FakeSource::using(0);
    let (sink, heard) = sink();
    let clock = FakeClock::default();
    let watcher = Watcher::spawn(Config::default(), source.clone(), sink, clock.clone())?;
    source.set(Some(LIMIT));
    assert_eq!(
        heard.recv_timeout(PATIENCE),
        Ok(Told::Level(Level::Critical))
    );
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Told::Tick));
    source.set(Some(0));
    // Wait until the watcher has seen the change before the time passes.
    let seen = watcher.shared().samples();
    while watcher.shared().samples() < seen + 2 {
        std::thread::yield_now();
    }
    clock.advance(Duration::from_secs(10));
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Told::Level(Level::Normal)));
    Ok(())
}

/// Only the bell can wake the watcher: the next look is an hour away.
#[cfg(target_os = "linux")]
#[test]
fn the_bell_wakes_it_from_rest() -> io::Result<()> {
    let source = FakeSource::using(LIMIT / 2);
    let (sink, heard) = sink();
    let clock = FakeClock::default();
    let watcher = Watcher::spawn(idle(), source.clone(), sink, clock.clone())?;
    clock.advance(Duration::from_secs(3600));
    watcher.send(Command::Sample);
    while !source.is_listening() {
        std::thread::yield_now();
    }
    source.set(Some(LIMIT));
    source.ring();
    assert_eq!(
        heard.recv_timeout(PATIENCE),
        Ok(Told::Level(Level::Critical))
    );
    watcher.stop();
    Ok(())
}

#[test]
fn stops_at_once_and_as_often_as_asked() -> io::Result<()> {
    let (watcher, heard) = watch(idle(), FakeSource::using(0))?;
    let begun = Instant::now();
    watcher.stop();
    assert!(begun.elapsed() < Duration::from_millis(100));
    assert!(!watcher.shared().running());
    // The thread is gone, and the sink with it.
    assert!(heard.recv().is_err());
    watcher.stop();
    watcher.send(Command::Sample);
    Ok(())
}

#[test]
fn stops_when_dropped() -> io::Result<()> {
    let (watcher, heard) = watch(idle(), FakeSource::using(0))?;
    drop(watcher);
    assert!(heard.recv().is_err());
    Ok(())
}

#[test]
fn stops_when_nobody_listens() -> io::Result<()> {
    let (watcher, heard) = watch(idle(), FakeSource::using(0))?;
    drop(heard);
    watcher.send(Command::Feed(LIMIT));
    let thread = watcher.thread.lock().take();
    assert!(thread.is_some_and(|thread| thread.join().is_ok()));
    assert!(!watcher.shared().running());
    Ok(())
}

#[test]
fn a_panic_is_said_and_leaves_no_thread() -> io::Result<()> {
    let source = FakeSource::using(0);
    let (watcher, heard) = watch(idle(), source.clone())?;
    source.panic_next();
    watcher.send(Command::Sample);
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Told::Died));
    watcher.stop();
    assert!(!watcher.shared().running());
    Ok(())
}

#[test]
fn many_come_and_go() -> io::Result<()> {
    for round in 0..200 {
        let (watcher, _heard) = watch(Config::default(), FakeSource::using(LIMIT))?;
        if round % 2 == 0 {
            watcher.send(Command::Sample);
        }
    }
    Ok(())
}
