//! Reclaimable kernel memory of a v1 cgroup: reclaimable slab, such as names and inodes of past
//! lookups.
//!
//! v1 shows one figure, `memory.kmem.usage_in_bytes`: slab of both kinds, page tables, stacks,
//! buffers of pipes and sockets. The reclaimable part is inferred, and refuted when the kernel
//! proves unable to take the memory:
//!
//! 1. A working node needs some kernel memory ([`needed_bytes`]), which counts as used.
//! 2. The rest is at most the reclaimable slab of the whole machine. Growth counts as reclaimable
//!    as far as the machine's reclaimable slab grows along with it. (1.5 million names of missing
//!    files: 288 MiB here, 288 MiB there. 2,000 full pipes: 128 MiB here, 3 MiB there.)
//! 3. When the limit is hit, the kernel takes from slab and from file pages. Reclaimable slab then
//!    falls after some 44 failed charges, within tens of ms. If file pages go instead, and kernel
//!    memory stands still until few file pages are left, kernel memory counts as used until it
//!    falls along with the machine's slab.

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Needed by any VM, generously: 0.9 MiB without load, 1.4 MiB with 100,000 processes.
const BASE_BYTES: u64 = 4 * MIB;

/// Page tables: 8 bytes for each page of 4 KiB. 600 MiB resident had 1.5 MiB of page tables.
const PAGE_TABLES_SHARE: u64 = 512;

/// An open file: 1.2 KiB for a pipe, 2.4 for a Unix socket, 2.5 for a TCP socket, without the data
/// in the buffers.
const DESCRIPTOR_BYTES: u64 = 2_560;

/// Changes are settled in steps of this size: the machine's figure lags by the pages its CPUs have
/// not reported yet (half a MiB each).
const STEP_BYTES: u64 = 4 * MIB;

/// The part of a step without a partner may find a partner in the next step.
const CARRIED_BYTES: u64 = 2 * MIB;

/// A fall of kernel memory large enough to prove reclaim; memory freed at once is much more.
const FALL_BYTES: u64 = 256 * KIB;

/// The last 64 pages below a limit are charged singly, and each counts as a failure before any
/// page is taken. After so many failures the kernel has surely taken pages.
const FAILURES: u64 = 256;

/// File pages taken while kernel memory stood still. The kernel alternates between slab and file
/// pages: of 1 million names and 50 MiB of a file some 3 MiB of the file went between two falls of
/// the names, and once 27 MiB, when the file came to its end. At 200 MB/s of growth this is 40 ms.
const FILE_BYTES: u64 = 8 * MIB;

/// With so much room below the limit the kernel takes nothing.
const ROOM_BYTES: u64 = 4 * MIB;

/// Returns the kernel memory a working node does not get back.
pub(super) fn needed_bytes(usage_bytes: u64, descriptors: u64) -> u64 {
    BASE_BYTES
        .saturating_add(usage_bytes / PAGE_TABLES_SHARE)
        .saturating_add(descriptors.saturating_mul(DESCRIPTOR_BYTES))
}

/// One look at a level.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// `memory.kmem.usage_in_bytes`.
    pub(super) kernel_bytes: u64,
    /// [`needed_bytes`].
    pub(super) needed_bytes: u64,
    /// Reclaimable slab of the whole machine.
    pub(super) machine_bytes: u64,
    /// `memory.failcnt`: charges that found the limit reached.
    pub(super) failures: u64,
    /// Bytes left below the limit without any reclaim.
    pub(super) room_bytes: u64,
    /// File pages, written or not.
    pub(super) file_bytes: u64,
    /// With so few file pages the guard has to know the reclaimable rest.
    pub(super) few_file_bytes: u64,
}

/// The inferred state of a level, kept between looks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slab {
    /// Reclaimable, as far as known.
    bytes: u64,
    /// The kernel was unable to take the slab.
    refuted: bool,
    history: Option<History>,
}

#[derive(Clone, Copy, Debug)]
struct History {
    /// Changes have been attributed up to these figures.
    kernel_bytes: u64,
    machine_bytes: u64,
    episode: Episode,
}

/// Since the limit was reached, or kernel memory fell: the failures before, and the highest
/// figures since.
#[derive(Clone, Copy, Debug)]
struct Episode {
    failures: u64,
    kernel_bytes: u64,
    file_bytes: u64,
}

impl Slab {
    /// Returns the reclaimable part. The memory present at the first look counts as reclaimable.
    pub(super) fn bytes(&mut self, seen: &Seen) -> u64 {
        let spare = seen.kernel_bytes.saturating_sub(seen.needed_bytes);
        let most = spare.min(seen.machine_bytes);
        let mut history = self.history.unwrap_or_else(|| {
            self.bytes = most;
            History {
                kernel_bytes: seen.kernel_bytes,
                machine_bytes: seen.machine_bytes,
                episode: Episode::new(seen),
            }
        });
        let believed = self.attribute(&mut history, seen, most);
        let refuted = history.episode.refutes(seen);
        self.history = Some(history);
        if refuted {
            self.bytes = 0;
            self.refuted = true;
            return 0;
        }
        believed.min(most)
    }

