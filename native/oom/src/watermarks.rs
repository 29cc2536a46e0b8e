//! Where the levels begin: bytes of headroom derived from a limit, and time to exhaustion.
//!
//! `Auto` follows the floor ([`crate::floor`]): `critical` and `high` begin there, and `elevated`,
//! at which nobody loses anything, at twice the floor. A node at rest above the floor is healthy,
//! however full. Above the floor, refusals and kills go by the time to exhaustion.

use std::fmt;
use std::time::Duration;

use crate::floor::floor_bytes;

/// With 2, a level comes at the latest when a third of the distance to the floor is gone: the two
/// thirds left are less than twice the growth seen. Critical looks no further ahead than back: a
/// single step of workers with pauses between steps is high before it is critical. With 4, a node
/// in use was high for 43 to 53 % of the time, with 2 for 9 to 24 %.
const FORESIGHT: PerLevel<u32> = PerLevel {
    elevated: 2,
    high: 2,
    critical: 1,
};

/// One figure for each level above normal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerLevel<T> {
    pub elevated: T,
    pub high: T,
    pub critical: T,
}

/// How the beginnings of the levels follow from a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Watermarks {
    /// Derived from the floor; see the module's documentation.
    #[default]
    Auto,
    /// Fractions of the limit in use; built by [`Watermarks::fractions`].
    Fractions(Fractions),
}

/// Checked fractions: `0 < elevated < high < critical <= 1`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fractions(PerLevel<f64>);

/// Errors in the requested thresholds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Invalid {
    /// A fraction is not a number between 0 (exclusive) and 1 (inclusive).
    NotAFraction { level: &'static str, got: f64 },
    /// The fractions do not rise from elevated over high to critical.
    NotRising {
        elevated: f64,
        high: f64,
        critical: f64,
    },
    /// The times do not fall from elevated over high to critical.
    NotFalling {
        elevated_ms: u128,
        high_ms: u128,
        critical_ms: u128,
    },
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAFraction { level, got } => {
                write!(f, "watermark {level}: expected a fraction above 0 and up to 1, got: {got}")
            }
            Self::NotRising { elevated, high, critical } => write!(
                f,
                "watermarks: expected elevated < high < critical, got: {elevated}, {high}, {critical}"
            ),
            Self::NotFalling { elevated_ms, high_ms, critical_ms } => write!(
                f,
                "time to exhaustion: expected elevated >= high >= critical, \
                 got: {elevated_ms} ms, {high_ms} ms, {critical_ms} ms"
            ),
        }
    }
}

impl std::error::Error for Invalid {}

impl Watermarks {
    /// Watermarks at fractions of the limit in use.
    pub fn fractions(elevated: f64, high: f64, critical: f64) -> Result<Self, Invalid> {
        for (level, got) in [
            ("elevated", elevated),
            ("high", high),
            ("critical", critical),
        ] {
            // NaN compares false with everything, so NaN is refused here too.
            if !(got > 0.0 && got <= 1.0) {
                return Err(Invalid::NotAFraction { level, got });
            }
        }
        if elevated < high && high < critical {
            Ok(Self::Fractions(Fractions(PerLevel {
                elevated,
                high,
                critical,
            })))
        } else {
            Err(Invalid::NotRising {
                elevated,
                high,
                critical,
            })
        }
    }

    /// Headroom in bytes below which each level begins; never rising towards critical.
    #[must_use]
    pub fn headroom(&self, limit_bytes: u64) -> PerLevel<u64> {
        match self {
            Self::Auto => auto(limit_bytes),
            Self::Fractions(Fractions(used)) => {
                let left = |fraction: f64| left_of(limit_bytes, fraction);
                PerLevel {
                    elevated: left(used.elevated),
                    high: left(used.high),
                    critical: left(used.critical),
                }
            }
        }
    }
}

fn auto(limit: u64) -> PerLevel<u64> {
    let floor = floor_bytes(limit);
    PerLevel {
        elevated: within(floor.saturating_mul(2), limit),
        high: within(floor, limit),
        critical: within(floor, limit),
    }
}

fn left_of(limit: u64, fraction: f64) -> u64 {
    let used = (limit as f64 * fraction).round() as u64;
    within(limit.saturating_sub(used), limit)
}

/// Never the whole limit, or the level would have begun with nothing in use; and at least one
/// byte, so every level has begun when nothing is left.
fn within(headroom: u64, limit: u64) -> u64 {
    headroom.clamp(1, limit.saturating_sub(1).max(1))
}

/// Time until the floor is reached, below which each level begins; zero switches a level off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeToExhaustion(PerLevel<Duration>);

