//! The binding limit, and its figures.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod tree;

use oom::reading::{Kind, Sample, Source, Swap};
use tree::{cgroup, settle, Tree, MIB, V1_UNLIMITED};

/// statm in `Tree::host`: pages of the machine the tests run on.
fn page_bytes() -> u64 {
    // `KernelPageSize` of any mapping; no libc call needed here.
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let line = smaps
        .lines()
        .find(|line| line.starts_with("KernelPageSize"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        << 10
}

#[test]
fn the_tightest_ancestor_binds_from_below() {
    let tree = Tree::v2("/a/b");
    tree.v2_level("a", "1073741824", "max", 100 * MIB, 0);
    tree.v2_level("a/b", "209715200", "max", 90 * MIB, 0);
    let binding = tree.binding();
    assert_eq!(cgroup(&binding), "/a/b");
    assert_eq!(binding.headroom_bytes(), 110 * MIB);
}

#[test]
fn the_tightest_ancestor_binds_from_above_with_its_own_usage() {
    let tree = Tree::v2("/a/b");
    // Half of the usage of the parent is a sibling's.
    tree.v2_level("a", "209715200", "max", 190 * MIB, 10 * MIB);
    tree.v2_level("a/b", "157286400", "max", 95 * MIB, 0);
    let binding = tree.binding();
    assert_eq!(cgroup(&binding), "/a");
    assert_eq!(binding.usage_bytes, 190 * MIB);
    assert_eq!(binding.working_set_bytes, 180 * MIB);
    assert_eq!(binding.headroom_bytes(), 20 * MIB);
}

#[test]
fn the_mount_root_counts_and_levels_between_may_have_no_limit() {
    let tree = Tree::v1("/a/b/c");
    tree.v1_level("", 100 * MIB, 60 * MIB, 0);
    tree.v1_level("a", V1_UNLIMITED, 60 * MIB, 0);
    tree.v1_level("a/b", 90 * MIB, 40 * MIB, 0);
    tree.v1_level("a/b/c", V1_UNLIMITED, 1, 0);
    assert_eq!(cgroup(&tree.binding()), "/");
}

#[test]
fn of_equals_the_nearest_binds_and_a_cgroup_before_the_host() {
    let tree = Tree::v2("/a/b");
    for path in ["a", "a/b"] {
        tree.v2_level(path, &(8 * 1024 * MIB).to_string(), "max", 1024 * MIB, 0);
    }
    assert_eq!(cgroup(&tree.binding()), "/a/b");
}

#[test]
fn v1_without_a_limit_leaves_the_host() {
    for unlimited in [
        V1_UNLIMITED,
        9_223_372_036_854_710_272,
        i64::MAX as u64,
        u64::MAX,
    ] {
        let tree = Tree::v1("/a");
        tree.v1_level("a", unlimited, 60 * MIB, 0);
        let binding = tree.binding();
        assert_eq!(binding.kind, Kind::Host);
        assert_eq!(binding.limit_bytes, 8 << 30);
        assert_eq!(binding.working_set_bytes, 1 << 30);
        assert_eq!(binding.cgroup, None);
    }
}

#[test]
fn memory_high_is_a_limit_when_it_is_lower() {
    let tree = Tree::v2("/a");
    tree.v2_level("a", "209715200", "104857600", 60 * MIB, 0);
    let binding = tree.binding();
    assert_eq!(binding.kind, Kind::CgroupV2High);
    assert_eq!(binding.headroom_bytes(), 40 * MIB);
    assert_eq!(
        binding.file.as_deref(),
        Some(&*tree.path("sys/fs/cgroup/a/memory.high"))
    );

    tree.v2_level("a", "max", "104857600", 60 * MIB, 0);
    assert_eq!(tree.binding().kind, Kind::CgroupV2High);
    tree.v2_level("a", "104857600", "209715200", 60 * MIB, 0);
    assert_eq!(tree.binding().kind, Kind::CgroupV2Max);
}

#[test]
fn the_working_set_leaves_out_the_inactive_page_cache_of_the_whole_subtree() {
    let tree = Tree::v1("/a");
    tree.v1_level("a", 100 * MIB, 90 * MIB, 50 * MIB);
    assert_eq!(tree.binding().working_set_bytes, 40 * MIB);
    // Not read at the same moment: the cache can be larger than the usage.
    tree.v1_level("a", 100 * MIB, 40 * MIB, 50 * MIB);
    assert_eq!(tree.binding().working_set_bytes, 0);
}

#[test]
fn a_level_over_its_limit_has_no_headroom() {
    let tree = Tree::v2("/a");
    tree.v2_level("a", "1048576", "max", 2 * MIB, 0);
    assert_eq!(tree.binding().headroom_bytes(), 0);
}

#[test]
fn swap_of_a_v2_level() {
    let tree = Tree::v2("/a");
    tree.v2_level("a", "104857600", "max", 60 * MIB, 0);
    tree.meminfo(
        8 << 30,
        7 << 30,
        "SwapTotal: 1048576 kB\nSwapFree: 524288 kB\n",
    );
    let swap = |tree: &Tree| tree.sample().swap.unwrap();
    // No file: the host's.
    assert_eq!(
        swap(&tree),
        Swap {
            limit_bytes: 1 << 30,
            usage_bytes: 512 * MIB
        }
    );
    tree.write("sys/fs/cgroup/a/memory.swap.current", "1048576\n");
    tree.write("sys/fs/cgroup/a/memory.swap.max", "max\n");
    assert_eq!(
        swap(&tree),
        Swap {
            limit_bytes: 1 << 30,
            usage_bytes: 512 * MIB
        }
    );
    tree.write("sys/fs/cgroup/a/memory.swap.max", "10485760\n");
    assert_eq!(
        swap(&tree),
        Swap {
            limit_bytes: 10 * MIB,
            usage_bytes: MIB
        }
    );
    tree.write("sys/fs/cgroup/a/memory.swap.max", "0\n");
    tree.write("sys/fs/cgroup/a/memory.swap.current", "0\n");
    assert_eq!(
        swap(&tree),
        Swap {
            limit_bytes: 0,
            usage_bytes: 0
        }
    );
}

#[test]
fn a_level_allowed_more_swap_than_the_host_has_left_gets_the_hosts() {
    let tree = Tree::v2("/a");
    tree.v2_level("a", "104857600", "max", 60 * MIB, 0);
    tree.write("sys/fs/cgroup/a/memory.swap.max", "1073741824\n");
    tree.write("sys/fs/cgroup/a/memory.swap.current", "0\n");
    tree.meminfo(8 << 30, 7 << 30, "SwapTotal: 0 kB\nSwapFree: 0 kB\n");
    assert_eq!(
        tree.sample().swap,
        Some(Swap {
            limit_bytes: 0,
            usage_bytes: 0
        })
    );
}

#[test]
fn swap_of_v1_is_what_memsw_allows_above_memory() {
    let tree = Tree::v1("/a");
    tree.v1_level("a", 100 * MIB, 60 * MIB, 0);
    tree.write(
        "sys/fs/cgroup/memory/a/memory.memsw.limit_in_bytes",
        "157286400\n",
    );
    tree.write(
        "sys/fs/cgroup/memory/a/memory.memsw.usage_in_bytes",
        "73400320\n",
    );
    assert_eq!(
        tree.sample().swap,
        Some(Swap {
            limit_bytes: 50 * MIB,
            usage_bytes: 10 * MIB
        })
    );
}

#[test]
fn unknown_swap_and_pressure_stay_unknown() {
    let sample = Tree::host().sample();
    assert_eq!(sample.swap, None);
    assert_eq!(sample.psi, None);
}

#[test]
fn pressure_of_our_own_cgroup_and_of_the_host_without_it() {
    let tree = Tree::v2("/a");
    tree.v2_level("a", "104857600", "max", 60 * MIB, 0);
    let psi = |total: u64| {
        format!("some avg10=1.25 avg60=0.00 avg300=0.00 total={total}\nfull avg10=0.50 total=3\n")
    };
    tree.write("proc/pressure/memory", &psi(100));
    assert_eq!(tree.sample().psi.unwrap().some_total_us, 100);
    tree.write("sys/fs/cgroup/a/memory.pressure", &psi(7));
    let found = tree.sample().psi.unwrap();
    assert_eq!((found.some_total_us, found.full_total_us), (7, 3));
    assert_eq!((found.some_avg10, found.full_avg10), (1.25, 0.5));
}

fn rlimits(tree: &Tree, address_space: &str, data: &str) {
    tree.write(
        "proc/self/limits",
        &format!(
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max data size             {data:<20} unlimited            bytes     \n\
             Max stack size            8388608              unlimited            bytes     \n\
             Max address space         {address_space:<20} unlimited            bytes     \n"
        ),
    );
}

#[test]
fn rlimit_as_counts_the_whole_address_space() {
    let tree = Tree::host();
    rlimits(&tree, "209715200", "unlimited");
    let binding = tree.binding();
    assert_eq!(binding.kind, Kind::RlimitAs);
    assert_eq!(binding.limit_bytes, 200 * MIB);
    assert_eq!(binding.usage_bytes, 25_600 * page_bytes());
    assert_eq!(
        binding.file.as_deref(),
        Some(&*tree.path("proc/self/limits"))
    );
}

#[test]
fn rlimit_data_counts_private_writable_memory_without_the_stack() {
    let tree = Tree::host();
    rlimits(&tree, "unlimited", "209715200");
    // Without a status file, statm's figure, which has the stack in it.
    let binding = tree.binding();
    assert_eq!(binding.kind, Kind::RlimitData);
    assert_eq!(binding.usage_bytes, 5_000 * page_bytes());
    tree.write(
        "proc/self/status",
        "Name:\tx\nVmSize:\t  9 kB\nVmData:\t  1024 kB\nVmStk:\t 1 kB\n",
    );
    assert_eq!(tree.binding().usage_bytes, MIB);
}

#[test]
fn rlimits_that_are_not_set_do_not_bind_and_changes_are_seen() {
    let tree = Tree::host();
    rlimits(&tree, "unlimited", "unlimited");
    let mut source = tree.source();
    assert_eq!(source.sample().binding.unwrap().kind, Kind::Host);
    rlimits(&tree, "209715200", "unlimited");
    assert_eq!(settle(&mut source).binding.unwrap().kind, Kind::RlimitAs);
}

#[test]
fn committed_memory_binds_in_overcommit_mode_2_only() {
    let tree = Tree::host();
    tree.meminfo(
        8 << 30,
        7 << 30,
        "CommitLimit: 2097152 kB\nCommitted_AS: 2000000 kB\n",
    );
    for mode in ["0\n", "1\n"] {
        tree.write("proc/sys/vm/overcommit_memory", mode);
        assert_eq!(tree.binding().kind, Kind::Host);
    }
    tree.write("proc/sys/vm/overcommit_memory", "2\n");
    let binding = tree.binding();
    assert_eq!(binding.kind, Kind::Commit);
    assert_eq!(binding.limit_bytes, 2 << 30);
    assert_eq!(binding.usage_bytes, 2_000_000 << 10);
}

#[test]
fn a_configured_limit_is_held_against_our_own_memory() {
    let tree = Tree::host();
    let mut source = tree.source_with(Some(100 * MIB));
    // Fed figures do not count where a file tells.
    source.feed(99 * MIB);
    let sample = source.sample();
    let binding = sample.binding.unwrap();
    assert_eq!(binding.kind, Kind::Configured);
    assert_eq!(binding.usage_bytes, 12_800 * page_bytes());
    assert_eq!(sample.rss_bytes, Some(12_800 * page_bytes()));
    assert_eq!(binding.file, None);
}

#[test]
fn a_configured_limit_does_not_hide_a_tighter_one() {
    let tree = Tree::v2("/a");
    tree.v2_level("a", "104857600", "max", 90 * MIB, 0);
    let mut source = tree.source_with(Some(4 << 30));
    assert_eq!(source.sample().binding.unwrap().kind, Kind::CgroupV2Max);
}

#[test]
fn a_configured_limit_without_proc_waits_for_a_fed_figure() {
    let tree = Tree::empty();
    let mut source = tree.source_with(Some(100 * MIB));
    assert_eq!(source.sample(), Sample::default());
    source.feed(30 * MIB);
    let sample = source.sample();
    assert_eq!(sample.binding.unwrap().headroom_bytes(), 70 * MIB);
    assert_eq!(sample.rss_bytes, None);
    assert!(source.take_problem().is_none());
}

#[test]
fn without_any_source_nothing_binds_and_nothing_is_reported() {
    let tree = Tree::empty();
    let mut source = tree.source();
    assert_eq!(settle(&mut source), Sample::default());
    assert!(source.take_problem().is_none());
}

#[test]
fn an_old_kernel_without_memavailable_gives_no_host_figure() {
    let tree = Tree::empty();
    tree.write("proc/meminfo", "MemTotal: 1024 kB\nMemFree: 512 kB\n");
    assert_eq!(tree.sample().binding, None);
}
