//! How fast the working set grows, from timestamped samples.
//!
//! The rate is the median slope of the last three segments, each at least [`SEGMENT`] long. One
//! odd sample, or one step (a garbage collection, a large binary), bends at most two neighbouring
//! segments, in opposite directions. Growth counts once two segments show growth. Sampled every
//! millisecond a ramp is seen in full after 20 ms. Sampled once a second, a segment is the stretch
//! between two samples and detection takes two seconds.
//!
//! Steps further apart than a segment read as no growth here: a single step may be a collection,
//! or a large binary. Many steps are growth all the same, of workers that sleep in between, and
//! [`Growth::drift_bytes_per_s`] sees the growth within 1.2 s. Growth at hardware speed cannot
//! wait for two segments: [`Growth::surge_bytes_per_s`] sees it within 4 ms. The reaction to both
//! (the throttle) harms nobody.

use std::time::Duration;

use crate::reading::Reading;

/// The shortest stretch worth a slope: below it, single pages and single samples rule.
pub const SEGMENT: Duration = Duration::from_millis(10);

/// The stretch of a surge: short enough to stop growth at hardware speed in time, long enough that
/// the kernel's batches of charges do not look like growth.
const SURGE: Duration = Duration::from_millis(2);

/// Less growth in both stretches of a surge is one step, wherever the samples fall.
const SURGE_BYTES: u64 = 2 << 20;

/// The stretch of a trend: a turn of the throttle, in which growth comes and goes.
const TREND: Duration = Duration::from_millis(60);

/// Closer samples add nothing and would push older samples out.
const SPACING: Duration = Duration::from_micros(500);

/// A [`TREND`] of samples at [`SPACING`], and the two ends.
const CAPACITY: usize = 160;

/// The stretch of a drift: longer than the gap between two steps of a worker with a step each
/// 500 ms, and a late wake-up.
const DRIFT: Duration = Duration::from_millis(600);

/// Samples for a drift need not be closer together.
const DRIFT_SPACING: Duration = Duration::from_millis(25);

/// [`LONGEST`] of samples at [`DRIFT_SPACING`], and the ends; two [`DRIFT`]s are shorter.
const DRIFT_CAPACITY: usize = 96;

/// The longest window of [`Growth::lasting_bytes_per_s`].
pub const LONGEST: Duration = Duration::from_secs(2);

/// So many seconds the highest working set is known.
const PEAK_SECONDS: usize = 10;

#[derive(Clone, Copy, Debug, Default)]
struct Point {
    at: Duration,
    bytes: u64,
}

/// Identity of the limit: samples of different limits are not comparable.
#[derive(Clone, Debug)]
struct Subject(Reading);

impl Subject {
    fn same(&self, other: &Reading) -> bool {
        let Subject(mine) = self;
        mine.kind == other.kind
            && mine.limit_bytes == other.limit_bytes
            && mine.file == other.file
            && mine.cgroup == other.cgroup
    }
}

/// The recent past of the working set of one limit.
#[derive(Debug, Default)]
pub struct Growth {
    subject: Option<Subject>,
    newest: Point,
    past: Ring<CAPACITY>,
    long_past: Ring<DRIFT_CAPACITY>,
    peaks: Peaks,
}

impl Growth {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the past: the recorded samples are not comparable with coming samples.
    pub fn forget(&mut self) {
        self.past.clear();
        self.long_past.clear();
        self.peaks = Peaks::default();
    }

    /// Records a sample. A changed limit, or none, forgets the past.
    pub fn record(&mut self, at: Duration, binding: Option<&Reading>) {
        let Some(reading) = binding else {
            self.subject = None;
            self.forget();
            return;
        };
        if !self
            .subject
            .as_ref()
            .is_some_and(|subject| subject.same(reading))
        {
            self.subject = Some(Subject(reading.clone()));
            self.forget();
        }
        self.newest = Point {
            at,
            bytes: reading.working_set_bytes,
        };
        self.past.push(self.newest, SPACING);
        self.long_past.push(self.newest, DRIFT_SPACING);
        self.peaks.push(self.newest);
    }