    /// Attributes a change of kernel memory to slab as far as the machine's slab changed along
    /// with it. Returns the bytes counted as reclaimable now; whole steps settle the figure.
    fn attribute(&mut self, history: &mut History, seen: &Seen, most: u64) -> u64 {
        let kernel = Change::new(history.kernel_bytes, seen.kernel_bytes);
        let machine = Change::new(history.machine_bytes, seen.machine_bytes);
        let both = kernel.along_with(machine);
        let believed = if kernel.up {
            self.bytes.saturating_add(both)
        } else {
            self.bytes.saturating_sub(both)
        };
        if kernel.bytes < STEP_BYTES {
            return believed;
        }
        let is_taken = self.refuted && !kernel.up && both >= CARRIED_BYTES;
        self.refuted &= !is_taken;
        self.bytes = if is_taken { most } else { believed }.min(seen.kernel_bytes);
        history.kernel_bytes = kernel.without(both, seen.kernel_bytes);
        history.machine_bytes = machine.without(both, seen.machine_bytes);
        self.bytes
    }
}

#[derive(Clone, Copy, Debug)]
struct Change {
    up: bool,
    bytes: u64,
}

impl Change {
    fn new(then: u64, now: u64) -> Self {
        Self {
            up: now > then,
            bytes: now.abs_diff(then),
        }
    }

    /// The part of the change matched by `other`.
    fn along_with(self, other: Self) -> u64 {
        if self.up == other.up {
            self.bytes.min(other.bytes)
        } else {
            0
        }
    }

    /// The figure up to which a step ending at `now` is attributed, given the attributed `part`.
    fn without(self, part: u64, now: u64) -> u64 {
        let rest = self.bytes.saturating_sub(part).min(CARRIED_BYTES);
        if self.up {
            now.saturating_sub(rest)
        } else {
            now.saturating_add(rest)
        }
    }
}

impl Episode {
    fn new(seen: &Seen) -> Self {
        Self {
            failures: seen.failures,
            kernel_bytes: seen.kernel_bytes,
            file_bytes: seen.file_bytes,
        }
    }

