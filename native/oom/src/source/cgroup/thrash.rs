//! File pages that are taken and come back at once: pages still in use are not reclaimable.
//!
//! A refault is a taken page read again. Refaults alone are no trouble for the node: a backup that
//! reads 300 MiB again and again under 200 MiB refaults 270,000 pages a second by `read`, and
//! waits for its disk anyway. Program text and mapped files show in major faults as well: the
//! backup has 0 major faults, a process walking through a mapping larger than its cache has a
//! major fault for each page. And the walking process may be foreign to the node, so no worker
//! should die for its sake. So only pages count that are refaulted, faulted, and faulted by this
//! process. The first touch of a file is a major fault and no refault.

use std::time::Duration;

use crate::parse::MemoryStat;

/// Pages a major fault brings in at most: the kernel reads around the missing page.
const PAGES_PER_FAULT: u64 = 16;

/// Held pages fade within this time: at a steady rate the pages of one such time are held back. A
/// process walking at random through 60 MiB with room for 44 did nothing but wait, at 4,000
/// refaults and 5,000 major faults a second: 16 MiB/s, so 4 s hold back all its pages.
const FADES_IN: Duration = Duration::from_secs(4);

/// File pages held back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Thrash {
    before: Option<Counters>,
    own_major_faults: Option<u64>,
    pages: f64,
}

#[derive(Clone, Copy, Debug)]
struct Counters {
    at: Duration,
    refaulted_pages: u64,
    major_faults: u64,
}

impl Thrash {
    /// Returns the pages to hold back now. The first look has nothing to compare with, and returns
    /// 0. Major faults of this process are read only when the figures of the cgroup give reason
    /// to.
    pub(super) fn pages(
        &mut self,
        at: Duration,
        stat: &MemoryStat,
        own_major_faults: impl FnOnce() -> Option<u64>,
    ) -> u64 {
        let now = Counters {
            at,
            refaulted_pages: stat.refaulted_pages,
            major_faults: stat.major_faults,
        };
        if let Some(before) = self.before.replace(now) {
            let passed = now.at.saturating_sub(before.at);
            let refaulted = now.refaulted_pages.saturating_sub(before.refaulted_pages);
            let faults = now.major_faults.saturating_sub(before.major_faults);
            let mut new = refaulted.min(faults.saturating_mul(PAGES_PER_FAULT));
            if new > 0 {
                let faults = self.own_faults_since(own_major_faults());
                new = new.min(faults.saturating_mul(PAGES_PER_FAULT));
            }
            let passed = passed.as_secs_f64() / FADES_IN.as_secs_f64();
            let kept = (-passed).exp();
            // Pages from a long gap between looks have partly faded already.
            let came = (1.0 - kept) / passed.max(f64::EPSILON);
            self.pages = self.pages * kept + new as f64 * came.min(1.0);
        } else {
            self.own_major_faults = own_major_faults();
        }
        self.pages as u64
    }

    /// Returns the major faults since the last call; 0 where unknown.
    fn own_faults_since(&mut self, now: Option<u64>) -> u64 {
        let before = std::mem::replace(&mut self.own_major_faults, now);
        now.zip(before)
            .map_or(0, |(now, before)| now.saturating_sub(before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of ms, refaults and major faults, all faulted by this process.
    fn after(steps: &[(u64, u64, u64)]) -> Vec<u64> {
        let mut thrash = Thrash::default();
        let (mut at, mut stat) = (Duration::ZERO, MemoryStat::default());
        let mut seen = Vec::new();
        for (ms, refaulted, faults) in steps {
            at += Duration::from_millis(*ms);
            stat.refaulted_pages += refaulted;
            stat.major_faults += faults;
            seen.push(thrash.pages(at, &stat, || Some(stat.major_faults)));
        }
        seen
    }

    #[test]
    fn the_figures_at_the_start_are_no_event() {
        assert_eq!(after(&[(0, 1_000_000, 1_000_000), (1, 0, 0)]), [0, 0]);
    }

    #[test]
    fn a_file_that_is_read_again_and_again_holds_nothing_back() {
        assert_eq!(after(&[(0, 0, 0), (10, 2_700, 0), (10, 2_700, 0)]), [0; 3]);
    }

    #[test]
    fn nor_does_the_first_touch_of_a_mapped_file() {
        assert_eq!(after(&[(0, 0, 0), (10, 0, 500), (10, 0, 500)]), [0; 3]);
    }

    #[test]
    fn at_a_steady_rate_it_is_the_pages_of_four_seconds_whatever_the_interval() {
        for (ms, steps) in [(1, 40_000), (10, 4_000), (500, 80), (5_000, 16)] {
            let each = ms * 5;
            let mut all = vec![(0, 0, 0)];
            all.extend((0..steps).map(|_| (ms, each, each)));
            let held = after(&all).last().copied().unwrap_or(0);
            assert!((19_900..=20_010).contains(&held), "{ms} ms: {held}");
        }
    }

    #[test]
    fn it_fades() {
        let mut all = vec![(0, 0, 0)];
        all.extend((0..4_000).map(|_| (10, 50, 50)));
        all.extend([(4_000, 0, 0), (16_000, 0, 0), (40_000, 0, 0)]);
        let held = after(&all);
        let last = held.get(held.len() - 3..).unwrap_or_default();
        assert_eq!(last, [7_357, 134, 0]);
    }

    #[test]
    fn counters_that_go_back_and_a_clock_that_stands_are_nothing() {
        let mut thrash = Thrash::default();
        let stat = |count| MemoryStat {
            refaulted_pages: count,
            major_faults: count,
            ..MemoryStat::default()
        };
        let mut pages = |count| thrash.pages(Duration::from_secs(1), &stat(count), || Some(count));
        pages(100);
        assert_eq!(pages(50), 0);
        assert!(pages(60) <= 10);
    }

    #[test]
    fn what_others_in_the_cgroup_fault_is_not_held_back() {
        let mut thrash = Thrash::default();
        let mut pages = |ms, count, own| {
            let stat = MemoryStat {
                refaulted_pages: count,
                major_faults: count,
                ..MemoryStat::default()
            };
            thrash.pages(Duration::from_millis(ms), &stat, || own)
        };
        pages(0, 0, Some(7));
        assert_eq!(pages(10, 5_000, Some(7)), 0);
        assert_eq!(pages(20, 10_000, None), 0);
        // Unknown before; then 100 major faults of this process.
        assert_eq!(pages(30, 15_000, Some(100)), 0);
        assert!((1_590..=1_600).contains(&pages(40, 20_000, Some(200))));
    }
}
