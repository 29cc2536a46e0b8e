//! Changes at run time: limits change, files vanish and come back, the process is moved.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod tree;

use oom::reading::{Kind, Source};
use tree::{cgroup, problems, settle, Tree, MANY, MIB, V1_UNLIMITED};

fn limited() -> Tree {
    let tree = Tree::v2("/a/b");
    tree.v2_level("a", "209715200", "max", 10 * MIB, 0);
    tree.v2_level("a/b", "104857600", "max", 10 * MIB, 0);
    tree
}

#[test]
fn a_changed_limit_counts_at_the_next_sample() {
    let tree = limited();
    let mut source = tree.source();
    source.sample();
    tree.write("sys/fs/cgroup/a/b/memory.max", "52428800\n");
    assert_eq!(source.sample().binding.unwrap().limit_bytes, 50 * MIB);
    tree.write("sys/fs/cgroup/a/b/memory.max", "max\n");
    assert_eq!(cgroup(&source.sample().binding.unwrap()), "/a");
    tree.write("sys/fs/cgroup/a/b/memory.high", "52428800\n");
    assert_eq!(source.sample().binding.unwrap().kind, Kind::CgroupV2High);
}

#[test]
fn a_v1_limit_set_while_running() {
    let tree = Tree::v1("/a");
    tree.v1_level("a", V1_UNLIMITED, 10 * MIB, 0);
    let mut source = tree.source();
    assert_eq!(source.sample().binding.unwrap().kind, Kind::Host);
    tree.write(
        "sys/fs/cgroup/memory/a/memory.limit_in_bytes",
        "104857600\n",
    );
    assert_eq!(source.sample().binding.unwrap().kind, Kind::CgroupV1);
}

#[test]
fn the_process_is_followed_to_another_cgroup_and_the_move_is_told_once() {
    let tree = limited();
    tree.v2_level("c", "20971520", "max", MIB, 0);
    let mut source = tree.source();
    assert_eq!(cgroup(&source.sample().binding.unwrap()), "/a/b");
    tree.write("proc/self/cgroup", "0::/c\n");
    assert_eq!(cgroup(&source.sample().binding.unwrap()), "/c");
    let told = source.take_problem().unwrap().to_string();
    assert!(
        told.ends_with("proc/self/cgroup: moved to cgroup /c"),
        "{told}"
    );
    assert_eq!(problems(&mut source, MANY), [""; 0]);
}

#[test]
fn a_change_of_other_hierarchies_is_no_move() {
    let tree = Tree::v1("/a");
    tree.v1_level("a", 100 * MIB, 10 * MIB, 0);
    let mut source = tree.source();
    source.sample();
    tree.write("proc/self/cgroup", "5:cpu:/elsewhere\n4:memory:/a\n0::/\n");
    assert_eq!(problems(&mut source, MANY), [""; 0]);
    assert_eq!(source.sample().binding.unwrap().kind, Kind::CgroupV1);
}

#[test]
fn a_vanished_cgroup_drops_out_once_told_and_comes_back() {
    let tree = limited();
    let mut source = tree.source();
    source.sample();
    tree.remove("sys/fs/cgroup/a/b");
    let told = problems(&mut source, 5 * MANY);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("a/b/memory."), "{told:?}");
    assert_eq!(cgroup(&source.sample().binding.unwrap()), "/a");

    tree.v2_level("a/b", "52428800", "max", 10 * MIB, 0);
    let binding = settle(&mut source).binding.unwrap();
    assert_eq!((cgroup(&binding), binding.limit_bytes), ("/a/b", 50 * MIB));
}

#[test]
fn what_hid_the_files_for_a_while_is_let_go_of() {
    let tree = limited();
    for name in ["memory.max", "memory.current"] {
        tree.write(&format!("sys/fs/cgroup/a/b/{name}"), "nonsense");
    }
    let mut source = tree.source();
    assert_eq!(cgroup(&source.sample().binding.unwrap()), "/a");
    let [shown, hidden] = ["sys/fs/cgroup/a/b", "hidden"].map(|name| tree.path(name));
    std::fs::rename(shown, hidden).unwrap();
    tree.v2_level("a/b", "52428800", "max", 10 * MIB, 0);
    let binding = settle(&mut source).binding.unwrap();
    assert_eq!((cgroup(&binding), binding.limit_bytes), ("/a/b", 50 * MIB));
}

