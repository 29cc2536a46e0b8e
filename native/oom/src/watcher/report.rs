//! Figures the watcher's thread shares with all threads.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicU8, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::level::Level;
use crate::reading::Sample;
use crate::watermarks::PerLevel;

/// Far longer than a reader needs, far shorter than a time slice.
const READER_MAY_TAKE: Duration = Duration::from_micros(100);

/// One sample and the conclusions from it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub level: Level,
    pub sample: Sample,
    /// Headroom below which each level begins; `None` without a binding limit.
    pub begins: Option<PerLevel<u64>>,
    /// The remaining part of the last told slack.
    pub slack_bytes: Option<u64>,
    pub growth_bytes_per_s: Option<i64>,
    /// Growth over the last milliseconds; see [`crate::growth::Growth::surge_bytes_per_s`].
    pub surge_bytes_per_s: Option<u64>,
    /// Growth in steps far apart; see [`crate::growth::Growth::drift_bytes_per_s`].
    pub drift_bytes_per_s: Option<u64>,
    /// Growth over a turn of the throttle; see [`crate::growth::Growth::trend_bytes_per_s`].
    pub trend_bytes_per_s: Option<i64>,
    /// The highest working set lately; see [`crate::growth::Growth::peak_bytes`].
    pub peak_bytes: Option<u64>,
    /// Until the floor is reached at the present growth.
    pub time_to_exhaustion: Option<Duration>,
    /// The time until the next sample.
    pub interval: Duration,
    /// By the watcher's clock.
    pub sampled_at: Duration,
    /// The number of samples so far, with this sample.
    pub samples: u64,
}

/// The state of a running watcher, readable from anywhere, and the acknowledgement of ticks,
/// writable from anywhere.
#[derive(Debug, Default)]
pub struct Shared {
    pub(super) tick_outstanding: AtomicBool,
    pub(super) latest: Mutex<Option<Report>>,
    pub(super) level: AtomicU8,
    pub(super) samples: AtomicU64,
    pub(super) running: AtomicBool,
    pub(super) priority_raised: AtomicBool,
}

impl Shared {
    /// Acknowledges the last tick; while critical, the next sample brings another tick.
    pub fn ack(&self) {
        self.tick_outstanding.store(false, Ordering::Release);
    }

    #[must_use]
    pub fn latest(&self) -> Option<Report> {
        self.latest.lock().clone()
    }

    /// Returns the level of the last sample; never waits.
    #[must_use]
    pub fn level(&self) -> Level {
        let level = self.level.load(Ordering::Acquire);
        Level::ALARMS
            .into_iter()
            .find(|alarm| u8::from(*alarm) == level)
            .unwrap_or_default()
    }

    #[must_use]
    pub fn samples(&self) -> u64 {
        self.samples.load(Ordering::Acquire)
    }

    /// Whether the thread is alive and watches.
    #[must_use]
    pub fn running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    /// Whether the system gave the thread a better nice value than the rest of the process.
    #[must_use]
    pub fn priority_raised(&self) -> bool {
        self.priority_raised.load(Ordering::Acquire)
    }

    pub(super) fn publish(&self, report: &Report) {
        // A reader that lost its CPU inside the lock must not delay the next look: later readers
        // get the figures of one sample before.
        if let Some(mut latest) = self.latest.try_lock_for(READER_MAY_TAKE) {
            *latest = Some(report.clone());
        }
        self.level.store(report.level.into(), Ordering::Release);
        self.samples.store(report.samples, Ordering::Release);
    }
}
