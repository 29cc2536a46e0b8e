//! Where our cgroup is found: namespaces, mounts, versions, odd paths.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod tree;

use oom::reading::Kind;
use tree::{cgroup, Tree, MIB, V1_UNLIMITED};

#[test]
fn colons_in_a_path_belong_to_it() {
    let tree = Tree::v2("/system.slice/a:b:c");
    tree.v2_level("system.slice/a:b:c", "104857600", "max", 10 * MIB, 0);
    assert_eq!(cgroup(&tree.binding()), "/system.slice/a:b:c");
}

#[test]
fn blanks_in_a_mountpoint_are_unescaped() {
    let tree = Tree::v2("/a");
    tree.mounts(&[("/", "/my\\040mnt", "cgroup2", "rw")]);
    tree.write("my mnt/a/memory.max", "104857600\n");
    tree.write("my mnt/a/memory.current", "1\n");
    let binding = tree.binding();
    assert_eq!(binding.limit_bytes, 100 * MIB);
    assert_eq!(
        binding.file.as_deref(),
        Some(&*tree.path("my mnt/a/memory.max"))
    );
}

#[test]
fn private_namespace_shows_the_root() {
    let tree = Tree::v2("/");
    tree.v2_level("", "104857600", "max", 10 * MIB, 0);
    assert_eq!(cgroup(&tree.binding()), "/");
}

#[test]
fn path_outside_of_the_namespace_falls_back_to_the_mount_root() {
    let tree = Tree::v2("/../..");
    tree.v2_level("", "104857600", "max", 10 * MIB, 0);
    assert_eq!(cgroup(&tree.binding()), "/");
}

#[test]
fn mount_from_outside_of_the_namespace_falls_back_to_its_root() {
    let tree = Tree::v2("/");
    tree.mounts(&[("/../..", "/sys/fs/cgroup", "cgroup2", "rw")]);
    tree.v2_level("", "104857600", "max", 10 * MIB, 0);
    assert_eq!(cgroup(&tree.binding()), "/");
}

#[test]
fn a_hidden_path_falls_back_wherever_the_mount_is() {
    let tree = Tree::v2("/");
    tree.mounts(&[("/..", "/cg", "cgroup2", "rw")]);
    tree.write("cg/memory.max", "104857600\n");
    tree.write("cg/memory.current", "1\n");
    assert_eq!(cgroup(&tree.binding()), "/");
}

#[test]
fn path_and_mount_outside_of_the_namespace_still_meet() {
    let tree = Tree::v2("/../../a");
    tree.mounts(&[("/../..", "/sys/fs/cgroup", "cgroup2", "rw")]);
    tree.v2_level("a", "104857600", "max", 10 * MIB, 0);
    assert_eq!(cgroup(&tree.binding()), "/a");
}

#[test]
fn container_in_the_namespace_of_the_host_v2() {
    let tree = Tree::v2("/docker/0123");
    tree.mounts(&[("/docker/0123", "/sys/fs/cgroup", "cgroup2", "rw")]);
    tree.v2_level("", "104857600", "max", 10 * MIB, 0);
    let binding = tree.binding();
    assert_eq!(cgroup(&binding), "/");
    assert_eq!(
        binding.file.as_deref(),
        Some(&*tree.path("sys/fs/cgroup/memory.max"))
    );
}

#[test]
fn container_in_the_namespace_of_the_host_v1_and_a_group_of_its_own_in_it() {
    let tree = Tree::v1("/docker/0123/worker");
    tree.mounts(&[(
        "/docker/0123",
        "/sys/fs/cgroup/memory",
        "cgroup",
        "ro,memory",
    )]);
    tree.v1_level("", 100 * MIB, 10 * MIB, 0);
    tree.v1_level("worker", 50 * MIB, 10 * MIB, 0);
    assert_eq!(cgroup(&tree.binding()), "/worker");
}

#[test]
fn path_of_the_host_that_is_not_below_the_mount_falls_back_to_its_root() {
    let tree = Tree::v2("/kubepods/pod1/c1");
    tree.v2_level("", "104857600", "max", 10 * MIB, 0);
    assert_eq!(cgroup(&tree.binding()), "/");
}

#[test]
fn moved_within_the_host_out_of_what_the_container_mounts() {
    let tree = Tree::v1("/garden/bad/0123");
    tree.mounts(&[(
        "/garden/good/0123",
        "/sys/fs/cgroup/memory",
        "cgroup",
        "rw,memory",
    )]);
    tree.v1_level("", 100 * MIB, 10 * MIB, 0);
    assert_eq!(cgroup(&tree.binding()), "/");
}

