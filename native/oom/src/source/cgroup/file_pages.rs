//! The share of a cgroup's file pages the kernel takes back before it kills.

use crate::parse::MemoryStat;

const MIB: u64 = 1024 * 1024;

/// Mapped pages are mostly program text and libraries. The kernel can take mapped pages, but a
/// node without them stands still. So a reserve of mapped pages counts as used; the VM and its
/// libraries map some 20 MiB.
const RESERVE_SHARE: u64 = 32;
const RESERVE_MOST_BYTES: u64 = 32 * MIB;

/// The kernel takes dirty pages as well, after a while: at a limit of 400 MiB with 220 MiB of
/// dirty pages and 150 MiB more taken as fast as possible, the kernel wrote and took the pages in
/// 0.3 s and killed nobody. Without demand dirty pages lie there for 30 s, and a node is not in
/// trouble because a log is written. But a disk may be slow, so some of the dirty pages count as
/// used.
const DIRTY_SHARE: u64 = 16;
const DIRTY_MOST_BYTES: u64 = 128 * MIB;

/// Returns all file pages, active pages (read more than once) included. Shared memory does not
/// count.
pub(super) fn all_bytes(stat: &MemoryStat) -> u64 {
    stat.active_file_bytes
        .saturating_add(stat.inactive_file_bytes)
}

/// Returns the reclaimable file pages: all, less the pages a working node needs, pages a disk is
/// busy with, and `thrashing_bytes`, pages taken lately and read again.
pub(super) fn reclaimable_bytes(stat: &MemoryStat, limit_bytes: u64, thrashing_bytes: u64) -> u64 {
    let mapped = (limit_bytes / RESERVE_SHARE).min(RESERVE_MOST_BYTES);
    let dirty = (limit_bytes / DIRTY_SHARE).min(DIRTY_MOST_BYTES);
    all_bytes(stat)
        .saturating_sub(stat.writeback_bytes)
        .saturating_sub(stat.dirty_bytes.min(dirty))
        .saturating_sub(stat.mapped_bytes.min(mapped))
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
    fn those_that_are_being_written_do_not() {
        let written = |writeback_bytes| MemoryStat {
            writeback_bytes,
            ..stat()
        };
        assert_eq!(
            reclaimable_bytes(&written(50 * MIB), 512 * MIB, 0),
            250 * MIB
        );
        assert_eq!(reclaimable_bytes(&written(u64::MAX), 512 * MIB, 0), 0);
    }

    #[test]
    fn dirty_ones_are_kept_up_to_a_share_of_the_limit() {
        let dirty = |mib, limit_mib| {
            let stat = MemoryStat {
                dirty_bytes: mib * MIB,
                ..stat()
            };
            300 - reclaimable_bytes(&stat, limit_mib * MIB, 0) / MIB
        };
        assert_eq!(dirty(10, 512), 10);
        assert_eq!(dirty(200, 512), 32);
        assert_eq!(dirty(200, 64 << 10), 128);
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
