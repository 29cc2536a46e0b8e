//! `memory.stat` of a cgroup: the reclaimable part of the charged memory.

use super::lines;
use super::value::digits;

/// The relevant figures of one `memory.stat`. A figure the kernel does not show is 0, except where
/// 0 would be misleading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStat {
    /// File pages used once or briefly (inactive), and used again (active). Shared memory and
    /// tmpfs are in neither: their pages lie on the anonymous lists.
    pub inactive_file_bytes: u64,
    pub active_file_bytes: u64,
    /// File pages that have to be written before reclaim, and file pages being written.
    pub dirty_bytes: u64,
    pub writeback_bytes: u64,
    /// Mapped file pages (and shared memory): program text, libraries.
    pub mapped_bytes: u64,
    /// `None` on v1, which does not show slab.
    pub slab_reclaimable_bytes: Option<u64>,
    /// File pages taken and read again, since the group exists.
    pub refaulted_pages: u64,
    /// Accesses to mapped memory that had to wait for a disk, since the group exists.
    pub major_faults: u64,
}

/// A `memory.stat` of cgroup v2; `None` without `inactive_file`.
#[must_use]
pub fn memory_stat_v2(bytes: &[u8]) -> Option<MemoryStat> {
    memory_stat(bytes, |stat, key| {
        Some(match key {
            b"inactive_file" => &mut stat.inactive_file_bytes,
            b"active_file" => &mut stat.active_file_bytes,
            b"file_dirty" => &mut stat.dirty_bytes,
            b"file_writeback" => &mut stat.writeback_bytes,
            b"file_mapped" => &mut stat.mapped_bytes,
            b"slab_reclaimable" => stat.slab_reclaimable_bytes.insert(0),
            // Before Linux 5.9 `workingset_refault` counted file pages only.
            b"workingset_refault_file" | b"workingset_refault" => &mut stat.refaulted_pages,
            b"pgmajfault" => &mut stat.major_faults,
            _ => return None,
        })
    })
}

/// Parses a `memory.stat` of cgroup v1; `None` without `total_inactive_file`. Figures without
/// `total_` leave out the groups below, whose pages the usage counts.
#[must_use]
pub fn memory_stat_v1(bytes: &[u8]) -> Option<MemoryStat> {
    memory_stat(bytes, |stat, key| {
        Some(match key.strip_prefix(b"total_")? {
            b"inactive_file" => &mut stat.inactive_file_bytes,
            b"active_file" => &mut stat.active_file_bytes,
            b"dirty" => &mut stat.dirty_bytes,
            b"writeback" => &mut stat.writeback_bytes,
            b"mapped_file" => &mut stat.mapped_bytes,
            b"workingset_refault_file" | b"workingset_refault" => &mut stat.refaulted_pages,
            b"pgmajfault" => &mut stat.major_faults,
            _ => return None,
        })
    })
}

/// One pass; `slot` says where the value of a key goes.
fn memory_stat(
    bytes: &[u8],
    slot: impl for<'a> Fn(&'a mut MemoryStat, &[u8]) -> Option<&'a mut u64>,
) -> Option<MemoryStat> {
    let mut stat = MemoryStat::default();
    let mut has_inactive = false;
    for line in lines(bytes) {
        let mut halves = line.splitn(2, |byte| *byte == b' ');
        let (Some(key), Some(value)) = (halves.next(), halves.next()) else {
            continue;
        };
        let Some(value) = digits(value) else {
            continue;
        };
        let Some(slot) = slot(&mut stat, key) else {
            continue;
        };
        *slot = value;
        has_inactive |= key.ends_with(b"inactive_file");
    }
    has_inactive.then_some(stat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v2_in_any_order_and_with_keys_missing() {
        let stat = memory_stat_v2(
            b"anon 1\nworkingset_refault_anon 9\nworkingset_refault_file 8\nfile_mapped 5\n\
              active_file 2\ninactive_file 1\nfile_dirty 3\nfile_writeback 4\npgmajfault 7\n\
              slab_reclaimable 6\nslab_unreclaimable 99\nslab 105\n",
        );
        let want = MemoryStat {
            inactive_file_bytes: 1,
            active_file_bytes: 2,
            dirty_bytes: 3,
            writeback_bytes: 4,
            mapped_bytes: 5,
            slab_reclaimable_bytes: Some(6),
            refaulted_pages: 8,
            major_faults: 7,
        };
        assert_eq!(stat, Some(want));
        let bare = memory_stat_v2(b"inactive_file 7\nworkingset_refault 3\n");
        let want = MemoryStat {
            inactive_file_bytes: 7,
            refaulted_pages: 3,
            ..MemoryStat::default()
        };
        assert_eq!(bare, Some(want));
    }

    #[test]
    fn v1_takes_the_totals() {
        let stat = memory_stat_v1(
            b"inactive_file 100\nactive_file 100\ndirty 100\nslab_reclaimable 3\n\
              total_inactive_file 1\ntotal_active_file 2\ntotal_dirty 3\ntotal_writeback 4\n\
              total_mapped_file 5\ntotal_workingset_refault_file 6\ntotal_pgmajfault 7\n",
        );
        let want = MemoryStat {
            inactive_file_bytes: 1,
            active_file_bytes: 2,
            dirty_bytes: 3,
            writeback_bytes: 4,
            mapped_bytes: 5,
            slab_reclaimable_bytes: None,
            refaulted_pages: 6,
            major_faults: 7,
        };
        assert_eq!(stat, Some(want));
        assert_eq!(memory_stat_v1(b"inactive_file 1\n"), None);
    }

    #[test]
    fn a_key_is_taken_by_its_whole_name_and_a_value_whole() {
        assert_eq!(memory_stat_v2(b"xinactive_file 9\n"), None);
        assert_eq!(memory_stat_v2(b"inactive_file_x 9\n"), None);
        assert_eq!(memory_stat_v2(b"inactive_file 12"), None);
        assert_eq!(memory_stat_v2(b"inactive_file \n"), None);
        assert_eq!(memory_stat_v2(b"inactive_file 1 2\n"), None);
        assert_eq!(memory_stat_v2(b"inactive_file -1\n"), None);
        let cut = memory_stat_v2(b"inactive_file 1\nactive_file 12").unwrap_or_default();
        assert_eq!((cut.inactive_file_bytes, cut.active_file_bytes), (1, 0));
    }
}
