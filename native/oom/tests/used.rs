//! Used memory of a cgroup, the binding limit, and the cheap look.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod tree;

use oom::reading::{Kind, Source};
use tree::{cgroup, Tree, MIB};

/// A v2 group of 512 MiB with this usage and `memory.stat`, in MiB.
fn v2(current: u64, stat: &[(&str, u64)]) -> Tree {
    let tree = Tree::v2("/a");
    tree.v2_level("a", "536870912", "max", current * MIB, 0);
    write_stat(&tree, "sys/fs/cgroup/a", "", stat);
    tree
}

/// The same for v1.
fn v1(current: u64, stat: &[(&str, u64)]) -> Tree {
    let tree = Tree::v1("/a");
    tree.v1_level("a", 512 * MIB, current * MIB, 0);
    write_stat(&tree, "sys/fs/cgroup/memory/a", "total_", stat);
    tree
}

fn write_stat(tree: &Tree, directory: &str, prefix: &str, stat: &[(&str, u64)]) {
    let lines = stat
        .iter()
        .map(|(key, mib)| format!("{prefix}{key} {}\n", mib * MIB));
    tree.write(
        &format!("{directory}/memory.stat"),
        &lines.collect::<String>(),
    );
}

fn reclaimable_mib(tree: &Tree) -> u64 {
    let binding = tree.binding();
    assert_eq!(
        binding.working_set_bytes,
        binding.usage_bytes - binding.reclaimable_bytes
    );
    binding.reclaimable_bytes / MIB
}

#[test]
fn active_file_pages_and_reclaimable_slab_are_not_used() {
    let stat = [
        ("anon", 60),
        ("file", 350),
        ("shmem", 50),
        ("inactive_file", 100),
        ("active_file", 200),
        ("slab_reclaimable", 40),
        ("slab_unreclaimable", 7),
    ];
    let tree = v2(460, &stat);
    assert_eq!(reclaimable_mib(&tree), 340);
    assert_eq!(tree.binding().headroom_bytes(), (512 - 120) * MIB);
}

#[test]
fn v1_counts_file_pages_the_same_way() {
    let stat = [
        ("cache", 350),
        ("shmem", 50),
        ("inactive_file", 100),
        ("active_file", 200),
    ];
    assert_eq!(reclaimable_mib(&v1(460, &stat)), 300);
}

