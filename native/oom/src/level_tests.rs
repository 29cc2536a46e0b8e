use super::*;
use proptest::prelude::*;

const BEGINS: PerLevel<u64> = PerLevel {
    elevated: 300,
    high: 250,
    critical: 200,
};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn strain(headroom_bytes: u64, time_to_exhaustion: Option<Duration>) -> Option<Strain> {
    Some(Strain {
        limit_bytes: 1000,
        headroom_bytes,
        begins: BEGINS,
        time_to_exhaustion: same(time_to_exhaustion),
    })
}

fn same(left: Option<Duration>) -> PerLevel<Option<Duration>> {
    PerLevel {
        elevated: left,
        high: left,
        critical: left,
    }
}

fn calm(headroom: u64) -> Option<Strain> {
    strain(headroom, None)
}

#[test]
fn goes_up_at_once_and_past_levels() {
    let mut machine = Machine::default();
    assert_eq!(machine.judge(ms(0), calm(300)), Level::Normal);
    assert_eq!(machine.judge(ms(1), calm(299)), Level::Elevated);
    assert_eq!(machine.judge(ms(2), calm(249)), Level::High);
    assert_eq!(machine.judge(ms(3), calm(199)), Level::Critical);

    let mut machine = Machine::default();
    assert_eq!(machine.judge(ms(0), calm(0)), Level::Critical);
}

#[test]
fn time_to_exhaustion_raises_it_too() {
    for (left, level) in [
        (4000, Level::Normal),
        (3999, Level::Elevated),
        (999, Level::High),
        (99, Level::Critical),
    ] {
        let mut machine = Machine::default();
        assert_eq!(machine.judge(ms(0), strain(900, Some(ms(left)))), level);
    }
}

#[test]
fn leaves_critical_when_it_has_been_clear_for_its_hold() {
    let mut machine = Machine::default();
    machine.judge(ms(0), calm(100));
    assert_eq!(
        machine.judge(ms(1), calm(219)),
        Level::Critical,
        "a tenth beyond 200 is 220"
    );
    assert_eq!(machine.judge(ms(2), calm(220)), Level::Critical);
    assert_eq!(machine.judge(ms(251), calm(220)), Level::Critical);
    assert_eq!(machine.judge(ms(252), calm(220)), Level::High);
}

#[test]
fn comes_down_by_its_holds() {
    let mut machine = Machine::default();
    machine.judge(ms(0), calm(100));
    assert_eq!(machine.judge(ms(10), calm(900)), Level::Critical);
    assert_eq!(machine.judge(ms(260), calm(900)), Level::High);
    assert_eq!(machine.judge(ms(509), calm(900)), Level::High);
    assert_eq!(machine.judge(ms(510), calm(900)), Level::Elevated);
    assert_eq!(machine.judge(ms(1009), calm(900)), Level::Elevated);
    assert_eq!(machine.judge(ms(1010), calm(900)), Level::Normal);
}

#[test]
fn several_steps_at_once_when_all_are_clear_for_long_enough() {
    let mut machine = Machine::default();
    machine.judge(ms(0), calm(100));
    machine.judge(ms(1), calm(900));
    assert_eq!(machine.judge(ms(5000), calm(900)), Level::Normal);
}

#[test]
fn a_relapse_starts_the_hold_again() {
    let mut machine = Machine::default();
    machine.judge(ms(0), calm(240));
    machine.judge(ms(10), calm(900));
    machine.judge(ms(400), calm(274)); // not high any more, not clear of it either
    assert_eq!(machine.judge(ms(520), calm(900)), Level::High);
    assert_eq!(machine.judge(ms(1019), calm(900)), Level::High);
    assert_eq!(machine.judge(ms(1020), calm(900)), Level::Elevated);
}

