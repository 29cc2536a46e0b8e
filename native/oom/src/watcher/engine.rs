//! From a sample to a report, and from a report to messages. No threads, no clock.

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use crate::growth::{time_to_exhaustion, Growth, LONGEST};
use crate::level::{Level, Machine, Strain};
use crate::pace::Distance;
use crate::reading::{Sample, Source};
use crate::slack::Slack;
use crate::watermarks::PerLevel;

use super::rest::{self, Rest};
use super::{Config, Report, Shared, Sink, SinkClosed};

/// A sample with less than so many times the critical time left is told, too, at any level: the
/// throttle can stop growth for a moment before anything has to be lost.
const SOON: u32 = 3;

/// Problems told after one sample; further problems wait for the next sample.
const PROBLEMS_AT_ONCE: usize = 8;

/// A working set that changes by less than this between two looks does not move.
const MOVES_BYTES: u64 = 512 << 10;

/// File pages making way for anonymous memory change the working set at the same usage, too, but
/// not by so much from one look to the next.
const ESTIMATE_BYTES: u64 = 32 << 20;

/// Slower growth leaves enough time for all decisions by headroom.
const COUNTS_BYTES_PER_S: i64 = 2_000_000;

/// Interval of whole looks at rest, for moved limits and changes a cheap look does not see.
const WHOLE: Duration = Duration::from_millis(100);

/// Interval of ticks about memory at rest, after seconds of acting in vain.
const TICKS_AT_REST: Duration = Duration::from_secs(1);

fn used(sample: &Sample) -> Option<u64> {
    sample
        .binding
        .as_ref()
        .map(|binding| binding.working_set_bytes)
}

/// Whether the estimate of reclaimable memory changed without any memory being taken or given
/// back: a step of the working set without growth.
fn estimate_moved(before: &Sample, now: &Sample) -> bool {
    let both = before.binding.as_ref().zip(now.binding.as_ref());
    both.is_some_and(|(before, now)| {
        let used = now.working_set_bytes.abs_diff(before.working_set_bytes);
        let charged = now.usage_bytes.abs_diff(before.usage_bytes);
        used > ESTIMATE_BYTES && charged < used / 4
    })
}

#[derive(Debug)]
pub(super) struct Engine<S> {
    source: S,
    config: Config,
    growth: Growth,
    machine: Machine,
    slack: Option<Slack>,
    report: Report,
    /// The level last told to the sink.
    announced: Level,
    /// The level was announced with the last sample.
    just_announced: bool,
    /// The working set has moved with the last sample.
    moves: bool,
    /// When the last whole look took place.
    whole_at: Duration,
    /// When growth was last seen.
    grew_at: Option<Duration>,
    rest: Rest,
    /// The source may be asked for a bell.
    hears: bool,
    cpus: u64,
    workers: bool,
    /// Nothing has moved for a while.
    calm: bool,
    /// Somebody has asked for the sample.
    asked: bool,
    /// When the last tick was told.
    ticked_at: Duration,
    shared: Arc<Shared>,
}

impl<S: Source> Engine<S> {
    /// `hears` tells whether the thread can wait for a bell of the source.
    pub(super) fn new(config: Config, source: S, hears: bool, shared: Arc<Shared>) -> Self {
        Self {
            source,
            growth: Growth::new(),
            machine: Machine::new(config.hold, config.times),
            slack: None,
            config,
            report: Report::default(),
            announced: Level::Normal,
            just_announced: false,
            moves: true,
            whole_at: Duration::ZERO,
            grew_at: None,
            rest: Rest::default(),
            hears,
            cpus: available_parallelism().map_or(1, |cpus| cpus.get() as u64),
            workers: true,
            calm: false,
            asked: false,
            ticked_at: Duration::ZERO,
            shared,
        }
    }

    pub(super) fn feed(&mut self, usage_bytes: u64) {
        self.source.feed(usage_bytes);
    }

