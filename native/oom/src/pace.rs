//! The time until the next look.
//!
//! The next look comes in a quarter of the time to the floor at the worst expected growth:
//! [`SUDDEN`], or the measured growth if faster. So a node that sits still and bursts at full
//! speed right after a look is seen at least three times on its way to the floor.
//!
//! While nothing moves, looks are never closer together than [`AT_REST`], however near the floor
//! is: the floor is larger than the growth in that time, and a node at rest must cost nothing.
//! Where the source can ring a bell when usage grows, looks are rare: the thread sleeps, and looks
//! each [`LISTENING`] for changes without a bell. And where no worker is registered there is
//! nobody to stop in time, so the next look comes in half of the time.
//!
//! The cost of a node at rest is the number of these wake-ups: each takes some 50 us of CPU on a
//! virtual machine, of which a look is 1 us (one file) to 20 us (all files). Looks a second:
//!
//! | state                                 | polled | no workers | with a bell |
//! |---------------------------------------|--------|------------|-------------|
//! | 512 MiB limit, 60 MB used             |     18 |          9 |           4 |
//! | 512 MiB limit, 230 MB used            |     29 |         14 |           4 |
//! | 512 MiB limit, 400 MB used            |     74 |         37 |           4 |
//! | 2 GiB limit, 300 MB used              |      4 |          2 |           4 |
//! | 16 GiB limit, 2 GB used               |      1 |          1 |           1 |
//! | near the floor or below it, at rest   |    200 |        200 |           4 |
//! | the same, while memory moves          |   1000 |       1000 |        1000 |

use std::fmt;
use std::time::Duration;

/// The steepest growth measured over 50 ms, in bytes per second: lists growing as fast as two
/// cores can took 1.3 to 2.0 GB/s.
pub const SUDDEN: u64 = 2_000_000_000;

/// The least time between two looks while nothing moves. The floor is 28 MiB under 512 MiB, which
/// lasts 14 ms at [`SUDDEN`]; two thirds are left when the growth is seen.
pub const AT_REST: Duration = Duration::from_millis(5);

/// The time between two looks while a bell is up: for moved limits, for limits coming near while
/// the binding limit stands still, and for file pages making way for anonymous memory.
pub const LISTENING: Duration = Duration::from_millis(250);

/// Looks between now and the floor, at worst; and where there is no worker.
const LOOKS: u64 = 4;
const LOOKS_WITHOUT_WORKERS: u64 = 2;

/// The bounds of the sampling interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    min: Duration,
    max: Duration,
}

/// The requested bounds make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPace {
    min: Duration,
    max: Duration,
}

impl fmt::Display for InvalidPace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "interval: expected 0 < min <= max, got: min {:?}, max {:?}",
            self.min, self.max
        )
    }
}

impl std::error::Error for InvalidPace {}

impl Default for Pace {
    fn default() -> Self {
        Self {
            min: Duration::from_millis(1),
            max: Duration::from_millis(1000),
        }
    }
}

/// The figures the pace depends on.
#[derive(Clone, Copy, Debug)]
pub struct Distance {
    pub headroom_bytes: u64,
    pub critical_headroom_bytes: u64,
    pub growth_bytes_per_s: Option<i64>,
    /// The working set has moved since the last look.
    pub moves: bool,
    /// There are workers, as far as known.
    pub workers: bool,
}

impl Pace {
    /// Equal bounds make a fixed interval.
    pub fn new(min: Duration, max: Duration) -> Result<Self, InvalidPace> {
        if min > Duration::ZERO && min <= max {
            Ok(Self { min, max })
        } else {
            Err(InvalidPace { min, max })
        }
    }

    /// The shortest interval.
    #[must_use]
    pub fn min(&self) -> Duration {
        self.min
    }

    /// The longest interval.
    #[must_use]
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The time until the next look while a bell is up.
    #[must_use]
    pub fn listening(&self) -> Duration {
        LISTENING.clamp(self.min, self.max)
    }

