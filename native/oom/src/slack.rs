//! Memory that counts as used and yet is free: blocks inside the allocator's carriers. The system
//! does not get the blocks back, but the VM uses them before asking for more.
//!
//! A guard counting only the system's figures would stay critical as long as carriers are
//! fragmented, possibly for ever. So slack counts as headroom, within limits. The VM tells the
//! slack from time to time. Growth since then and expected growth are subtracted, because growth
//! of the working set shows a need slack does not serve. Near the limit slack does not count.

use crate::reading::Reading;
use crate::watermarks::PerLevel;

/// Longer than the time from the first sign of a leak to the memory of its victims.
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

    /// Returns the remaining slack: growth has used slack up, or shows slack to be unusable.
    #[must_use]
    pub fn left(&self, reading: &Reading) -> u64 {
        let grown = reading
            .working_set_bytes
            .saturating_sub(self.working_set_bytes);
        self.bytes.saturating_sub(grown)
    }

    /// Returns the headroom a level is judged by. Slack counts less the present growth over
    /// [`HORIZON_MS`]: a leak at full speed takes new memory even with blocks free. With less than
    /// half of the critical headroom left to the system, slack does not count: slack may not serve
    /// the next allocation.
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