#[test]
fn growth_alone_keeps_it_up() {
    let mut machine = Machine::default();
    machine.judge(ms(0), strain(900, Some(ms(50))));
    assert_eq!(
        machine.judge(ms(1000), strain(900, Some(ms(99)))),
        Level::Critical
    );
    assert_eq!(
        machine.judge(ms(1001), strain(900, Some(ms(100)))),
        Level::Critical
    );
    assert_eq!(
        machine.judge(ms(1251), strain(900, Some(ms(100)))),
        Level::High
    );
}

#[test]
fn no_limit_is_normal_and_forgets() {
    let mut machine = Machine::default();
    machine.judge(ms(0), calm(100));
    assert_eq!(machine.judge(ms(1), None), Level::Normal);
    assert_eq!(machine.judge(ms(2), calm(900)), Level::Normal);
}

#[test]
fn low_watermarks_can_be_left_again() {
    // Elevated from 2 % on: a tenth more headroom than 980 of 1000 does not exist.
    let begins = PerLevel {
        elevated: 980,
        high: 500,
        critical: 100,
    };
    let of = |headroom_bytes| {
        Some(Strain {
            limit_bytes: 1000,
            headroom_bytes,
            begins,
            time_to_exhaustion: same(None),
        })
    };
    let mut machine = Machine::default();
    assert_eq!(machine.judge(ms(0), of(970)), Level::Elevated);
    machine.judge(ms(1), of(990));
    assert_eq!(machine.judge(ms(1001), of(990)), Level::Normal);
}

type Step = (u64, u64, Option<u64>);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(
        (0u64..700, 0u64..=1000, prop::option::of(0u64..8000)),
        1..200,
    )
}

proptest! {
    /// A level is never left before it was clear for its hold: after the last sample that was
    /// not clear of it, at least the hold passes.
    #[test]
    fn never_flaps_within_its_hold(steps in steps()) {
        let mut machine = Machine::default();
        let mut now = 0;
        let mut last_bad = [0u64; 3];
        let mut before = Level::Normal;
        for (gap, headroom, left) in steps {
            now += gap;
            let sample = strain(headroom, left.map(ms));
            let level = machine.judge(ms(now), sample);
            for (alarm, bad) in Level::ALARMS.into_iter().zip(&mut last_bad) {
                let clear = sample.is_some_and(|s| {
                    recovered(alarm, &s) && !out_of_time(&TimeToExhaustion::default(), alarm, &s)
                });
                if !clear {
                    *bad = now;
                }
                if before >= alarm && level < alarm {
                    let hold = Hold::default().0.of(alarm).unwrap_or_default();
                    prop_assert!(ms(now - *bad) >= hold);
                }
            }
            before = level;
        }
    }

    /// With the same history, less headroom is never a lower level.
    #[test]
    fn monotone_in_headroom(history in steps(), a in 0u64..=1000, b in 0u64..=1000) {
        let judge = |headroom| {
            let mut machine = Machine::default();
            let mut now = 0;
            for (gap, headroom, left) in &history {
                now += gap;
                machine.judge(ms(now), strain(*headroom, left.map(ms)));
            }
            machine.judge(ms(now + 1), calm(headroom))
        };
        prop_assert!(judge(a.min(b)) >= judge(a.max(b)));
    }

    /// The level is never lower than the sample alone demands.
    #[test]
    fn never_below_what_the_sample_demands(steps in steps()) {
        let mut machine = Machine::default();
        let mut now = 0;
        for (gap, headroom, left) in steps {
            now += gap;
            let sample = strain(headroom, left.map(ms));
            let level = machine.judge(ms(now), sample);
            prop_assert!(level >= Machine::default().judge(ms(0), sample));
        }
    }

    /// Left alone, every history ends at normal.
    #[test]
    fn calm_ends_at_normal(steps in steps()) {
        let mut machine = Machine::default();
        let mut now = 0;
        for (gap, headroom, left) in steps {
            now += gap;
            machine.judge(ms(now), strain(headroom, left.map(ms)));
        }
        machine.judge(ms(now + 1), calm(900));
        prop_assert_eq!(machine.judge(ms(now + 1001), calm(900)), Level::Normal);
    }
}
