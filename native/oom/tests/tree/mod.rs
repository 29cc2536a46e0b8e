//! A fake `/proc` and `/sys` in a temporary directory.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use oom::reading::{Reading, Sample, Source};
use oom::source::{Options, SystemSource};
use tempfile::TempDir;

pub const MIB: u64 = 1 << 20;
/// What v1 writes for "no limit" where pages have 4 KiB.
pub const V1_UNLIMITED: u64 = 9_223_372_036_854_771_712;
/// More samples than the source lets pass between two refreshes.
pub const MANY: usize = 20;

pub struct Tree(TempDir);

impl Tree {
    pub fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A host of 8 GiB with 1 GiB used, without cgroups and without swap.
    pub fn host() -> Self {
        let tree = Self::empty();
        tree.meminfo(8 << 30, 7 << 30, "");
        tree.write("proc/self/statm", "25600 12800 100 5 0 5000 0\n");
        tree
    }

    /// A v2 host; `cgroup` is our path.
    pub fn v2(cgroup: &str) -> Self {
        let tree = Self::host();
        tree.write("proc/self/cgroup", &format!("0::{cgroup}\n"));
        tree.mounts(&[("/", "/sys/fs/cgroup", "cgroup2", "rw,nsdelegate")]);
        tree
    }

    /// A v1 host; `cgroup` is our path in the hierarchy of memory.
    pub fn v1(cgroup: &str) -> Self {
        let tree = Self::host();
        tree.write(
            "proc/self/cgroup",
            &format!("5:cpu:/other\n4:memory:{cgroup}\n0::/\n"),
        );
        tree.mounts(&[
            ("/", "/sys/fs/cgroup/cpu", "cgroup", "rw,cpu"),
            ("/", "/sys/fs/cgroup/memory", "cgroup", "rw,memory"),
            ("/", "/sys/fs/cgroup/unified", "cgroup2", "rw"),
        ]);
        tree
    }

    /// Root, mountpoint, filesystem and super options of each mount.
    pub fn mounts(&self, mounts: &[(&str, &str, &str, &str)]) {
        let mut text = "22 27 0:21 / /proc rw,relatime - proc proc rw\n".to_owned();
        for (root, mountpoint, filesystem, options) in mounts {
            text += &format!(
                "31 23 0:28 {root} {mountpoint} rw,nosuid shared:9 - {filesystem} none {options}\n"
            );
        }
        self.write("proc/self/mountinfo", &text);
    }

    pub fn meminfo(&self, total: u64, available: u64, more: &str) {
        let (total, available) = (total >> 10, available >> 10);
        self.write(
            "proc/meminfo",
            &format!("MemTotal: {total} kB\nMemFree: 1 kB\nMemAvailable: {available} kB\n{more}"),
        );
    }

    /// A v2 cgroup at `path` below `/sys/fs/cgroup`.
    pub fn v2_level(&self, path: &str, max: &str, high: &str, current: u64, inactive: u64) {
        let file = |name: &str| format!("sys/fs/cgroup/{path}/{name}");
        self.write(&file("memory.max"), &format!("{max}\n"));
        self.write(&file("memory.high"), &format!("{high}\n"));
        self.write(&file("memory.current"), &format!("{current}\n"));
        self.write(
            &file("memory.stat"),
            &format!("anon 4096\nfile 8192\ninactive_file {inactive}\n"),
        );
    }

    /// A v1 cgroup at `path` below `/sys/fs/cgroup/memory`.
    pub fn v1_level(&self, path: &str, limit: u64, usage: u64, inactive: u64) {
        let file = |name: &str| format!("sys/fs/cgroup/memory/{path}/{name}");
        self.write(&file("memory.limit_in_bytes"), &format!("{limit}\n"));
        self.write(&file("memory.usage_in_bytes"), &format!("{usage}\n"));
        self.write(
            &file("memory.stat"),
            &format!("cache 1\ninactive_file 7\ntotal_cache 2\ntotal_inactive_file {inactive}\n"),
        );
    }

    /// The slab of the machine, with the memory of `host`.
    pub fn machine_slab(&self, bytes: u64) {
        self.meminfo(
            8 << 30,
            7 << 30,
            &format!("SReclaimable: {} kB\n", bytes >> 10),
        );
    }

    /// The kernel memory v1 shows for `path`.
    pub fn v1_kernel(&self, path: &str, kernel: u64, failures: u64) {
        let file = |name: &str| format!("sys/fs/cgroup/memory/{path}/{name}");
        self.write(&file("memory.kmem.usage_in_bytes"), &format!("{kernel}\n"));
        self.write(&file("memory.failcnt"), &format!("{failures}\n"));
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.root().join(file)
    }

    /// In place, as a program writes a file that the source may hold open.
    pub fn write(&self, file: &str, text: &str) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn remove(&self, file: &str) {
        let path = self.path(file);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }

    pub fn source(&self) -> SystemSource {
        self.source_with(None)
    }

    pub fn source_with(&self, limit_bytes: Option<u64>) -> SystemSource {
        SystemSource::new(Options {
            root: self.root().to_owned(),
            limit_bytes,
        })
    }

    /// One sample of a new source, asserted to have no problem.
    pub fn sample(&self) -> Sample {
        let mut source = self.source();
        let sample = source.sample();
        let problem = source.take_problem();
        assert!(problem.is_none(), "{problem:?}");
        sample
    }

    pub fn binding(&self) -> Reading {
        self.sample().binding.unwrap()
    }
}

/// The name of the binding cgroup.
pub fn cgroup(reading: &Reading) -> &str {
    reading.cgroup.as_deref().unwrap_or("none")
}

/// Samples often enough for a refresh of everything; returns the last sample.
pub fn settle(source: &mut SystemSource) -> Sample {
    (0..MANY).map(|_| source.sample()).last().unwrap()
}

pub fn problems(source: &mut SystemSource, samples: usize) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..samples {
        source.sample();
        all.extend(source.take_problem().map(|problem| problem.to_string()));
        assert!(source.take_problem().is_none(), "at most one problem waits");
    }
    all
}
