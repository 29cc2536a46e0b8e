use super::super::testing::{sink, FakeSink, FakeSource, Told, LIMIT};
use super::*;
use crate::pace::Pace;
use crate::watermarks::Watermarks;
use std::sync::mpsc::Receiver;

const MS: Duration = Duration::from_millis(1);

/// An engine over a source, its sink, and the messages to the sink.
struct Rig {
    engine: Engine<FakeSource>,
    source: FakeSource,
    sink: FakeSink,
    heard: Receiver<Told>,
    shared: Arc<Shared>,
    now: Duration,
}

fn rig(used: u64) -> Rig {
    let source = FakeSource::using(used);
    let shared = Arc::new(Shared::default());
    let config = Config {
        watermarks: Watermarks::fractions(0.6, 0.7, 0.8).unwrap_or_default(),
        ..Config::default()
    };
    let (sink, heard) = sink();
    let engine = Engine::new(config, source.clone(), true, Arc::clone(&shared));
    Rig {
        engine,
        source,
        sink,
        heard,
        shared,
        now: Duration::ZERO,
    }
}

impl Rig {
    /// Takes one sample of `used` bytes, `after` the last; returns the messages to the sink.
    fn step(&mut self, after: Duration, used: u64) -> Vec<Told> {
        self.now += after;
        self.source.set(Some(used));
        self.engine.observe(self.now);
        assert!(self.engine.announce(&mut self.sink).is_ok());
        self.heard.try_iter().collect()
    }
}

const CALM: u64 = LIMIT / 10;
const CRITICAL: u64 = LIMIT / 10 * 9;

#[test]
fn says_nothing_at_normal_and_has_a_report_all_the_same() {
    let mut rig = rig(CALM);
    assert_eq!(rig.step(MS, CALM), []);
    let report = rig.shared.latest().unwrap_or_default();
    assert_eq!(
        (report.level, report.samples, report.sampled_at),
        (Level::Normal, 1, MS)
    );
    assert_eq!(report.sample.rss_bytes, Some(CALM));
    assert_eq!(report.begins.map(|b| b.critical), Some(LIMIT / 5));
    assert_eq!(
        (rig.shared.level(), rig.shared.samples()),
        (Level::Normal, 1)
    );
}

#[test]
fn says_an_initial_level_above_normal() {
    let mut rig = rig(CRITICAL);
    assert_eq!(rig.step(MS, CRITICAL), [Told::Level(Level::Critical)]);
    assert_eq!(rig.shared.level(), Level::Critical);
}

#[test]
fn says_each_change_once() {
    let mut rig = rig(CALM);
    rig.step(MS, CALM);
    assert_eq!(
        rig.step(MS, LIMIT / 100 * 65),
        [Told::Level(Level::Elevated)]
    );
    assert_eq!(rig.step(MS, LIMIT / 100 * 65), []);
    assert_eq!(rig.step(MS, LIMIT / 100 * 75), [Told::Level(Level::High)]);
    assert_eq!(rig.step(MS, CALM), []);
    assert_eq!(rig.step(MS * 499, CALM), []);
    assert_eq!(rig.step(MS, CALM), [Told::Level(Level::Elevated)]);
    assert_eq!(rig.step(MS * 500, CALM), [Told::Level(Level::Normal)]);
    assert_eq!(rig.step(MS, CALM), []);
}

#[test]
fn ticks_once_and_again_only_after_an_ack() {
    let mut rig = rig(CALM);
    assert_eq!(rig.step(MS, CRITICAL), [Told::Level(Level::Critical)]);
    assert_eq!(rig.step(MS, CRITICAL), [Told::Tick]);
    for _ in 0..5 {
        assert_eq!(rig.step(MS, CRITICAL), []);
    }
    rig.shared.ack();
    rig.shared.ack();
    assert_eq!(rig.step(MS, CRITICAL), [Told::Tick]);
    assert_eq!(rig.step(MS, CRITICAL), []);
}

#[test]
fn an_unanswered_tick_is_still_unanswered_in_the_next_crisis() {
    let mut rig = rig(CALM);
    rig.step(MS, CRITICAL);
    assert_eq!(rig.step(MS, CRITICAL), [Told::Tick]);
    assert_eq!(rig.step(MS, CALM), []);
    assert_eq!(rig.step(MS * 250, CALM), [Told::Level(Level::High)]);
    assert_eq!(rig.step(MS, CRITICAL), [Told::Level(Level::Critical)]);
    assert_eq!(rig.step(MS, CRITICAL), []);
    rig.shared.ack();
    assert_eq!(rig.step(MS, CRITICAL), [Told::Tick]);
}

