//! Memory that counts as used and yet is free to us: blocks inside the allocator's carriers,
//! which the system does not get back but which are used before it is asked for more.
//!
//! Who counts only what the system sees stays critical for as long as carriers are fragmented,
//! which may be for ever. So slack counts as headroom, within limits: it is not measured here but
//! told from time to time, growth since then and the growth to come are taken from it, because
//! growth of the working set shows that slack does not serve it, and near the end it is no comfort.

use crate::reading::Reading;
use crate::watermarks::PerLevel;

/// Longer than it takes from the first sign of a leak to the memory of its victims.
const HORIZON_MS: u64 = 300;

/// Slack as last measured, and the working set at that time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slack {
    bytes: u64,
    working_set_bytes: u64,
}

impl Slack {
    #[must_use]
    pub fn new(bytes: u64, working_set_bytes: u64) -> Self {
        Self {
            bytes,
            working_set_bytes,
        }
    }

    /// What is left of it: growth has used it up, or shows that it cannot be used.
    #[must_use]
    pub fn left(&self, reading: &Reading) -> u64 {
        let grown = reading
            .working_set_bytes
            .saturating_sub(self.working_set_bytes);
        self.bytes.saturating_sub(grown)
    }

    /// The headroom a level is judged by. Slack counts for what the present growth would leave of
    /// it in [`HORIZON_MS`]: a leak at full speed takes new memory, whatever lies free. And with
    /// less than half of the critical headroom left to the system, only that counts: the next
    /// allocation may be one that slack cannot serve.
    #[must_use]
    pub fn headroom(
        &self,
        reading: &Reading,
        begins: &PerLevel<u64>,
        growth_bytes_per_s: Option<i64>,
    ) -> u64 {
        let headroom = reading.headroom_bytes();
        if headroom < begins.critical / 2 {
            headroom
        } else {
            let growth = u64::try_from(growth_bytes_per_s.unwrap_or(0)).unwrap_or(0);
            let coming = (growth / 1000).saturating_mul(HORIZON_MS);
            headroom
                .saturating_add(self.left(reading).saturating_sub(coming))
                .min(reading.limit_bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::Kind;

    const BEGINS: PerLevel<u64> = PerLevel {
        elevated: 300,
        high: 250,
        critical: 200,
    };

    fn reading(working_set_bytes: u64) -> Reading {
        Reading {
            kind: Kind::CgroupV1,
            limit_bytes: 1000,
            usage_bytes: working_set_bytes,
            reclaimable_bytes: 0,
            working_set_bytes,
            file: None,
            cgroup: None,
        }
    }

    #[test]
    fn counts_as_headroom() {
        let slack = Slack::new(150, 800);
        assert_eq!(slack.headroom(&reading(800), &BEGINS, None), 350);
        assert_eq!(slack.headroom(&reading(700), &BEGINS, None), 450);
    }

    #[test]
    fn growth_takes_it_away() {
        let slack = Slack::new(150, 800);
        assert_eq!(slack.headroom(&reading(850), &BEGINS, None), 250);
        assert_eq!(slack.left(&reading(960)), 0);
    }

    #[test]
    fn growth_to_come_takes_it_away_too() {
        let slack = Slack::new(150, 800);
        let headroom = |growth| slack.headroom(&reading(800), &BEGINS, Some(growth));
        assert_eq!(headroom(1_000), 200);
        assert_eq!(headroom(-1_000), 350);
        assert_eq!(headroom(i64::MAX), 200);
    }

    #[test]
    fn is_no_comfort_near_the_end() {
        let slack = Slack::new(500, 901);
        assert_eq!(slack.headroom(&reading(900), &BEGINS, None), 600);
        assert_eq!(slack.headroom(&reading(901), &BEGINS, None), 99);
    }

    #[test]
    fn never_exceeds_the_limit() {
        assert_eq!(
            Slack::new(u64::MAX, 0).headroom(&reading(0), &BEGINS, None),
            1000
        );
    }
}