    /// The highest working set of the last [`PEAK_SECONDS`], as far as samples saw it. A node in
    /// use comes back to it again and again; a leak goes beyond.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        self.peaks.most()
    }

    /// Bytes per second over the last moments: the lesser slope of the last two stretches of at
    /// least [`SURGE`] each, so one step is no surge. 0 where nothing grows.
    #[must_use]
    pub fn surge_bytes_per_s(&self) -> u64 {
        self.twice(&self.past, SURGE, SURGE_BYTES)
    }

    /// The same over the last two stretches of at least [`DRIFT`] each: continued growth in steps
    /// far apart. A drift stays known for a while after its end.
    #[must_use]
    pub fn drift_bytes_per_s(&self) -> u64 {
        self.twice(&self.long_past, DRIFT, 0)
    }

    /// The lesser slope of the last two stretches of at least this length; 0 unless both together
    /// have grown by `least_bytes`.
    fn twice<const N: usize>(&self, past: &Ring<N>, stretch: Duration, least_bytes: u64) -> u64 {
        let mut least = None;
        let mut end = self.newest;
        let mut known = 0;
        for point in past.newest_first() {
            if end.at.saturating_sub(point.at) < stretch {
                continue;
            }
            let rate = u64::try_from(slope(point, end)).unwrap_or(0);
            least = Some(least.map_or(rate, |other: u64| other.min(rate)));
            known += 1;
            end = point;
            if known == 2 {
                let grown = self.newest.bytes.saturating_sub(point.bytes);
                return least.filter(|_| grown >= least_bytes).unwrap_or(0);
            }
        }
        0
    }

    /// Bytes per second over the whole of a window up to [`LONGEST`], 0 where nothing has grown: what
    /// a steady node allocates and frees again counts little.
    ///
    /// Between two samples the working set counts as it was at the first, so growth after a rest
    /// with few samples is not spread over the rest.
    #[must_use]
    pub fn lasting_bytes_per_s(&self, window: Duration) -> u64 {
        let window = window.clamp(SEGMENT, LONGEST);
        let begin = self.newest.at.saturating_sub(window);
        let then = self.past.at(begin).or_else(|| self.long_past.at(begin));
        let then = then.or_else(|| self.long_past.newest_first().last());
        let grown = then.map_or(0, |then| self.newest.bytes.saturating_sub(then.bytes));
        let per_s = u128::from(grown) * 1_000_000_000 / window.as_nanos().max(1);
        u64::try_from(per_s).unwrap_or(u64::MAX)
    }

    /// Bytes per second over the last [`TREND`], or over the known past where shorter; negative
    /// when the working set shrinks.
    #[must_use]
    pub fn trend_bytes_per_s(&self) -> i64 {
        let mut oldest = self.newest;
        for point in self.past.newest_first() {
            oldest = point;
            if self.newest.at.saturating_sub(point.at) >= TREND {
                break;
            }
        }
        if self.newest.at.saturating_sub(oldest.at) < SEGMENT {
            return 0;
        }
        slope(oldest, self.newest)
    }

    /// Bytes per second, negative when the working set shrinks; `None` until two segments are
    /// known.
    #[must_use]
    pub fn bytes_per_s(&self) -> Option<i64> {
        self.subject.as_ref()?;
        let mut slopes = [0i64; 3];
        let mut known = 0;
        let mut end = self.newest;
        for point in self.past.newest_first() {
            if end.at.saturating_sub(point.at) < SEGMENT {
                continue;
            }
            let Some(slot) = slopes.get_mut(known) else {
                break;
            };
            *slot = slope(point, end);
            known += 1;
            end = point;
        }
        match (known, slopes) {
            (3, [a, b, c]) => Some(a.max(b).min(a.min(b).max(c))),
            (2, [a, b, _]) => Some(a.min(b)),
            _ => None,
        }
    }
}

/// How long `headroom_bytes` last at `bytes_per_s`; `None` when nothing grows.
#[must_use]
pub fn time_to_exhaustion(headroom_bytes: u64, bytes_per_s: Option<i64>) -> Option<Duration> {
    let rate = u64::try_from(bytes_per_s?).ok().filter(|rate| *rate > 0)?;
    let micros = u128::from(headroom_bytes) * 1_000_000 / u128::from(rate);
    Some(Duration::from_micros(
        u64::try_from(micros).unwrap_or(u64::MAX),
    ))
}