#[test]
fn announcing_twice_says_nothing_twice() {
    let mut rig = rig(CALM);
    rig.step(MS, CRITICAL);
    assert!(rig.engine.announce(&mut rig.sink).is_ok());
    assert_eq!(rig.heard.try_iter().count(), 0);
}

#[test]
fn fast_growth_raises_the_level_before_the_headroom_does() {
    let mut rig = rig(CALM);
    let mut climb = |ms: std::ops::Range<u64>| -> Vec<_> {
        ms.flat_map(|ms| rig.step(MS, CALM + ms * 1_000_000))
            .collect()
    };
    // 1 GB/s, and 700 MB to the floor: less than 1 s is left, which is believed once a third of
    // the way is gone.
    assert_eq!(climb(0..230), []);
    assert_eq!(climb(230..240), [Told::Level(Level::High)]);
    let report = rig.shared.latest().unwrap_or_default();
    assert_eq!(report.growth_bytes_per_s, Some(1_000_000_000));
    assert_eq!(report.time_to_exhaustion, Some(MS * 461));
}

#[test]
fn a_node_in_use_is_at_no_end() {
    let mut rig = rig(LIMIT / 2);
    // 60 MB come and go within 100 ms, at 1.2 GB/s, with 240 to 300 MB to the floor.
    let told: Vec<_> = (0..3000u64)
        .flat_map(|ms| rig.step(MS, LIMIT / 2 + (ms % 100).min(100 - ms % 100) * 1_200_000))
        .filter(|told| *told != Told::Tick)
        .collect();
    assert_eq!(told, []);
}

#[test]
fn growth_in_steps_is_high_before_it_is_critical() {
    // 20 MB within 10 ms each second, from 20 heights.
    for start in 0..20u64 {
        let mut rig = rig(LIMIT / 10 * 6 + start * 1_000_000);
        let told: Vec<_> = (0..8000u64)
            .flat_map(|ms| {
                let steps = (ms / 1000 * 10 + (ms % 1000).min(10)) * 2_000_000;
                rig.step(MS, LIMIT / 10 * 6 + start * 1_000_000 + steps)
            })
            .filter_map(|told| match told {
                Told::Level(level) if level > Level::Elevated => Some(level),
                _ => None,
            })
            .collect();
        assert_eq!(told.first(), Some(&Level::High), "{start}: {told:?}");
    }
}

#[test]
fn ticks_before_any_level_when_it_will_be_very_soon() {
    let mut rig = rig(CALM);
    let mut told = Vec::new();
    // 3 GB/s towards a limit of 1 GB: less than 300 ms are left after 40 ms.
    for ms in 0..60u64 {
        rig.shared.ack();
        told = rig.step(MS, CALM + ms * 3_000_000);
    }
    assert_eq!(told, [Told::Tick]);
    let report = rig.shared.latest().unwrap_or_default();
    assert_eq!(report.level, Level::Normal);
    // No ticks where memory stands still.
    for _ in 0..60 {
        rig.shared.ack();
        told = rig.step(MS, CALM + 180_000_000);
    }
    assert_eq!(told, []);
}

#[test]
fn looks_at_the_shortest_interval_while_critical_by_time_alone() {
    let mut rig = rig(CALM);
    for ms in 0..45u64 {
        rig.step(MS, ms * 10_000_000);
    }
    let report = rig.shared.latest().unwrap_or_default();
    assert_eq!(report.level, Level::Critical);
    assert!(report
        .sample
        .binding
        .is_some_and(|reading| reading.headroom_bytes() > LIMIT / 2));
    assert_eq!(rig.engine.interval(), MS);
}

#[test]
fn no_binding_limit_is_unknown_and_not_zero() {
    let mut rig = rig(CALM);
    rig.step(MS, CRITICAL);
    rig.source.set(None);
    rig.engine.observe(MS * 2);
    let report = rig.shared.latest().unwrap_or_default();
    assert_eq!(report.level, Level::Normal);
    assert_eq!((report.begins, report.growth_bytes_per_s), (None, None));
    assert_eq!(report.time_to_exhaustion, None);
    assert_eq!(rig.engine.interval(), Duration::from_secs(1));
}

#[test]
fn problems_are_passed_on_a_few_at_a_time() {
    let mut rig = rig(CALM);
    (0..10).for_each(|_| rig.source.have_problem());
    assert_eq!(rig.step(MS, CALM).len(), PROBLEMS_AT_ONCE);
    assert_eq!(rig.step(MS, CALM), [Told::Problem, Told::Problem]);
    assert_eq!(rig.step(MS, CALM), []);
}

