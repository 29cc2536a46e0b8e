//! Tells by one figure whether anything has happened since the last sample.

use super::own::Usage;
use crate::floor::floor_bytes;
use crate::reading::{Kind, Reading};

const KIB: u64 = 1024;

/// The kernel charges in batches of 256 KiB a CPU, and `statm` lags by as much.
const NOISE_BYTES: u64 = 128 * KIB;

/// A whole machine is never as still as one VM: 3 MiB of 24 GiB.
const MACHINE_NOISE_SHARE: u64 = 8192;

/// The binding limit and its last seen usage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quiet {
    kind: Kind,
    limit_bytes: u64,
    usage_bytes: u64,
    /// Resident memory of this process at the time.
    rss_bytes: Option<u64>,
}

impl Quiet {
    pub(super) fn new(reading: &Reading, own: Option<Usage>) -> Option<Self> {
        let (kind, limit_bytes) = (reading.kind, reading.limit_bytes);
        let usage_bytes = match kind {
            // The reading may come from a dearer file, or from no file.
            Kind::RlimitAs | Kind::RlimitData | Kind::Configured => own_bytes(kind, own?)?,
            _ => reading.usage_bytes,
        };
        Some(Self {
            kind,
            limit_bytes,
            usage_bytes,
            rss_bytes: own.map(|own| own.rss_bytes),
        })
    }

    pub(super) fn kind(self) -> Kind {
        self.kind
    }

    pub(super) fn limit_bytes(self) -> u64 {
        self.limit_bytes
    }

    /// Whether this usage equals the last seen usage, within noise.
    pub(super) fn holds(self, usage_bytes: u64) -> bool {
        let noise = match self.kind {
            Kind::Host | Kind::Commit => NOISE_BYTES.max(self.limit_bytes / MACHINE_NOISE_SHARE),
            _ => NOISE_BYTES,
        };
        usage_bytes.abs_diff(self.usage_bytes) <= noise
    }

    /// Whether usage is near the limit. There usage says little: file pages make way, and usage
    /// stands still while anonymous memory grows. So the memory of this process has to stand still
    /// as well; the next sample sees growth of foreign processes in the cgroup.
    pub(super) fn is_near(self, usage_bytes: u64) -> bool {
        let room = self.limit_bytes.saturating_sub(usage_bytes);
        room <= floor_bytes(self.limit_bytes)
    }

    /// Whether the resident memory of this process equals the last seen figure, within noise.
    pub(super) fn own_holds(self, own: Option<Usage>) -> bool {
        let now = own.map(|own| own.rss_bytes);
        now.zip(self.rss_bytes)
            .is_some_and(|(now, then)| now.abs_diff(then) <= NOISE_BYTES)
    }
}

/// Returns the bytes of this process counted against a limit of this kind, by `statm`.
pub(super) fn own_bytes(kind: Kind, own: Usage) -> Option<u64> {
    match kind {
        Kind::RlimitAs => Some(own.address_space_bytes),
        Kind::RlimitData => Some(own.data_and_stack_bytes),
        Kind::Configured => Some(own.rss_bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * KIB;

    fn quiet(kind: Kind, limit_mib: u64, usage_mib: u64) -> Quiet {
        Quiet {
            kind,
            limit_bytes: limit_mib * MIB,
            usage_bytes: usage_mib * MIB,
            rss_bytes: Some(100 * MIB),
        }
    }

    #[test]
    fn a_little_is_noise_in_both_directions() {
        let quiet = quiet(Kind::CgroupV1, 512, 300);
        assert!(quiet.holds(300 * MIB + NOISE_BYTES));
        assert!(quiet.holds(300 * MIB - NOISE_BYTES));
        assert!(!quiet.holds(300 * MIB + NOISE_BYTES + 1));
        assert!(!quiet.holds(300 * MIB - NOISE_BYTES - 1));
    }

    #[test]
    fn near_the_limit_our_own_has_to_stand_still() {
        assert!(quiet(Kind::CgroupV2Max, 512, 484).is_near(484 * MIB));
        assert!(!quiet(Kind::CgroupV2Max, 512, 483).is_near(483 * MIB));
        assert!(quiet(Kind::Configured, 512, 600).is_near(600 * MIB));
        let own = |rss_bytes| {
            Some(Usage {
                address_space_bytes: 0,
                rss_bytes,
                data_and_stack_bytes: 0,
            })
        };
        let quiet = quiet(Kind::CgroupV2Max, 512, 500);
        assert!(quiet.own_holds(own(100 * MIB)));
        assert!(!quiet.own_holds(own(101 * MIB)));
        assert!(!quiet.own_holds(None));
    }

    #[test]
    fn a_machine_moves_more() {
        let host = quiet(Kind::Host, 24 << 10, 1024);
        assert!(host.holds(1027 * MIB));
        assert!(!host.holds(1028 * MIB));
    }
}