fn slope(from: Point, to: Point) -> i64 {
    let nanos = (to.at - from.at).as_nanos().max(1) as i128;
    let per_s = (i128::from(to.bytes) - i128::from(from.bytes)) * 1_000_000_000 / nanos;
    per_s.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// The highest working set of each of the last seconds.
#[derive(Debug, Default)]
struct Peaks {
    second: u64,
    most: [u64; PEAK_SECONDS],
}

impl Peaks {
    fn push(&mut self, point: Point) {
        let now = point.at.as_secs();
        let passed = now.saturating_sub(self.second).min(PEAK_SECONDS as u64);
        for second in 0..passed {
            self.slot(now - second, |_| 0);
        }
        self.second = self.second.max(now);
        self.slot(self.second, |most| most.max(point.bytes));
    }

    fn slot(&mut self, second: u64, change: impl Fn(u64) -> u64) {
        let index = usize::try_from(second % PEAK_SECONDS as u64).unwrap_or(0);
        if let Some(most) = self.most.get_mut(index) {
            *most = change(*most);
        }
    }

    fn most(&self) -> u64 {
        self.most.iter().copied().max().unwrap_or(0)
    }
}

/// A ring of the last points, in place.
#[derive(Debug)]
struct Ring<const N: usize> {
    points: [Point; N],
    /// Points ever pushed since the last clear.
    pushed: usize,
}

impl<const N: usize> Default for Ring<N> {
    fn default() -> Self {
        Self {
            points: [Point::default(); N],
            pushed: 0,
        }
    }
}

impl<const N: usize> Ring<N> {
    fn clear(&mut self) {
        self.pushed = 0;
    }

    /// Adds a point, unless the last point is closer than `spacing`.
    fn push(&mut self, point: Point, spacing: Duration) {
        if self.last().is_some_and(|last| point.at < last.at + spacing) {
            return;
        }
        if let Some(slot) = self.points.get_mut(self.pushed % N) {
            *slot = point;
        }
        self.pushed = self.pushed.wrapping_add(1);
    }

    fn last(&self) -> Option<Point> {
        self.newest_first().next()
    }

    /// The newest point at this time or before.
    fn at(&self, time: Duration) -> Option<Point> {
        self.newest_first().find(|point| point.at <= time)
    }

    fn newest_first(&self) -> impl Iterator<Item = Point> + '_ {
        let oldest = self.pushed.saturating_sub(N);
        (oldest..self.pushed)
            .rev()
            .filter_map(|i| self.points.get(i % N).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::Kind;
    use proptest::prelude::*;

    const MB: u64 = 1_000_000;

    fn reading(working_set_bytes: u64) -> Reading {
        Reading {
            kind: Kind::Configured,
            limit_bytes: 10_000 * MB,
            usage_bytes: working_set_bytes,
            reclaimable_bytes: 0,
            working_set_bytes,
            file: None,
            cgroup: None,
        }
    }

    /// Feeds samples `step` apart and gives the rate after each.
    fn rates(step: Duration, sets: impl IntoIterator<Item = u64>) -> Vec<Option<i64>> {
        let mut growth = Growth::new();
        let mut at = Duration::ZERO;
        sets.into_iter()
            .map(|set| {
                growth.record(at, Some(&reading(set)));
                at += step;
                growth.bytes_per_s()
            })
            .collect()
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_ramp_is_seen_in_full_after_two_segments() {
        // 1 GB/s from the 50th millisecond on.
        let seen = rates(
            MS,
            (0..100u64).map(|ms| 100 * MB + ms.saturating_sub(50) * MB),
        );
        assert_eq!(seen.get(50).copied().flatten(), Some(0));
        assert_eq!(seen.get(70).copied().flatten(), Some(1_000_000_000));
        assert_eq!(seen.get(99).copied().flatten(), Some(1_000_000_000));
    }

    #[test]
    fn one_odd_sample_and_one_step_are_not_growth() {
        for sets in [
            (0..100u64)
                .map(|ms| if ms == 50 { 900 * MB } else { 100 * MB })
                .collect::<Vec<_>>(),
            (0..100u64)
                .map(|ms| if ms >= 50 { 900 * MB } else { 100 * MB })
                .collect(),
        ] {
            let worst = rates(MS, sets).into_iter().flatten().max();
            assert_eq!(worst, Some(0));
        }
    }

    #[test]
    fn nothing_is_known_before_two_segments() {
        let seen = rates(MS, (0..21u64).map(|ms| ms * MB));
        assert!(seen.iter().take(20).all(Option::is_none));
        assert_eq!(seen.last().copied().flatten(), Some(1_000_000_000));
    }

    #[test]
    fn sparse_samples_work_too() {
        let seen = rates(
            Duration::from_secs(1),
            [100, 100, 150, 200, 250].map(|mb| mb * MB),
        );
        assert_eq!(
            seen,
            [
                None,
                None,
                Some(0),
                Some(50 * MB as i64),
                Some(50 * MB as i64)
            ]
        );
    }

    #[test]
    fn shrinking_is_negative() {
        let seen = rates(MS, (0..50u64).map(|ms| 100 * MB - ms * MB));
        assert_eq!(seen.last().copied().flatten(), Some(-1_000_000_000));
    }

    #[test]
    fn samples_in_a_flood_do_not_push_the_past_out() {
        let flood = Duration::from_micros(5);
        let seen = rates(flood, (0..10_000u64).map(|i| 100 * MB + i * 5000));
        assert_eq!(seen.last().copied().flatten(), Some(1_000_000_000));
    }

    #[test]
    fn another_limit_forgets_the_past() {
        let mut growth = Growth::new();
        for ms in 0..40u64 {
            growth.record(MS * ms as u32, Some(&reading(ms * MB)));
        }
        assert!(growth.bytes_per_s().is_some());
        let resized = Reading {
            limit_bytes: 5000 * MB,
            ..reading(41 * MB)
        };
        growth.record(MS * 41, Some(&resized));
        assert_eq!(growth.bytes_per_s(), None);
        growth.record(MS * 42, None);
        assert_eq!(growth.bytes_per_s(), None);
    }

    #[test]
    fn a_surge_is_seen_after_two_stretches_and_one_step_is_none() {
        let surge = |sets: Vec<u64>| {
            let mut growth = Growth::new();
            for (ms, set) in sets.into_iter().enumerate() {
                growth.record(MS * ms as u32, Some(&reading(set)));
            }
            growth.surge_bytes_per_s()
        };
        let ramp = |to: u64| (0..to).map(|ms| 100 * MB + ms.saturating_sub(20) * MB);
        assert_eq!(surge(ramp(21).collect()), 0);
        assert_eq!(surge(ramp(25).collect()), 1_000_000_000);
        let step = |to: u64| (0..to).map(|ms| if ms < 20 { 100 * MB } else { 130 * MB });
        for to in 20..30 {
            assert_eq!(surge(step(to).collect()), 0, "{to} samples");
        }
        assert_eq!(surge((0..30).map(|ms| 100 * MB - ms * MB).collect()), 0);
    }

    #[test]
    fn a_trend_does_not_see_the_turns_of_the_throttle() {
        let mut growth = Growth::new();
        // 10 MB in the first 5 ms of each turn of 60 ms: 167 MB a second.
        for ms in 0..600u64 {
            let set = ms / 60 * 10 + (ms % 60).min(5) * 2;
            growth.record(MS * ms as u32, Some(&reading((100 + set) * MB)));
            if ms >= 60 {
                let trend = growth.trend_bytes_per_s();
                assert!(
                    (166_000_000..=167_000_000).contains(&trend),
                    "{ms}: {trend}"
                );
            }
        }
    }

    #[test]
    fn steps_that_lie_far_apart_are_a_drift_and_one_of_them_is_none() {
        // By 1 MB each so many ms, until a time; for 3 s.
        let drifts = |every: u64, until: u64| {
            let mut growth = Growth::new();
            let mut seen = Vec::new();
            for ms in 0..3000u64 {
                growth.record(
                    MS * ms as u32,
                    Some(&reading((100 + ms.min(until) / every) * MB)),
                );
                assert_eq!(growth.bytes_per_s().unwrap_or(0).max(0), 0, "{every}: {ms}");
                seen.push(growth.drift_bytes_per_s());
            }
            seen
        };
        for every in [65, 200, 500] {
            let seen = drifts(every, 3000);
            assert!(
                seen.iter()
                    .skip(1300)
                    .all(|rate| *rate > 500_000_000 / every),
                "{every}"
            );
            assert!(seen.iter().all(|rate| *rate <= 2_000_000_000 / every));
            // It ends.
            assert_eq!(drifts(every, 2000).last(), Some(&0));
        }
        // One step, or one finished climb.
        assert!(drifts(1500, 3000).iter().all(|rate| *rate == 0));
        assert!(drifts(100, 500).iter().all(|rate| *rate == 0));
    }

    #[test]
    fn lasting_growth_is_what_a_window_has_added() {
        let ms = Duration::from_millis;
        let mut growth = Growth::new();
        // 10 MB come and go within 40 ms, and from the 3rd second on 100 MB/s stay.
        for at in 0..4000u64 {
            let swing = if at % 40 < 20 { at % 20 } else { 20 - at % 20 } / 2;
            let leak = at.saturating_sub(3000) / 10;
            growth.record(MS * at as u32, Some(&reading((100 + swing + leak) * MB)));
            if (1000..3000).contains(&at) {
                assert!(growth.lasting_bytes_per_s(ms(500)) <= 20 * MB, "{at}");
                assert!(growth.lasting_bytes_per_s(ms(2000)) <= 5 * MB, "{at}");
            }
        }
        assert!(growth.lasting_bytes_per_s(ms(500)) >= 80 * MB);
        assert!((40 * MB..=60 * MB).contains(&growth.lasting_bytes_per_s(ms(2000))));
        // No window is longer than the past on record.
        assert_eq!(
            growth.lasting_bytes_per_s(ms(9000)),
            growth.lasting_bytes_per_s(LONGEST)
        );
    }

    #[test]
    fn a_peak_is_known_for_ten_seconds() {
        let mut growth = Growth::new();
        let mut at = |ms: u64, mb: u64| {
            growth.record(MS * ms as u32, Some(&reading(mb * MB)));
            growth.peak_bytes() / MB
        };
        assert_eq!(at(1_100, 100), 100);
        assert_eq!(at(1_200, 300), 300);
        assert_eq!(at(1_300, 200), 300);
        assert_eq!(at(10_900, 50), 300);
        assert_eq!(at(11_000, 50), 50);
        assert_eq!(at(11_500, 70), 70);
        // A long rest.
        assert_eq!(at(100_000, 10), 10);
        growth.forget();
        assert_eq!(growth.peak_bytes(), 0);
    }

    #[test]
    fn a_rest_with_few_samples_does_not_thin_growth_out() {
        let mut growth = Growth::new();
        assert_eq!(growth.lasting_bytes_per_s(SEGMENT), 0);
        growth.record(MS, Some(&reading(100 * MB)));
        assert_eq!(growth.lasting_bytes_per_s(SEGMENT), 0);
        growth.record(MS * 5000, Some(&reading(110 * MB)));
        assert_eq!(
            growth.lasting_bytes_per_s(Duration::from_millis(500)),
            20 * MB
        );
        growth.record(MS * 5001, Some(&reading(90 * MB)));
        assert_eq!(growth.lasting_bytes_per_s(Duration::from_millis(500)), 0);
    }

    #[test]
    fn time_to_exhaustion_needs_growth() {
        assert_eq!(time_to_exhaustion(500 * MB, None), None);
        assert_eq!(time_to_exhaustion(500 * MB, Some(0)), None);
        assert_eq!(time_to_exhaustion(500 * MB, Some(-5)), None);
        assert_eq!(
            time_to_exhaustion(500 * MB, Some(1_000_000_000)),
            Some(Duration::from_millis(500))
        );
        assert_eq!(time_to_exhaustion(0, Some(1)), Some(Duration::ZERO));
        assert!(time_to_exhaustion(u64::MAX, Some(1)).is_some());
    }

    proptest! {
        /// Steady growth is measured exactly, however the samples are spaced.
        #[test]
        fn steady_growth_is_measured(
            gaps in prop::collection::vec(500u64..50_000, 60..120),
            mb_per_s in 1u64..4000,
        ) {
            let mut growth = Growth::new();
            let mut micros = 0;
            for gap in gaps {
                micros += gap;
                growth.record(Duration::from_micros(micros), Some(&reading(micros * mb_per_s)));
            }
            prop_assert_eq!(growth.bytes_per_s(), Some((mb_per_s * MB) as i64));
        }

        /// Any history, clocks that stand still included: no panic, and never faster than the
        /// steepest pair of samples allows.
        #[test]
        fn never_steeper_than_the_data(
            points in prop::collection::vec((0u64..20_000, 0u64..1000), 2..200),
        ) {
            let mut growth = Growth::new();
            let mut micros = 0;
            let (mut least, mut most) = (u64::MAX, 0);
            for (gap, mb) in points {
                micros += gap;
                let bytes = mb * MB;
                (least, most) = (least.min(bytes), most.max(bytes));
                growth.record(Duration::from_micros(micros), Some(&reading(bytes)));
                if let Some(rate) = growth.bytes_per_s() {
                    // No segment is shorter than SEGMENT, a 100th of a second.
                    prop_assert!(rate.unsigned_abs() <= (most - least) * 100);
                }
            }
        }
    }
}