#[test]
fn a_cgroup_of_others_mounted_elsewhere_is_not_ours() {
    let tree = Tree::v2("/us");
    tree.mounts(&[("/others", "/mnt/watched", "cgroup2", "rw")]);
    tree.write("mnt/watched/memory.max", "1048576\n");
    tree.write("mnt/watched/memory.current", "1\n");
    assert_eq!(tree.binding().kind, Kind::Host);
}

#[test]
fn the_v1_hierarchy_of_memory_is_told_by_its_super_options() {
    let tree = Tree::v1("/a");
    tree.mounts(&[
        ("/", "/cg/one", "cgroup", "rw,cpu,cpuacct"),
        ("/", "/cg/two", "cgroup", "rw,hugetlb,memory"),
        ("/", "/cg/three", "cgroup", "rw,name=memory"),
    ]);
    tree.write("cg/two/a/memory.limit_in_bytes", "104857600\n");
    tree.write("cg/two/a/memory.usage_in_bytes", "1048576\n");
    let binding = tree.binding();
    assert_eq!(binding.kind, Kind::CgroupV1);
    assert_eq!(binding.limit_bytes, 100 * MIB);
}

#[test]
fn hybrid_hosts_carry_memory_on_v1() {
    let tree = Tree::v1("/a");
    tree.v1_level("a", 100 * MIB, 10 * MIB, 0);
    // What a careless reader would take.
    tree.write("sys/fs/cgroup/unified/memory.max", "1048576\n");
    tree.write("sys/fs/cgroup/unified/memory.current", "1\n");
    tree.write(
        "sys/fs/cgroup/unified/memory.pressure",
        "some avg10=3.00 avg60=0.00 avg300=0.00 total=7\n\
         full avg10=1.50 avg60=0.00 avg300=0.00 total=5\n",
    );
    let sample = tree.sample();
    let binding = sample.binding.unwrap();
    assert_eq!(binding.kind, Kind::CgroupV1);
    assert_eq!(cgroup(&binding), "/a");
    // Pressure is kept by the unified hierarchy all the same.
    assert_eq!(sample.psi.unwrap().some_total_us, 7);
}

#[test]
fn of_mounts_of_the_same_thing_the_usual_one_is_taken() {
    for usual_first in [true, false] {
        let tree = Tree::v2("/a");
        let mut mounts = [
            ("/", "/sys/fs/cgroup", "cgroup2", "rw"),
            ("/", "/var/lib/x/cgroup", "cgroup2", "rw"),
        ];
        if !usual_first {
            mounts.reverse();
        }
        tree.mounts(&mounts);
        tree.v2_level("a", "104857600", "max", 10 * MIB, 0);
        tree.write("var/lib/x/cgroup/a/memory.max", "104857600\n");
        tree.write("var/lib/x/cgroup/a/memory.current", "10485760\n");
        let binding = tree.binding();
        assert_eq!(
            binding.file.as_deref(),
            Some(&*tree.path("sys/fs/cgroup/a/memory.max"))
        );
    }
}

#[test]
fn malformed_lines_do_not_hide_the_good_ones() {
    let tree = Tree::v2("/a");
    let mountinfo = "nonsense\n1 2 3\n\n31 23 0:28 / /sys/fs/cgroup rw - cgroup2 none rw\n9 9";
    tree.write("proc/self/mountinfo", mountinfo);
    tree.write("proc/self/cgroup", "what\n:\n0::/a\n");
    tree.v2_level("a", "104857600", "max", 10 * MIB, 0);
    assert_eq!(cgroup(&tree.binding()), "/a");
}

#[test]
fn old_v1_groups_that_do_not_count_their_children_are_left_out() {
    let tree = Tree::v1("/a/b");
    tree.v1_level("a", 50 * MIB, 49 * MIB, 0);
    tree.v1_level("a/b", 100 * MIB, 10 * MIB, 0);
    tree.write("sys/fs/cgroup/memory/a/memory.use_hierarchy", "0\n");
    assert_eq!(cgroup(&tree.binding()), "/a/b");
    tree.write("sys/fs/cgroup/memory/a/memory.use_hierarchy", "1\n");
    assert_eq!(cgroup(&tree.binding()), "/a");
}

#[test]
fn very_deep_trees_are_read_and_bounded() {
    let path: String = (0..300).map(|depth| format!("/d{depth}")).collect();
    let tree = Tree::v1(&path);
    tree.v1_level(path.trim_start_matches('/'), 100 * MIB, 10 * MIB, 0);
    tree.v1_level("d0", V1_UNLIMITED, 10 * MIB, 0);
    assert_eq!(cgroup(&tree.binding()), path);
}