#[test]
fn a_hierarchy_mounted_elsewhere_is_found_again() {
    let tree = limited();
    let mut source = tree.source();
    source.sample();
    tree.mounts(&[("/", "/cg", "cgroup2", "rw")]);
    std::fs::rename(tree.path("sys/fs/cgroup"), tree.path("cg")).unwrap();
    tree.write("cg/a/b/memory.max", "52428800\n");
    // The same files under another name stay readable; only removed files are noticed.
    assert_eq!(source.sample().binding.unwrap().limit_bytes, 50 * MIB);
    let max = tree.path("cg/a/b/memory.max");
    std::fs::remove_file(&max).unwrap();
    std::fs::write(&max, "31457280\n").unwrap();
    let binding = settle(&mut source).binding.unwrap();
    assert_eq!(
        (binding.file.as_deref(), binding.limit_bytes),
        (Some(&*max), 30 * MIB)
    );
    assert!(source
        .take_problem()
        .unwrap()
        .to_string()
        .contains("a/b/memory.max"));
}

#[test]
fn files_that_appear_later_are_found() {
    // The memory controller is switched on for an existing cgroup.
    let tree = Tree::v2("/a");
    let mut source = tree.source();
    assert_eq!(source.sample().binding.unwrap().kind, Kind::Host);
    tree.v2_level("a", "104857600", "max", 10 * MIB, 0);
    assert_eq!(settle(&mut source).binding.unwrap().kind, Kind::CgroupV2Max);
    assert!(source.take_problem().is_none());
}

#[test]
fn all_cgroups_vanish_and_the_host_is_left() {
    let tree = limited();
    let mut source = tree.source();
    source.sample();
    tree.remove("sys");
    assert_eq!(settle(&mut source).binding.unwrap().kind, Kind::Host);
}

#[test]
fn proc_vanishes() {
    let tree = limited();
    let mut source = tree.source();
    source.sample();
    tree.remove("proc");
    tree.remove("sys");
    let sample = settle(&mut source);
    assert_eq!(
        (sample.binding, sample.rss_bytes, sample.swap),
        (None, None, None)
    );
    assert!(source.take_problem().is_some());
}

#[test]
fn empty_and_half_written_files_drop_their_level_and_give_no_wrong_number() {
    for file in ["memory.max", "memory.current", "memory.stat"] {
        for text in [
            "",
            "\n",
            "1",
            "inactive_fi",
            "inactive_file 1",
            "-5\n",
            "\u{fffd}\n",
        ] {
            let tree = limited();
            let mut source = tree.source();
            source.sample();
            let path = format!("sys/fs/cgroup/a/b/{file}");
            let whole = std::fs::read_to_string(tree.path(&path)).unwrap();
            tree.write(&path, text);
            let binding = source.sample().binding.unwrap();
            assert_eq!(cgroup(&binding), "/a", "{file} {text:?}");
            assert_eq!(binding.limit_bytes, 200 * MIB);
            let told = source.take_problem().unwrap().to_string();
            assert!(told.contains(&path), "{told}");
            assert_eq!(problems(&mut source, 100), [""; 0], "told once");

            tree.write(&path, &whole);
            assert_eq!(cgroup(&source.sample().binding.unwrap()), "/a/b");
        }
    }
}

#[test]
fn a_half_written_membership_keeps_the_levels() {
    let tree = limited();
    let mut source = tree.source();
    source.sample();
    for text in ["", "0::/a"] {
        tree.write("proc/self/cgroup", text);
        assert_eq!(cgroup(&source.sample().binding.unwrap()), "/a/b");
    }
    tree.write("proc/self/cgroup", "0::/a/b\n");
    assert_eq!(cgroup(&source.sample().binding.unwrap()), "/a/b");
}

#[test]
fn half_written_host_files_are_unknown() {
    let tree = Tree::host();
    tree.write("proc/meminfo", "MemTotal: 8388608 kB\nMemAvailable: 73");
    tree.write("proc/self/statm", "25600 128");
    let mut source = tree.source_with(Some(MIB));
    let sample = source.sample();
    assert_eq!((sample.binding, sample.rss_bytes), (None, None));
}

#[test]
fn a_flickering_file_is_no_flood() {
    let tree = limited();
    let mut source = tree.source();
    let mut told = 0;
    for round in 0..400 {
        let text = if round % 2 == 0 { "" } else { "104857600\n" };
        tree.write("sys/fs/cgroup/a/b/memory.max", text);
        told += problems(&mut source, 1).len();
    }
    assert!(told <= 400 / 16 + 1, "{told}");
}

#[test]
fn an_untaken_problem_is_kept_and_no_other_queues_behind_it() {
    let tree = limited();
    let mut source = tree.source();
    source.sample();
    tree.write("sys/fs/cgroup/a/b/memory.max", "");
    tree.write("sys/fs/cgroup/a/memory.max", "");
    source.sample();
    source.sample();
    assert!(source
        .take_problem()
        .unwrap()
        .to_string()
        .contains("a/b/memory.max"));
    assert!(source.take_problem().is_none());
    // The remaining file is still wrong, and has not been reported.
    source.sample();
    assert!(source
        .take_problem()
        .unwrap()
        .to_string()
        .contains("a/memory.max"));
}