    /// Records slack measured just now, at the working set of the last sample.
    pub(super) fn slack(&mut self, bytes: u64) {
        let binding = self.report.sample.binding.as_ref();
        self.slack = binding.map(|reading| Slack::new(bytes, reading.working_set_bytes));
    }

    /// Notes a request for the next sample.
    pub(super) fn asked(&mut self) {
        self.asked = true;
    }

    pub(super) fn workers(&mut self, any: bool) {
        self.workers = any;
    }

    /// The descriptor to wait for besides the interval.
    pub(super) fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.source.bell()
    }

    /// The bell rang: the next look is a whole one.
    pub(super) fn rang(&mut self, now: Duration) {
        self.rest.rang(now);
        self.source.deafen();
        self.moves = true;
    }

    pub(super) fn reconfigure(&mut self, config: Config) {
        self.machine.reconfigure(config.hold, config.times);
        self.config = config;
    }

    /// The time until the next sample is due.
    pub(super) fn interval(&self) -> Duration {
        self.report.interval
    }

    /// Takes a sample and judges it.
    pub(super) fn observe(&mut self, now: Duration) {
        let before = used(&self.report.sample);
        let sample = self.look(now);
        let moved = used(&sample).zip(before);
        self.moves = moved.is_none_or(|(now, before)| now.abs_diff(before) >= MOVES_BYTES);
        if estimate_moved(&self.report.sample, &sample) {
            self.growth.forget();
        }
        let binding = sample.binding.as_ref();
        self.growth.record(now, binding);

        let growth = self.growth.bytes_per_s();
        let surge = self.growth.surge_bytes_per_s();
        let headroom = binding.map(|reading| reading.headroom_bytes());
        let begins = binding.map(|reading| self.config.watermarks.headroom(reading.limit_bytes));
        let drift = self.growth.drift_bytes_per_s();
        let fastest = growth
            .unwrap_or(0)
            .max(i64::try_from(surge).unwrap_or(i64::MAX));
        let left_at = |rate: i64| {
            headroom.zip(begins).and_then(|(headroom, begins)| {
                let distance = headroom.saturating_sub(begins.critical);
                time_to_exhaustion(distance, Some(rate))
            })
        };
        let windows = self.config.times.windows();
        let lasting =
            |window| i64::try_from(self.growth.lasting_bytes_per_s(window)).unwrap_or(i64::MAX);
        let counted = |rate| left_at(rate).filter(|_| rate >= COUNTS_BYTES_PER_S);
        let drift_rate = i64::try_from(drift).unwrap_or(i64::MAX);
        if fastest.max(drift_rate) >= COUNTS_BYTES_PER_S {
            self.grew_at = Some(now);
        }
        // A single large step is no growth, and raises no level. Between two steps of a drift the
        // growth of the window counts on.
        let grew = self
            .grew_at
            .is_some_and(|at| now.saturating_sub(at) <= LONGEST);
        let lately = |window| counted(lasting(window)).filter(|_| grew);
        // A drift stays known after its end: the throttle goes by the rate of a drift, the level
        // does not.
        let left = left_at(fastest);
        let drift_left = left_at(drift_rate);

        let strain = binding.zip(begins).map(|(reading, begins)| Strain {
            limit_bytes: reading.limit_bytes,
            headroom_bytes: match self.slack {
                Some(slack) => slack.headroom(reading, &begins, growth),
                None => reading.headroom_bytes(),
            },
            begins,
            // Only growth at this moment is critical.
            time_to_exhaustion: PerLevel {
                elevated: lately(windows.elevated),
                high: lately(windows.high),
                critical: counted(fastest.min(lasting(windows.critical))),
            },
        });
        let slack_bytes = binding
            .zip(self.slack)
            .map(|(reading, slack)| slack.left(reading));
        let distance = headroom
            .zip(begins)
            .map(|(headroom_bytes, begins)| Distance {
                headroom_bytes,
                critical_headroom_bytes: begins.critical,
                growth_bytes_per_s: growth,
                moves: self.moves,
                workers: self.workers,
            });

        let level = self.machine.judge(now, strain);
        let interval = match level {
            // Critical by time may still be far away in bytes.
            Level::Critical if self.moves => self.config.pace.min(),
            _ => self.config.pace.interval(distance),
        };
        self.rest
            .look(now, binding.map(|reading| reading.working_set_bytes));
        let interval = self.rest_of(now, interval, level, distance);
        self.report = Report {
            level,
            sample,
            begins,
            slack_bytes,
            growth_bytes_per_s: growth,
            surge_bytes_per_s: headroom.map(|_| surge),
            drift_bytes_per_s: headroom.map(|_| drift),
            trend_bytes_per_s: headroom.map(|_| self.growth.trend_bytes_per_s()),
            peak_bytes: headroom.map(|_| self.growth.peak_bytes()),
            time_to_exhaustion: left.into_iter().chain(drift_left).min(),
            interval,
            sampled_at: now,
            samples: self.report.samples + 1,
        };
        self.just_announced = false;
        self.shared.publish(&self.report);
    }

    /// Returns the interval, or at rest the longer interval with a bell, where the source has a
    /// bell.
    fn rest_of(
        &mut self,
        now: Duration,
        interval: Duration,
        level: Level,
        distance: Option<Distance>,
    ) -> Duration {
        let listening = self.config.pace.listening();
        self.calm = self.rest.is_calm(now, level == Level::Critical);
        let step = distance.filter(|_| self.hears && self.calm && interval <= listening);
        let step = step.and_then(|distance| {
            let bytes = distance
                .headroom_bytes
                .saturating_sub(distance.critical_headroom_bytes);
            rest::step_bytes(bytes, self.cpus)
        });
        let bell = match step {
            Some(bytes) => self.source.listen(bytes),
            None => {
                self.source.deafen();
                false
            }
        };
        self.rest.hears(now, bell);
        if bell {
            listening
        } else {
            interval
        }
    }

    /// Takes a whole look, or at rest repeats the last sample, if one cheap look confirms its
    /// figures.
    fn look(&mut self, now: Duration) -> Sample {
        let due = self.moves || now.saturating_sub(self.whole_at) >= WHOLE;
        if !due && self.source.unchanged() {
            return self.report.sample.clone();
        }
        self.whole_at = now;
        self.source.sample()
    }

    /// Announces news: a change of level, or a tick while critical.
    pub(super) fn announce<K: Sink>(&mut self, sink: &mut K) -> Result<(), SinkClosed> {
        for _ in 0..PROBLEMS_AT_ONCE {
            let Some(problem) = self.source.take_problem() else {
                break;
            };
            sink.problem(&problem);
        }
        if self.report.level != self.announced {
            sink.level_changed(&self.report)?;
            self.announced = self.report.level;
            self.just_announced = true;
        }
        // Critical itself is the first message to act on; ticks begin with the next sample.
        let acted_on = self.just_announced && self.report.level == Level::Critical;
        if (self.report.level == Level::Critical || self.soon())
            && !acted_on
            && self.tick_is_due()
            && !self.shared.tick_outstanding.swap(true, Ordering::AcqRel)
        {
            sink.tick(&self.report)?;
            self.ticked_at = self.report.sampled_at;
        }
        Ok(())
    }

    /// At rest nothing new is told often.
    fn tick_is_due(&mut self) -> bool {
        let passed = self.report.sampled_at.saturating_sub(self.ticked_at);
        std::mem::take(&mut self.asked) || !self.calm || passed >= TICKS_AT_REST
    }

    fn soon(&self) -> bool {
        let soon = self.config.times.critical().saturating_mul(SOON);
        let surge = self.report.surge_bytes_per_s.unwrap_or(0);
        let drift = self.report.drift_bytes_per_s.unwrap_or(0);
        let besides = i64::try_from(surge.max(drift)).unwrap_or(i64::MAX);
        let fastest = self.report.growth_bytes_per_s.unwrap_or(0).max(besides);
        fastest >= COUNTS_BYTES_PER_S
            && self
                .report
                .time_to_exhaustion
                .is_some_and(|left| left < soon)
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