#[test]
fn other_watermarks_count_from_the_next_sample() {
    let mut rig = rig(CALM);
    assert_eq!(rig.step(MS, LIMIT / 2), []);
    let pace = Pace::new(MS * 7, MS * 7).unwrap_or_default();
    let watermarks = Watermarks::fractions(0.1, 0.2, 0.3).unwrap_or_default();
    rig.engine.reconfigure(Config {
        watermarks,
        pace,
        ..Config::default()
    });
    assert_eq!(rig.step(MS, LIMIT / 2), [Told::Level(Level::Critical)]);
    assert_eq!(rig.engine.interval(), MS * 7);
}

#[test]
fn a_closed_sink_is_an_error() {
    let mut rig = rig(CRITICAL);
    rig.engine.observe(MS);
    let (mut sink, heard) = sink();
    drop(heard);
    assert_eq!(rig.engine.announce(&mut sink), Err(SinkClosed));
}

/// Looks at every requested `interval` until `until`; returns the number of looks.
fn looks_until(rig: &mut Rig, until: Duration, used: u64) -> usize {
    let mut looks = 0;
    while rig.now < until {
        let interval = rig.engine.interval();
        rig.step(interval, used);
        looks += 1;
    }
    looks
}

const SECOND: Duration = Duration::from_secs(1);
const NEAR: u64 = LIMIT / 100 * 79;

#[test]
fn at_rest_it_sleeps_until_the_bell_rings() {
    let mut rig = rig(NEAR);
    rig.step(MS, NEAR);
    looks_until(&mut rig, SECOND / 2, NEAR);
    assert_eq!(rig.source.steps(), []);
    looks_until(&mut rig, SECOND * 2, NEAR);
    assert!(rig.source.is_listening());
    // Four looks a second, whatever the distance.
    assert!(looks_until(&mut rig, SECOND * 12, NEAR) <= 41);
    assert_eq!(rig.source.steps().len(), 1);
    // After a ring: a look, and the pace of moving memory.
    rig.engine.rang(rig.now);
    rig.step(MS, NEAR + 5_000_000);
    assert!(!rig.source.is_listening());
    assert!(rig.engine.interval() <= MS * 5);
    // Memory at rest needs another bell, at once.
    looks_until(&mut rig, SECOND * 20, NEAR + 5_000_000);
    assert_eq!(rig.source.steps().len(), 2);
    rig.engine.rang(rig.now);
    rig.step(MS, NEAR + 5_000_000);
    assert_eq!(rig.source.steps().len(), 3);
}

#[test]
fn growth_that_a_whole_look_finds_takes_the_bell_down() {
    let mut rig = rig(NEAR);
    rig.step(MS, NEAR);
    looks_until(&mut rig, SECOND * 3, NEAR);
    assert!(rig.source.is_listening());
    rig.step(MS * 200, NEAR + 3_000_000);
    assert!(!rig.source.is_listening());
}

#[test]
fn without_a_bell_it_looks_as_ever() {
    let mut rig = rig(NEAR);
    rig.source.mute();
    rig.step(MS, NEAR);
    looks_until(&mut rig, SECOND * 2, NEAR);
    assert_eq!(looks_until(&mut rig, SECOND * 3, NEAR), 200);
    assert_eq!(rig.source.steps(), []);
}

#[test]
fn without_workers_there_is_half_the_hurry() {
    let mut rig = rig(CALM);
    rig.step(MS, CALM);
    rig.step(MS, CALM);
    let before = rig.engine.interval();
    rig.engine.workers(false);
    rig.step(MS, CALM);
    assert_eq!(rig.engine.interval(), before * 2);
}

/// Given up: memory at rest at critical is told now and then.
#[test]
fn at_rest_ticks_are_rare_and_growth_is_told_at_once() {
    let mut rig = rig(CRITICAL);
    rig.source.mute();
    rig.step(MS, CRITICAL);
    let ticks = |rig: &mut Rig, until: Duration| {
        let mut ticks = 0;
        while rig.now < until {
            rig.shared.ack();
            ticks += rig.step(MS * 5, CRITICAL).len();
        }
        ticks
    };
    assert!(ticks(&mut rig, SECOND * 2) > 390);
    assert_eq!(ticks(&mut rig, SECOND * 12), 10);
    rig.shared.ack();
    assert_eq!(rig.step(MS * 5, CRITICAL + 3_000_000), [Told::Tick]);
    rig.shared.ack();
    assert_eq!(rig.step(MS * 5, CRITICAL + 3_000_000), [Told::Tick]);
}

#[test]
fn a_sample_that_was_asked_for_ticks_at_rest_as_well() {
    let mut rig = rig(CRITICAL);
    rig.step(MS, CRITICAL);
    looks_until(&mut rig, SECOND * 4, CRITICAL);
    rig.shared.ack();
    rig.engine.asked();
    assert_eq!(rig.step(MS, CRITICAL), [Told::Tick]);
}
