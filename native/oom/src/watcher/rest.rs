//! Whether memory stands still, so looks may become rare; and how far memory may move before looks
//! become frequent again. No clock and no files.
//!
//! At rest the watcher asks its source to ring a bell once usage has grown by [`step_bytes`], and
//! sleeps. The bell of a cgroup rings for file pages and for foreign processes in the group as
//! well. Where such rings repeat, the watcher looks at its usual pace, which is then cheaper.

use std::time::Duration;

const MIB: u64 = 1024 * 1024;

/// Time the working set has to stand still: longer than the hold of a level on its way down
/// (0.5 s).
const SETTLES: Duration = Duration::from_secs(1);

/// The same while critical: longer than all waits of the guard there (figures, victims, a trim).
const SETTLES_CRITICAL: Duration = Duration::from_secs(2);

/// A bell ringing sooner than this after hanging up has saved nothing. Hanging up a bell costs as
/// much as some four looks.
const SOON: Duration = Duration::from_millis(250);

/// The working set stands still within this distance.
const STILL_BYTES: u64 = 2 * MIB;

/// The least step. At the worst measured growth (2 GB/s) the step lasts 2 ms, and the pages
/// charged until the kernel checks (128 pages on one CPU) and the wake-up about 1 ms more: less
/// than the 5 ms between two polls.
const STEP_BYTES: u64 = 4 * MIB;

/// Farther away from the floor a larger share of the distance is as good.
const STEP_SHARE: u64 = 8;

/// The kernel charges each CPU 64 pages in advance, which come and go without any growth.
const BATCH_BYTES: u64 = 256 * 1024;

/// Returns the bytes usage may grow unseen `distance_bytes` away from the floor; `None` where the
/// advance charges of many CPUs are too large a part of the distance.
pub(super) fn step_bytes(distance_bytes: u64, cpus: u64) -> Option<u64> {
    let share = distance_bytes / STEP_SHARE;
    let noise = cpus.saturating_mul(BATCH_BYTES);
    let step = share.max(STEP_BYTES).max(noise);
    (noise <= share.max(2 * STEP_BYTES)).then_some(step)
}

/// The recent past of the working set, for the decision about rest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rest {
    /// The position of the working set, and the time since which it has stayed near.
    since: Option<(u64, Duration)>,
    /// When the present bell was hung up.
    heard_since: Option<Duration>,
}

impl Rest {
    /// Records a look: the working set, if a limit binds.
    pub(super) fn look(&mut self, now: Duration, working_set_bytes: Option<u64>) {
        let Some(bytes) = working_set_bytes else {
            *self = Self::default();
            return;
        };
        let stands = |(then, _): (u64, Duration)| bytes.abs_diff(then) < STILL_BYTES;
        if !self.since.is_some_and(stands) {
            self.since = Some((bytes, now));
        }
    }

    /// Whether the working set has stood still for long enough.
    pub(super) fn is_calm(&self, now: Duration, critical: bool) -> bool {
        let settles = if critical { SETTLES_CRITICAL } else { SETTLES };
        self.since
            .is_some_and(|(_, since)| now.saturating_sub(since) >= settles)
    }

    /// Notes whether a bell is up now.
    pub(super) fn hears(&mut self, now: Duration, bell: bool) {
        self.heard_since = bell.then(|| self.heard_since.unwrap_or(now));
    }

    /// Notes a ring. After a bell that was up for a moment only, the next bell waits as long as
    /// after a move.
    pub(super) fn rang(&mut self, now: Duration) {
        let heard = self.heard_since.take();
        if heard.is_some_and(|since| now.saturating_sub(since) < SOON) {
            self.since = self.since.map(|(bytes, _)| (bytes, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn steps() {
        // At the floor and far away from it, with two CPUs.
        assert_eq!(step_bytes(0, 2), Some(4 * MIB));
        assert_eq!(step_bytes(13 * MIB, 2), Some(4 * MIB));
        assert_eq!(step_bytes(400 * MIB, 2), Some(50 * MIB));
        // 32 CPUs have 8 MiB in advance, 64 of them 16 MiB.
        assert_eq!(step_bytes(0, 32), Some(8 * MIB));
        assert_eq!(step_bytes(0, 64), None);
        assert_eq!(step_bytes(127 * MIB, 64), None);
        assert_eq!(step_bytes(128 * MIB, 64), Some(16 * MIB));
        assert_eq!(step_bytes(u64::MAX, u64::MAX), None);
    }

    #[test]
    fn calm_after_it_has_settled() {
        let mut rest = Rest::default();
        assert!(!rest.is_calm(MS * 5000, false));
        rest.look(MS * 100, Some(300 * MIB));
        assert!(!rest.is_calm(MS * 1099, false));
        assert!(rest.is_calm(MS * 1100, false));
        assert!(!rest.is_calm(MS * 2099, true));
        assert!(rest.is_calm(MS * 2100, true));
        // Noise.
        rest.look(MS * 1200, Some(301 * MIB));
        assert!(rest.is_calm(MS * 1200, false));
        // A move.
        rest.look(MS * 1300, Some(302 * MIB));
        assert!(!rest.is_calm(MS * 1300, false));
        assert!(rest.is_calm(MS * 2300, false));
        rest.look(MS * 2300, None);
        assert!(!rest.is_calm(MS * 9000, false));
    }

    #[test]
    fn slow_growth_is_no_rest() {
        let mut rest = Rest::default();
        for ms in 0..20_000u64 {
            // 3 MiB a second.
            let now = Duration::from_millis(ms);
            rest.look(now, Some(ms * 3 * MIB / 1000));
            assert!(!rest.is_calm(now, false));
        }
    }

    #[test]
    fn a_bell_that_rings_at_once_is_not_hung_up_again_at_once() {
        let mut rest = Rest::default();
        rest.look(MS, Some(MIB));
        rest.hears(MS * 2000, true);
        rest.hears(MS * 2200, true);
        rest.rang(MS * 2249);
        assert!(!rest.is_calm(MS * 3248, false));
        assert!(rest.is_calm(MS * 3249, false));
        // A bell that was up for longer may be replaced at once.
        rest.hears(MS * 4000, true);
        rest.rang(MS * 4250);
        assert!(rest.is_calm(MS * 4250, false));
    }

    proptest! {
        /// Usage climbing again and again over any step: never more than four bells a second, for
        /// every interval between two rings.
        #[test]
        fn a_storm_of_rings_hangs_up_few_bells(gaps in prop::collection::vec(1u64..400, 1..200)) {
            let mut rest = Rest::default();
            rest.look(Duration::ZERO, Some(MIB));
            let (mut now, mut bells) = (MS * 1000, 0u32);
            for gap in gaps {
                if rest.is_calm(now, false) {
                    rest.hears(now, true);
                    bells += 1;
                }
                now += MS * u32::try_from(gap).unwrap_or(0);
                rest.rang(now);
            }
            prop_assert!(u128::from(bells) <= 4 * now.as_millis() / 1000 + 1);
        }

        /// No step is smaller than the advance charges of the CPUs, nor larger than a step seen in
        /// time.
        #[test]
        fn a_step_is_seen_in_time(distance in 0u64..1 << 44, cpus in 1u64..512) {
            if let Some(step) = step_bytes(distance, cpus) {
                prop_assert!(step >= cpus * BATCH_BYTES);
                prop_assert!(step <= (distance / STEP_SHARE).max(2 * STEP_BYTES));
            }
        }
    }
}