    /// Whether file pages went at the limit while kernel memory stood still.
    fn refutes(&mut self, seen: &Seen) -> bool {
        let fell = seen.kernel_bytes.saturating_add(FALL_BYTES) <= self.kernel_bytes;
        if fell || seen.room_bytes >= ROOM_BYTES || seen.failures < self.failures {
            *self = Self::new(seen);
            return false;
        }
        self.kernel_bytes = self.kernel_bytes.max(seen.kernel_bytes);
        self.file_bytes = self.file_bytes.max(seen.file_bytes);
        let failures = seen.failures.saturating_sub(self.failures);
        let taken = self.file_bytes.saturating_sub(seen.file_bytes);
        failures >= FAILURES
            && seen.file_bytes <= seen.few_file_bytes
            && taken >= FILE_BYTES.min(self.file_bytes / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: u64 = 4 * MIB;

    fn seen(kernel_mib: u64, machine_mib: u64) -> Seen {
        Seen {
            kernel_bytes: kernel_mib * MIB,
            needed_bytes: NEEDED,
            machine_bytes: machine_mib * MIB,
            failures: 0,
            room_bytes: 100 * MIB,
            file_bytes: 50 * MIB,
            few_file_bytes: 56 * MIB,
        }
    }

    fn at_limit(kernel_mib: u64, machine_mib: u64, failures: u64, file_mib: u64) -> Seen {
        Seen {
            failures,
            room_bytes: MIB / 4,
            file_bytes: file_mib * MIB,
            ..seen(kernel_mib, machine_mib)
        }
    }

    /// MiB after each look.
    fn after(looks: impl IntoIterator<Item = Seen>) -> Vec<u64> {
        let mut slab = Slab::default();
        looks
            .into_iter()
            .map(|seen| slab.bytes(&seen) / MIB)
            .collect()
    }

    fn last(looks: impl IntoIterator<Item = Seen>) -> u64 {
        after(looks).last().copied().unwrap_or(u64::MAX)
    }

    #[test]
    fn what_a_node_needs() {
        // 100,000 processes with 300 MiB resident had 1.4 MiB.
        assert_eq!(needed_bytes(300 * MIB, 256) / MIB, 5);
        assert_eq!(needed_bytes(512 * MIB, 16_384) / MIB, 45);
        assert_eq!(needed_bytes(u64::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn names_that_were_looked_up_are_slab() {
        let growth = (0..300).map(|mib| seen(1 + mib, 90 + mib));
        assert!((290..=296).contains(&last(growth)));
        // In few large steps as well, and with a machine that lags by a MiB.
        let growth = (0..7).map(|step| seen(1 + 50 * step, 90 + (50 * step).saturating_sub(1)));
        assert!((290..=297).contains(&last(growth)));
    }

    #[test]
    fn names_do_not_look_like_growth_for_a_while() {
        let growth = (0..300).map(|mib| seen(5 + mib, 90 + mib));
        let used = after(growth)
            .into_iter()
            .zip(5..)
            .map(|(slab, kernel)| kernel - slab);
        assert!(
            used.clone().all(|mib| mib <= 5),
            "{:?}",
            used.collect::<Vec<u64>>()
        );
    }

    #[test]
    fn buffers_that_fill_are_not() {
        let growth = (0..300).map(|mib| seen(1 + mib, 90 + mib / 40));
        assert!(last(growth) < 10);
    }

    #[test]
    fn what_is_there_at_first_is_believed_up_to_what_the_machine_has() {
        assert_eq!(after([seen(204, 500)]), [200]);
        assert_eq!(after([seen(204, 90)]), [90]);
        assert_eq!(after([seen(204, 0)]), [0]);
        assert_eq!(after([seen(3, 500)]), [0]);
    }

    #[test]
    fn it_falls_with_the_machine_and_not_when_a_buffer_is_freed() {
        assert_eq!(after([seen(204, 300), seen(104, 200)]), [200, 100]);
        // 100 of 200 are buffers.
        let looks = [seen(4, 90), seen(104, 190), seen(204, 190), seen(104, 190)];
        assert_eq!(after(looks), [0, 100, 100, 100]);
    }

    #[test]
    fn a_slab_that_falls_at_the_limit_stays_believed() {
        // As measured: 44 failures in 4 ms, then tens of ms of reclaim.
        let mut looks = vec![seen(100, 300)];
        looks.extend((0..44).map(|n| at_limit(100, 300, n, 0)));
        looks.extend((0..20).map(|n| at_limit(100 - n, 300 - n, 44, 0)));
        let all = after(looks);
        assert!(all.iter().all(|mib| *mib >= 76), "{all:?}");
    }

    #[test]
    fn kernel_memory_that_stands_while_file_pages_go_is_used() {
        let looks = (0..50).map(|n| at_limit(200, 300, 140 * n, 50 - n));
        let all = after(looks);
        assert_eq!(all.iter().position(|mib| *mib == 0), Some(8));
        assert!(all.iter().skip(8).all(|mib| *mib == 0));
    }

    #[test]
    fn with_few_file_pages_half_of_them_are_enough() {
        let looks = (0..8).map(|n| at_limit(200, 300, 140 * n, 8 - n));
        assert_eq!(after(looks).iter().position(|mib| *mib == 0), Some(4));
    }

    #[test]
    fn a_file_read_again_and_again_at_the_limit_refutes_nothing() {
        let looks = (0..100).map(|n| at_limit(60, 300, 1_000 * n, 138 - 2 * (n % 2)));
        assert_eq!(last(looks), 56);
    }

    #[test]
    fn nor_do_file_pages_that_go_while_many_are_left() {
        let looks = (0..100).map(|n| at_limit(60, 300, 1_000 * n, 400 - n));
        assert_eq!(last(looks), 56);
    }

    #[test]
    fn nor_does_a_file_that_was_deleted_before_the_limit_was_reached() {
        let deleted = Seen {
            file_bytes: 10 * MIB,
            ..seen(60, 300)
        };
        let mut looks = vec![at_limit(60, 300, 0, 50), deleted];
        looks.extend((0..10).map(|n| at_limit(60, 300, 100 * n, 10)));
        assert_eq!(last(looks), 56);
    }

    #[test]
    fn refuted_it_is_believed_again_when_it_falls_along_with_the_machine() {
        let mut looks: Vec<_> = (0..50)
            .map(|n| at_limit(200, 300, 140 * n, 50 - n))
            .collect();
        // Freed by its owner: no sign.
        looks.push(seen(150, 300));
        assert_eq!(last(looks.clone()), 0);
        looks.push(seen(140, 290));
        assert_eq!(last(looks.clone()), 136);
    }

    #[test]
    fn after_that_what_comes_anew_is_judged_anew() {
        let mut looks: Vec<_> = (0..50)
            .map(|n| at_limit(200, 300, 140 * n, 50 - n))
            .collect();
        looks.push(seen(250, 350));
        assert_eq!(last(looks), 50);
    }

    #[test]
    fn it_is_never_more_than_there_is() {
        let figures = [0, 1, 5 * MIB, 300 * MIB, u64::MAX];
        let mut slab = Slab::default();
        for kernel_bytes in figures {
            for machine_bytes in figures {
                for (failures, file_bytes) in [(0, 0), (u64::MAX, 0), (3, u64::MAX)] {
                    let seen = Seen {
                        kernel_bytes,
                        machine_bytes,
                        failures,
                        file_bytes,
                        ..Seen::default()
                    };
                    let bytes = slab.bytes(&seen);
                    assert!(bytes <= kernel_bytes && bytes <= machine_bytes);
                }
            }
        }
    }
}