impl Default for TimeToExhaustion {
    fn default() -> Self {
        Self(PerLevel {
            elevated: Duration::from_millis(4000),
            high: Duration::from_millis(1000),
            critical: Duration::from_millis(100),
        })
    }
}

impl TimeToExhaustion {
    /// The time at which critical begins.
    #[must_use]
    pub fn critical(&self) -> Duration {
        self.0.critical
    }

    pub fn new(elevated: Duration, high: Duration, critical: Duration) -> Result<Self, Invalid> {
        if elevated >= high && high >= critical {
            Ok(Self(PerLevel {
                elevated,
                high,
                critical,
            }))
        } else {
            Err(Invalid::NotFalling {
                elevated_ms: elevated.as_millis(),
                high_ms: high.as_millis(),
                critical_ms: critical.as_millis(),
            })
        }
    }

    #[must_use]
    pub fn per_level(&self) -> PerLevel<Duration> {
        self.0
    }

    /// The window over which growth is measured for each level: nothing is foretold further ahead
    /// than [`FORESIGHT`] times the stretch seen. A node in use takes and gives back some MB all the
    /// time, by 100 MB/s for a moment, and is at no end.
    #[must_use]
    pub fn windows(&self) -> PerLevel<Duration> {
        PerLevel {
            elevated: self.0.elevated / FORESIGHT.elevated,
            high: self.0.high / FORESIGHT.high,
            critical: self.0.critical / FORESIGHT.critical,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;
    const GIB: u64 = 1024 * MIB;

    fn critical_at_percent(limit: u64) -> f64 {
        let headroom = Watermarks::Auto.headroom(limit).critical;
        100.0 * (limit - headroom) as f64 / limit as f64
    }

    #[test]
    fn auto_follows_the_documented_table() {
        for (limit, percent) in [
            (64 * MIB, 93.75),
            (512 * MIB, 94.5),
            (4 * GIB, 98.6),
            (64 * GIB, 99.2),
        ] {
            let got = critical_at_percent(limit);
            assert!(
                (got - percent).abs() < 0.1,
                "limit {limit}: {got} % instead of {percent} %"
            );
        }
    }

    #[test]
    fn auto_is_monotone_in_levels_and_in_the_limit() {
        let mut before = PerLevel {
            elevated: 0,
            high: 0,
            critical: 0,
        };
        let mut limit = 64 * MIB;
        while limit <= 1024 * GIB {
            let now = Watermarks::Auto.headroom(limit);
            assert!(now.critical <= now.high && now.high < now.elevated && now.elevated < limit);
            assert!(now.critical >= before.critical && now.elevated >= before.elevated);
            before = now;
            limit += limit / 8;
        }
    }

    #[test]
    fn auto_survives_degenerate_limits() {
        for limit in [0, 1, 2, 3, 4096, u64::MAX] {
            let got = Watermarks::Auto.headroom(limit);
            assert!(got.critical <= got.high && got.high <= got.elevated);
            assert!(got.elevated < limit.max(2) && got.critical > 0);
        }
    }

    #[test]
    fn fractions_leave_the_rest_as_headroom() {
        let marks = Watermarks::fractions(0.5, 0.75, 0.9).unwrap_or_default();
        let got = marks.headroom(1000);
        assert_eq!((got.elevated, got.high, got.critical), (500, 250, 100));
    }

    #[test]
    fn a_level_at_one_hundred_percent_begins_with_nothing_left() {
        let marks = Watermarks::fractions(0.5, 0.75, 1.0).unwrap_or_default();
        assert_eq!(marks.headroom(GIB).critical, 1);
    }

    #[test]
    fn fractions_that_make_no_sense_are_named() {
        let message = |e, h, c| match Watermarks::fractions(e, h, c) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(message(0.0, 0.5, 0.9).contains("watermark elevated"));
        assert!(message(0.1, f64::NAN, 0.9).contains("watermark high"));
        assert!(message(0.1, 0.5, 1.01).contains("got: 1.01"));
        assert!(message(0.5, 0.5, 0.9).contains("elevated < high < critical"));
        assert!(message(0.5, 0.9, 0.8).contains("0.5, 0.9, 0.8"));
    }

    #[test]
    fn times_must_fall_towards_critical() {
        let ms = Duration::from_millis;
        assert!(TimeToExhaustion::new(ms(4), ms(2), ms(0)).is_ok());
        assert!(TimeToExhaustion::new(ms(0), ms(0), ms(0)).is_ok());
        let error = TimeToExhaustion::new(ms(1), ms(2), ms(0)).map_err(|e| e.to_string());
        assert!(error.is_err_and(|e| e.contains("1 ms, 2 ms, 0 ms")));
    }
}
