//! The source on the machine itself. The only test in this file, run in a child process: moving a
//! process to another cgroup moves all of its threads.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use oom::reading::{Kind, Reading, Source};
use oom::source::{Options, SystemSource};

const MEMORY: &str = "/sys/fs/cgroup/memory";
const GROUP: &str = "OOM_TEST_GROUP";
const MIB: u64 = 1 << 20;

/// Removes the cgroups at the end of the test, passed or failed.
struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        for name in ["a/inner", "a", "b", ""] {
            let _ = fs::remove_dir(self.0.join(name));
        }
    }
}

#[test]
fn follows_a_real_process_through_real_cgroups() {
    if let Some(group) = std::env::var_os(GROUP) {
        return child(Path::new(&group));
    }
    let group = Group(Path::new(MEMORY).join(format!("oomtest_{}", std::process::id())));
    if !Path::new(MEMORY).join("memory.limit_in_bytes").exists() {
        eprintln!("skipped: no cgroup v1 memory controller at {MEMORY}");
        return;
    }
    if let Err(error) = fs::create_dir(&group.0) {
        eprintln!("skipped: cannot create {}: {error}", group.0.display());
        return;
    }
    for name in ["a", "a/inner", "b"] {
        fs::create_dir(group.0.join(name)).unwrap();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "follows_a_real_process_through_real_cgroups",
            "--nocapture",
        ])
        .env(GROUP, &group.0)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn child(group: &Path) {
    let limit = |name: &str, mib: u64| {
        let file = group.join(name).join("memory.limit_in_bytes");
        fs::write(file, (mib * MIB).to_string()).unwrap();
    };
    let enter = |name: &str| {
        let pid = std::process::id().to_string();
        fs::write(group.join(name).join("cgroup.procs"), pid).unwrap();
    };
    let name = |below: &str| format!("/{}{below}", group.file_name().unwrap().to_str().unwrap());

    let mut source = SystemSource::new(Options::default());
    let sample = source.sample();
    assert!(sample.rss_bytes.unwrap() > 100_000);
    assert!(sample.binding.is_some());
    assert!(source.take_problem().is_none());

    // A limit two levels up binds.
    limit("a", 300);
    enter("a/inner");
    let binding = source.sample().binding.unwrap();
    assert_eq!(
        (binding.kind, binding.limit_bytes),
        (Kind::CgroupV1, 300 * MIB)
    );
    assert_eq!(binding.cgroup.as_deref(), Some(&*name("/a")));
    assert!(source.take_problem().is_some());

    // A nearer limit, set at run time.
    limit("a/inner", 200);
    assert_eq!(source.sample().binding.unwrap().limit_bytes, 200 * MIB);

    // Allocated memory shows in the binding cgroup.
    let before = source.sample().binding.unwrap().working_set_bytes;
    let block = std::hint::black_box(vec![1_u8; 64 << 20]);
    let after = source.sample().binding.unwrap().working_set_bytes;
    assert!(after > before + 60 * MIB, "{before} {after}");
    drop(block);

    // Moved on, and the old cgroups are gone.
    limit("b", 100);
    enter("b");
    fs::remove_dir(group.join("a/inner")).unwrap();
    fs::remove_dir(group.join("a")).unwrap();
    let here = |reading: &Reading| {
        (
            reading.cgroup.as_deref().map(str::to_owned),
            reading.limit_bytes,
        )
    };
    assert_eq!(
        here(&source.sample().binding.unwrap()),
        (Some(name("/b")), 100 * MIB)
    );
    assert!(source.take_problem().is_some());
    for _ in 0..100 {
        source.sample();
        assert!(source.take_problem().is_none());
    }
}