#[test]
fn pages_being_written_and_some_dirty_and_mapped_ones_are_used() {
    let file = [("inactive_file", 100), ("active_file", 200)];
    // A 16th and a 32nd of the limit.
    let of_v2 = [
        ("file_dirty", 100),
        ("file_writeback", 20),
        ("file_mapped", 80),
    ];
    let with = |some: &[(&'static str, u64)]| [&file[..], some].concat();
    assert_eq!(reclaimable_mib(&v2(460, &with(&of_v2[..1]))), 268);
    assert_eq!(reclaimable_mib(&v2(460, &with(&of_v2[..2]))), 248);
    assert_eq!(reclaimable_mib(&v2(460, &with(&of_v2))), 232);
    let of_v1 = [("dirty", 100), ("writeback", 20), ("mapped_file", 80)];
    assert_eq!(reclaimable_mib(&v1(460, &with(&of_v1))), 232);
}

#[test]
fn more_to_take_back_than_there_is_leaves_nothing_used() {
    let tree = v2(100, &[("inactive_file", 90), ("slab_reclaimable", 90)]);
    let binding = tree.binding();
    assert_eq!(
        (binding.working_set_bytes, binding.reclaimable_bytes),
        (0, 100 * MIB)
    );
}

#[test]
fn pages_that_are_mapped_taken_and_read_again_are_used() {
    let tree = v2(500, &[("active_file", 100), ("inactive_file", 100)]);
    let own = |faults: u64| {
        let stat = format!("7 (beam) S 1 2 3 0 -1 0 1 2 {faults} 4\n");
        tree.write("proc/self/stat", &stat);
    };
    own(0);
    let mut source = tree.source();
    let working_set = |source: &mut oom::source::SystemSource| {
        source.sample().binding.unwrap().working_set_bytes / MIB
    };
    assert_eq!(working_set(&mut source), 300);
    let refaults = |pages: u64, faults: u64| {
        let stat = format!(
            "active_file 104857600\ninactive_file 104857600\n\
             workingset_refault_file {pages}\npgmajfault {faults}\n"
        );
        tree.write("sys/fs/cgroup/a/memory.stat", &stat);
    };
    // Read, not mapped: a backup.
    refaults(1_000_000, 0);
    assert_eq!(working_set(&mut source), 300);
    // Mapped, by foreign processes in the group.
    refaults(2_000_000, 1_000_000);
    assert_eq!(working_set(&mut source), 300);
    // More than all pages in a moment, by this process.
    own(1_000_000);
    refaults(3_000_000, 2_000_000);
    assert_eq!(working_set(&mut source), 500);
}

#[test]
fn v1_slab_grows_along_with_the_machines() {
    let tree = v1(60, &[("inactive_file", 0)]);
    tree.v1_kernel("a", MIB, 0);
    tree.machine_slab(90 * MIB);
    let mut source = tree.source();
    let mut reclaimable = |usage: u64, kernel: u64, machine: u64| {
        let usage = format!("{}\n", usage * MIB);
        tree.write("sys/fs/cgroup/memory/a/memory.usage_in_bytes", &usage);
        tree.v1_kernel("a", kernel * MIB, 0);
        tree.machine_slab(machine * MIB);
        source.sample().binding.unwrap().reclaimable_bytes / MIB
    };
    assert_eq!(reclaimable(60, 1, 90), 0);
    // Names; a node of this size needs 5 MiB.
    assert_eq!(reclaimable(360, 301, 390), 296);
    // Buffers.
    assert_eq!(reclaimable(460, 401, 390), 300);
}

#[test]
fn v1_leaves_out_what_open_files_need() {
    let tree = v1(200, &[("inactive_file", 0)]);
    tree.v1_kernel("a", 100 * MIB, 0);
    tree.machine_slab(500 * MIB);
    tree.write("proc/self/status", "Name:\tx\nFDSize:\t16384\n");
    let mut source = tree.source();
    let first = source.sample().binding.unwrap().reclaimable_bytes / MIB;
    // Known from the first refresh after the cgroup was found.
    let settled = tree::settle(&mut source).binding.unwrap().reclaimable_bytes / MIB;
    assert_eq!((first, settled), (95, 55));
}

#[test]
fn v1_kernel_memory_is_used_where_the_machine_has_no_such_slab_or_hides_it() {
    let tree = v1(200, &[("inactive_file", 0)]);
    tree.v1_kernel("a", 100 * MIB, 0);
    assert_eq!(reclaimable_mib(&tree), 0);
    tree.machine_slab(20 * MIB);
    assert_eq!(reclaimable_mib(&tree), 20);
}

#[test]
fn v1_kernel_memory_that_stands_at_the_limit_while_file_pages_go_is_used() {
    let tree = v1(512, &[("inactive_file", 60)]);
    tree.v1_kernel("a", 204 * MIB, 0);
    tree.machine_slab(500 * MIB);
    let mut source = tree.source();
    let mut headroom = Vec::new();
    for file in (20..60).rev() {
        tree.v1_kernel("a", 204 * MIB, 140 * (60 - file));
        write_stat(
            &tree,
            "sys/fs/cgroup/memory/a",
            "total_",
            &[("inactive_file", file)],
        );
        headroom.push(source.sample().binding.unwrap().headroom_bytes() / MIB);
    }
    // Credited at first, and disproved in time.
    assert!(headroom[0] > 250, "{headroom:?}");
    let known = headroom.iter().position(|mib| *mib < 60).unwrap();
    assert!(headroom[known] > 40, "{headroom:?}");
    assert!(
        headroom[known..].iter().all(|mib| *mib < 60),
        "{headroom:?}"
    );
}

#[test]
fn of_a_small_and_a_large_limit_the_one_nearer_to_its_floor_binds() {
    // 200 MiB of 512 are left, and 300 of 24 GiB, whose floor is 216 MiB.
    let tree = v2(312, &[("inactive_file", 0)]);
    tree.meminfo(24 << 30, 300 * MIB, "");
    let binding = tree.binding();
    assert_eq!(binding.kind, Kind::Host);
    assert_eq!(binding.headroom_bytes(), 300 * MIB);
    tree.meminfo(24 << 30, 600 * MIB, "");
    assert_eq!(tree.binding().kind, Kind::CgroupV2Max);
}

#[test]
fn high_and_max_are_judged_each_by_its_own_floor() {
    let tree = Tree::v2("/a");
    // The same working set; the limit with 32 MiB less to its floor is not nearer.
    tree.v2_level("a", "1073741824", "1069547520", 600 * MIB, 0);
    assert_eq!(tree.binding().kind, Kind::CgroupV2High);
    tree.v2_level("a", "1073741824", "1073741824", 600 * MIB, 0);
    assert_eq!(tree.binding().kind, Kind::CgroupV2Max);
}

fn memsw(tree: &Tree, limit: u64, usage: u64) {
    let file = |name: &str| format!("sys/fs/cgroup/memory/a/memory.memsw.{name}_in_bytes");
    tree.write(&file("limit"), &format!("{}\n", limit * MIB));
    tree.write(&file("usage"), &format!("{}\n", usage * MIB));
}

#[test]
fn memory_and_swap_of_v1_are_a_limit_of_their_own() {
    let tree = v1(400, &[("inactive_file", 100)]);
    memsw(&tree, 600, 560);
    let binding = tree.binding();
    assert_eq!(binding.kind, Kind::CgroupV1Memsw);
    assert_eq!(cgroup(&binding), "/a");
    assert_eq!(
        binding.file.as_deref(),
        Some(&*tree.path("sys/fs/cgroup/memory/a/memory.memsw.limit_in_bytes"))
    );
    assert_eq!(binding.usage_bytes, 560 * MIB);
    assert_eq!(binding.working_set_bytes, 460 * MIB);
    // The remaining swap is the same for both limits.
    let swap = tree.sample().swap.unwrap();
    assert_eq!((swap.limit_bytes, swap.usage_bytes), (88 * MIB, 160 * MIB));
    // Without swap in use both are equal, and memory is named.
    memsw(&tree, 512, 400);
    assert_eq!(tree.binding().kind, Kind::CgroupV1);
}

#[test]
fn a_cheap_look_sees_what_the_binding_usage_does() {
    let tree = v1(300, &[("inactive_file", 0)]);
    let usage = |bytes: u64| {
        let text = format!("{bytes}\n");
        tree.write("sys/fs/cgroup/memory/a/memory.usage_in_bytes", &text);
    };
    let mut source = tree.source();
    assert!(!source.unchanged(), "nothing was seen yet");
    source.sample();
    assert!(source.unchanged());
    usage(300 * MIB + 100 * 1024);
    assert!(source.unchanged());
    usage(300 * MIB + 200 * 1024);
    assert!(!source.unchanged());
    source.sample();
    assert!(source.unchanged());
    // Small steps add up: the last sample is the reference.
    for step in 1..=4 {
        usage(300 * MIB + 200 * 1024 + step * 50 * 1024);
        assert_eq!(source.unchanged(), step <= 2, "{step}");
    }
}

#[test]
fn a_cheap_look_near_the_limit_asks_for_our_own_as_well() {
    let tree = v1(490, &[("inactive_file", 400)]);
    let mut source = tree.source();
    source.sample();
    assert!(source.unchanged());
    // File pages make way: usage stands still.
    tree.write("proc/self/statm", "25600 12900 100 5 0 5000 0\n");
    assert!(!source.unchanged());
}

#[test]
fn a_cheap_look_reads_what_counts_against_memory_and_swap() {
    let tree = v1(400, &[("inactive_file", 0)]);
    memsw(&tree, 600, 500);
    let mut source = tree.source();
    assert_eq!(source.sample().binding.unwrap().kind, Kind::CgroupV1Memsw);
    assert!(source.unchanged());
    memsw(&tree, 600, 501);
    assert!(!source.unchanged());
}

#[test]
fn a_cheap_look_works_for_every_source() {
    let host = Tree::host();
    let mut source = host.source();
    assert_eq!(source.sample().binding.unwrap().kind, Kind::Host);
    assert!(source.unchanged());
    host.meminfo(8 << 30, 6 << 30, "");
    assert!(!source.unchanged());

    let mut source = host.source_with(Some(100 * MIB));
    assert_eq!(source.sample().binding.unwrap().kind, Kind::Configured);
    assert!(source.unchanged());
    host.write("proc/self/statm", "25600 12900 100 5 0 5000 0\n");
    assert!(!source.unchanged());

    let mut source = Tree::empty().source_with(Some(100 * MIB));
    source.feed(MIB);
    assert!(source.sample().binding.is_some());
    assert!(!source.unchanged(), "no file tells");
}

#[test]
fn a_cheap_look_at_a_file_that_tells_nothing_is_not_enough() {
    let tree = v2(300, &[("inactive_file", 0)]);
    let mut source = tree.source();
    source.sample();
    assert!(source.unchanged());
    tree.write("sys/fs/cgroup/a/memory.current", "nonsense");
    assert!(!source.unchanged());
    assert_eq!(source.sample().binding.unwrap().kind, Kind::Host);
}
