//! The bell of a v1 cgroup, in a fake tree: a plain file takes the place of
//! `cgroup.event_control`, and keeps the written text.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod tree;

use std::fs;

use oom::reading::{Kind, Source};
use oom::source::SystemSource;
use tree::{Tree, MIB};

const CONTROL: &str = "sys/fs/cgroup/memory/a/cgroup.event_control";

fn v1(limit_mib: u64, usage_mib: u64) -> Tree {
    let tree = Tree::v1("/a");
    tree.v1_level("a", limit_mib * MIB, usage_mib * MIB, 0);
    tree
}

fn sampled(tree: &Tree) -> SystemSource {
    let mut source = tree.source();
    source.sample();
    source
}

/// Waits until the registering thread has finished and a look has noticed.
fn listens(source: &mut SystemSource, step: u64) {
    while !source.listen(step) {
        std::thread::yield_now();
    }
}

/// The position of the threshold registered last.
fn registered(tree: &Tree) -> u64 {
    let line = fs::read_to_string(tree.path(CONTROL)).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn is_hung_up_a_step_above_usage() {
    let tree = v1(512, 300);
    tree.write(CONTROL, "");
    let mut source = sampled(&tree);
    assert!(source.bell().is_none());
    assert!(!source.listen(4 * MIB), "it takes a while");
    listens(&mut source, 4 * MIB);
    assert!(source.bell().is_some());
    assert_eq!(registered(&tree), 304 * MIB);
    // The threshold stays while usage is near.
    tree.write(CONTROL, "0 0 0");
    tree.v1_level("a", 512 * MIB, 293 * MIB, 0);
    assert!(source.listen(4 * MIB));
    assert_eq!(registered(&tree), 0);
    source.deafen();
    assert!(source.bell().is_none());
}

#[test]
fn follows_usage_down_and_up() {
    let tree = v1(512, 300);
    tree.write(CONTROL, "");
    let mut source = sampled(&tree);
    listens(&mut source, 4 * MIB);
    for usage_mib in [200, 400] {
        tree.v1_level("a", 512 * MIB, usage_mib * MIB, 0);
        assert!(!source.listen(4 * MIB));
        assert!(source.bell().is_none(), "the old one is of no use");
        listens(&mut source, 4 * MIB);
        assert_eq!(registered(&tree), (usage_mib + 4) * MIB);
    }
}

#[test]
fn one_that_was_passed_before_it_was_there_is_none() {
    let tree = v1(512, 300);
    tree.write(CONTROL, "");
    let mut source = sampled(&tree);
    assert!(!source.listen(4 * MIB));
    tree.v1_level("a", 512 * MIB, 304 * MIB, 0);
    listens(&mut source, 4 * MIB);
    assert_eq!(registered(&tree), 308 * MIB);
}

#[test]
fn goes_by_memory_and_swap_where_these_bind() {
    let tree = v1(512, 300);
    let memsw = |name: &str| format!("sys/fs/cgroup/memory/a/memory.memsw.{name}_in_bytes");
    tree.write(&memsw("limit"), &format!("{}\n", 512 * MIB));
    tree.write(&memsw("usage"), &format!("{}\n", 400 * MIB));
    tree.write(CONTROL, "");
    let mut source = sampled(&tree);
    let kind = source.sample().binding.map(|reading| reading.kind);
    assert_eq!(kind, Some(Kind::CgroupV1Memsw));
    listens(&mut source, 4 * MIB);
    assert_eq!(registered(&tree), 404 * MIB);
}

#[test]
fn goes_with_the_process_to_another_cgroup() {
    let tree = v1(512, 300);
    tree.write(CONTROL, "");
    let mut source = sampled(&tree);
    listens(&mut source, 4 * MIB);
    tree.v1_level("b", 512 * MIB, 300 * MIB, 0);
    tree.write("sys/fs/cgroup/memory/b/cgroup.event_control", "");
    tree.write("proc/self/cgroup", "4:memory:/b\n");
    source.sample();
    listens(&mut source, 4 * MIB);
    let line = fs::read_to_string(tree.path("sys/fs/cgroup/memory/b/cgroup.event_control"));
    assert!(line.unwrap().ends_with(&(304 * MIB).to_string()));
}

#[test]
fn there_is_none_where_usage_cannot_grow_to_it() {
    let tree = v1(512, 509);
    tree.write(CONTROL, "");
    let mut source = sampled(&tree);
    assert!(!source.listen(4 * MIB));
    drop(source);
    assert_eq!(fs::read_to_string(tree.path(CONTROL)).unwrap(), "");
}

#[test]
fn what_fails_is_none_and_not_said() {
    // No such file, and a file not open for writing.
    for directory in [false, true] {
        let tree = v1(512, 300);
        if directory {
            fs::create_dir(tree.path(CONTROL)).unwrap();
        }
        let mut source = sampled(&tree);
        for _ in 0..1000 {
            assert!(!source.listen(4 * MIB));
            std::thread::yield_now();
        }
        assert!(source.bell().is_none());
        assert!(source.take_problem().is_none());
        assert_eq!(source.sample().binding.unwrap().usage_bytes, 300 * MIB);
    }
}

#[test]
fn other_limits_have_none() {
    let v2 = Tree::v2("/a");
    v2.v2_level("a", "536870912", "max", 300 * MIB, 0);
    v2.write("sys/fs/cgroup/a/cgroup.event_control", "");
    for tree in [v2, Tree::host()] {
        let mut source = sampled(&tree);
        assert!(!source.listen(4 * MIB));
        drop(source);
    }
}