    /// The time until the next look; without a limit there is no hurry.
    #[must_use]
    pub fn interval(&self, distance: Option<Distance>) -> Duration {
        let Some(distance) = distance else {
            return self.max;
        };
        let bytes = distance
            .headroom_bytes
            .saturating_sub(distance.critical_headroom_bytes);
        let measured = distance
            .growth_bytes_per_s
            .and_then(|rate| u64::try_from(rate).ok());
        let rate = measured.unwrap_or(0).max(SUDDEN);
        let looks = if distance.workers {
            LOOKS
        } else {
            LOOKS_WITHOUT_WORKERS
        };
        let micros = u128::from(bytes) * 1_000_000 / (u128::from(rate) * u128::from(looks));
        let wanted = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        let least = if distance.moves {
            self.min
        } else {
            self.min.max(AT_REST).min(self.max)
        };
        wanted.clamp(least, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watermarks::Watermarks;
    use proptest::prelude::*;

    const MB: u64 = 1_000_000;
    const MIB: u64 = 1024 * 1024;

    fn distance(limit: u64, used: u64, growth: Option<i64>) -> Distance {
        Distance {
            headroom_bytes: limit - used,
            critical_headroom_bytes: Watermarks::Auto.headroom(limit).critical,
            growth_bytes_per_s: growth,
            moves: false,
            workers: true,
        }
    }

    fn interval(limit: u64, used: u64, growth: Option<i64>) -> Duration {
        Pace::default().interval(Some(distance(limit, used, growth)))
    }

    /// The table of the module's documentation.
    #[test]
    fn the_documented_figures() {
        let pace = Pace::default();
        let a_second = |interval: Duration| (1.0 / interval.as_secs_f64()).round() as u64;
        for (limit_mib, used_mb, moves, expected) in [
            (512, 60, false, [18, 9, 4]),
            (512, 230, false, [29, 14, 4]),
            (512, 400, false, [74, 37, 4]),
            (2048, 300, false, [4, 2, 4]),
            (16 * 1024, 2000, false, [1, 1, 1]),
            (512, 490, false, [200, 200, 4]),
            (512, 530, false, [200, 200, 4]),
            (512, 505, true, [1000, 1000, 1000]),
        ] {
            let of = |workers| {
                let distance = distance(limit_mib * MIB, used_mb * MB, None);
                pace.interval(Some(Distance {
                    moves,
                    workers,
                    ..distance
                }))
            };
            // While memory moves nobody waits for a bell.
            let listening = if moves {
                of(true)
            } else {
                of(true).max(pace.listening())
            };
            let got = [of(true), of(false), listening].map(a_second);
            assert_eq!(got, expected, "{limit_mib} MiB with {used_mb} MB used");
        }
    }

    #[test]
    fn far_from_the_limit_nobody_registered_costs_ten_looks_a_second_at_most() {
        let alone = Distance {
            workers: false,
            ..distance(512 * MIB, 60 * MB, None)
        };
        assert!(Pace::default().interval(Some(alone)) >= Duration::from_millis(100));
    }

    #[test]
    fn measured_growth_beyond_the_assumed_one_shortens_it() {
        let calm = interval(2048 * MIB, 300 * MB, Some(100 * MB as i64));
        assert_eq!(calm, interval(2048 * MIB, 300 * MB, None));
        let fast = interval(2048 * MIB, 300 * MB, Some(4000 * MB as i64));
        assert_eq!(fast.as_millis(), calm.as_millis() / 2);
    }

    #[test]
    fn without_a_limit_it_rests() {
        assert_eq!(Pace::default().interval(None), Duration::from_millis(1000));
    }

    #[test]
    fn equal_bounds_fix_it() {
        let ms = Duration::from_millis;
        let fixed = Pace::new(ms(7), ms(7)).unwrap_or_default();
        assert_eq!(fixed.interval(None), ms(7));
        let near = Distance {
            headroom_bytes: 0,
            critical_headroom_bytes: 1,
            growth_bytes_per_s: None,
            moves: true,
            workers: true,
        };
        assert_eq!(fixed.interval(Some(near)), ms(7));
        assert_eq!(fixed.listening(), ms(7));
    }

    #[test]
    fn bounds_are_checked() {
        let ms = Duration::from_millis;
        assert!(Pace::new(ms(0), ms(5)).is_err());
        let error = Pace::new(ms(6), ms(5)).map_err(|e| e.to_string());
        assert!(error.is_err_and(|e| e.contains("min 6ms, max 5ms")));
    }

    proptest! {
        #[test]
        fn within_bounds_and_shorter_the_nearer(
            a in any::<u64>(), b in any::<u64>(), critical in any::<u64>(),
            growth in prop::option::of(any::<i64>()),
        ) {
            let pace = Pace::default();
            let of = |headroom_bytes| pace.interval(Some(Distance {
                headroom_bytes,
                critical_headroom_bytes: critical,
                growth_bytes_per_s: growth,
                moves: true,
                workers: true,
            }));
            prop_assert!(of(a.min(b)) <= of(a.max(b)));
            prop_assert!(of(a) >= pace.min && of(a) <= pace.max);
        }

        /// Idle, then a burst at full speed: the watermark is not passed within one interval.
        #[test]
        fn a_sudden_burst_is_seen_before_critical(headroom in 0u64..1 << 40) {
            let critical = 200 * MIB;
            let distance = Distance {
                headroom_bytes: critical + headroom,
                critical_headroom_bytes: critical,
                growth_bytes_per_s: None,
                moves: false,
                workers: true,
            };
            let interval = Pace::default().interval(Some(distance));
            if interval > AT_REST {
                let grown = u128::from(SUDDEN) * interval.as_micros() / 1_000_000;
                prop_assert!(grown <= u128::from(headroom / 3));
            }
        }
    }
}
