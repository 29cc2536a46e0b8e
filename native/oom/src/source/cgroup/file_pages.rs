//! Of the file pages of a cgroup, what the kernel takes back before it kills.

use crate::parse::MemoryStat;

const MIB: u64 = 1024 * 1024;

/// Mapped pages are program text and libraries for the most part. They can be taken, but a node
/// that runs without them stands still. So much of them counts as used; the VM and its libraries
/// map some 20 MiB.
const RESERVE_SHARE: u64 = 32;
const RESERVE_MOST_BYTES: u64 = 32 * MIB;

/// All file pages: active ones too, which were read more than once. Shared memory is none.
pub(super) fn all_bytes(stat: &MemoryStat) -> u64 {
    stat.active_file_bytes
        .saturating_add(stat.inactive_file_bytes)
}

/// Those that are taken without waiting for a disk, less what a working node needs.
/// `thrashing_bytes` are those that were taken lately and had to be read again.
pub(super) fn reclaimable_bytes(stat: &MemoryStat, limit_bytes: u64, thrashing_bytes: u64) -> u64 {
    let clean = all_bytes(stat)
        .saturating_sub(stat.dirty_bytes)
        .saturating_sub(stat.writeback_bytes);
    let reserve = (limit_bytes / RESERVE_SHARE).min(RESERVE_MOST_BYTES);
    clean
        .saturating_sub(stat.mapped_bytes.min(reserve))
        .saturating_sub(thrashing_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat() -> MemoryStat {
        MemoryStat {
            active_file_bytes: 200 * MIB,
            inactive_file_bytes: 100 * MIB,
            ..MemoryStat::default()
        }
    }

    #[test]
    fn active_pages_count_as_well() {
        assert_eq!(reclaimable_bytes(&stat(), 512 * MIB, 0), 300 * MIB);
    }

    #[test]
    fn those_to_be_written_do_not() {
        let stat = MemoryStat {
            dirty_bytes: 50 * MIB,
            writeback_bytes: 20 * MIB,
            ..stat()
        };
        assert_eq!(reclaimable_bytes(&stat, 512 * MIB, 0), 230 * MIB);
        let all_dirty = MemoryStat {
            dirty_bytes: u64::MAX,
            ..stat
        };
        assert_eq!(reclaimable_bytes(&all_dirty, 512 * MIB, 0), 0);
    }

    #[test]
    fn mapped_ones_are_kept_up_to_a_share_of_the_limit() {
        let mapped = |mib, limit_mib| {
            let stat = MemoryStat {
                mapped_bytes: mib * MIB,
                ..stat()
            };
            300 - reclaimable_bytes(&stat, limit_mib * MIB, 0) / MIB
        };
        assert_eq!(mapped(10, 512), 10);
        assert_eq!(mapped(100, 512), 16);
        assert_eq!(mapped(100, 64 << 10), 32);
    }

    #[test]
    fn those_that_come_back_at_once_are_kept() {
        assert_eq!(reclaimable_bytes(&stat(), 512 * MIB, 60 * MIB), 240 * MIB);
        assert_eq!(reclaimable_bytes(&stat(), 512 * MIB, u64::MAX), 0);
    }
}
