//! The level machine: up at once, down slowly.

use std::time::Duration;

use crate::watermarks::{PerLevel, TimeToExhaustion};

/// The distance to the end, as a level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    #[default]
    Normal = 0,
    Elevated = 1,
    High = 2,
    Critical = 3,
}

impl Level {
    /// The levels above normal, lowest first.
    pub const ALARMS: [Level; 3] = [Level::Elevated, Level::High, Level::Critical];

    fn below(self) -> Level {
        match self {
            Level::Normal | Level::Elevated => Level::Normal,
            Level::High => Level::Elevated,
            Level::Critical => Level::High,
        }
    }
}

impl From<Level> for u8 {
    fn from(level: Level) -> u8 {
        level as u8
    }
}

impl<T: Copy> PerLevel<T> {
    /// The figure of an alarm level; normal has none.
    fn of(&self, level: Level) -> Option<T> {
        match level {
            Level::Normal => None,
            Level::Elevated => Some(self.elevated),
            Level::High => Some(self.high),
            Level::Critical => Some(self.critical),
        }
    }
}

/// How long a level must be clear before it is left.
///
/// Kills are decided by the headroom and the growth of each sample, not by the level. The level
/// turns work away and informs the user, and flapping would cost more than waiting: while the
/// throttle slows growth, each of its turns comes near to critical again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold(pub PerLevel<Duration>);

impl Default for Hold {
    fn default() -> Self {
        Self(PerLevel {
            elevated: Duration::from_millis(1000),
            high: Duration::from_millis(500),
            critical: Duration::from_millis(250),
        })
    }
}

/// One sample of the binding limit, to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Strain {
    pub limit_bytes: u64,
    pub headroom_bytes: u64,
    /// Headroom below which each level begins.
    pub begins: PerLevel<u64>,
    /// Time until the floor, for each level at the growth over the window of the level
    /// ([`TimeToExhaustion::windows`]).
    pub time_to_exhaustion: PerLevel<Option<Duration>>,
}

/// Keeps the level between samples.
#[derive(Debug, Default)]
pub struct Machine {
    level: Level,
    hold: Hold,
    times: TimeToExhaustion,
    /// The time since which each alarm level has been clear without a break.
    clear_since: [Option<Duration>; 3],
}

impl Machine {
    #[must_use]
    pub fn new(hold: Hold, times: TimeToExhaustion) -> Self {
        Self {
            hold,
            times,
            ..Self::default()
        }
    }

    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Sets new thresholds; the level stays until the next sample.
    pub fn reconfigure(&mut self, hold: Hold, times: TimeToExhaustion) {
        self.hold = hold;
        self.times = times;
    }

    /// Judges one sample; without a limit the level is normal.
    pub fn judge(&mut self, now: Duration, strain: Option<Strain>) -> Level {
        let Some(strain) = strain else {
            self.level = Level::Normal;
            self.clear_since = [None; 3];
            return self.level;
        };
        let mut wanted = Level::Normal;
        for (level, since) in Level::ALARMS.into_iter().zip(&mut self.clear_since) {
            let out_of_time = out_of_time(&self.times, level, &strain);
            if strain
                .begins
                .of(level)
                .is_some_and(|begins| strain.headroom_bytes < begins)
                || out_of_time
            {
                wanted = level;
            }
            if out_of_time || !recovered(level, &strain) {
                *since = None;
            } else {
                since.get_or_insert(now);
            }
        }
        self.level = if wanted > self.level {
            wanted
        } else {
            self.descend(now)
        };
        self.level
    }

    /// The level reached going down past every level clear for its hold.
    fn descend(&self, now: Duration) -> Level {
        let mut level = self.level;
        while self.may_leave(level, now) {
            level = level.below();
        }
        level
    }

    fn may_leave(&self, level: Level, now: Duration) -> bool {
        let since = Level::ALARMS.iter().position(|alarm| *alarm == level);
        let since = since.and_then(|i| self.clear_since.get(i).copied().flatten());
        match (since, self.hold.0.of(level)) {
            (Some(since), Some(hold)) => now.saturating_sub(since) >= hold,
            _ => false,
        }
    }
}

fn out_of_time(times: &TimeToExhaustion, level: Level, strain: &Strain) -> bool {
    let left = strain.time_to_exhaustion.of(level).flatten();
    match (left, times.per_level().of(level)) {
        (Some(left), Some(threshold)) => left < threshold,
        _ => false,
    }
}

/// Whether headroom is a tenth above the beginning of the level, or half way to an empty limit
/// where no such tenth exists.
fn recovered(level: Level, strain: &Strain) -> bool {
    strain.begins.of(level).is_some_and(|begins| {
        let beyond = (begins / 10).min(strain.limit_bytes.saturating_sub(begins) / 2);
        strain.headroom_bytes >= begins.saturating_add(beyond)
    })
}

#[cfg(test)]
#[path = "level_tests.rs"]
mod tests;
