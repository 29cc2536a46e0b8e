//! The floor: the headroom below which the guard acts at once.
//!
//! The floor is as small as a sampled guard allows: the growth of memory between two looks at
//! rest, and in the turn in which the growing processes are stopped. Above the floor the guard
//! decides by measured growth.
//!
//! | limit   | floor    | used at the floor |
//! |---------|----------|-------------------|
//! | 64 MiB  | 4 MiB    | 93.8 %            |
//! | 256 MiB | 16 MiB   | 93.8 %            |
//! | 512 MiB | 28 MiB   | 94.5 %            |
//! | 1 GiB   | 32 MiB   | 96.9 %            |
//! | 4 GiB   | 56 MiB   | 98.6 %            |
//! | 64 GiB  | 536 MiB  | 99.2 %            |

const MIB: u64 = 1024 * 1024;

/// Growth on two cores in one slice, the worst measured (a flooded mailbox, 13 MB), twice.
const SLICE_BYTES: u64 = 24 * MIB;

/// A machine with more memory has more cores growing at once.
const CORES_SHARE: u64 = 128;

/// A small limit cannot afford the full floor.
const SMALL_SHARE: u64 = 16;

/// Returns the headroom in bytes below which the guard acts at once, under this limit.
#[must_use]
pub fn floor_bytes(limit_bytes: u64) -> u64 {
    let most = SLICE_BYTES.saturating_add(limit_bytes / CORES_SHARE);
    (limit_bytes / SMALL_SHARE).min(most).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_figures() {
        for (limit_mib, floor_mib) in [
            (64, 4),
            (256, 16),
            (512, 28),
            (1024, 32),
            (4096, 56),
            (65_536, 536),
        ] {
            assert_eq!(floor_bytes(limit_mib * MIB), floor_mib * MIB);
        }
    }

    #[test]
    fn degenerate_limits_have_a_floor() {
        assert_eq!(floor_bytes(0), 1);
        assert!(floor_bytes(u64::MAX) < u64::MAX / 64);
    }
}
