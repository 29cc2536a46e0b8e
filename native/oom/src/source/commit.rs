//! Committed_AS against CommitLimit. The kernel enforces the limit in overcommit mode 2 only; in
//! all other modes the two figures exist and mean nothing.

use std::path::Path;
use std::sync::Arc;

use super::file::{KernelFile, Look};
use super::tightest::Tightest;
use crate::parse::{self, Meminfo};
use crate::reading::{Kind, Reading};

const NEVER_OVERCOMMIT: u64 = 2;

#[derive(Debug)]
pub(super) struct Commit {
    mode: KernelFile,
    binds: bool,
}

impl Commit {
    pub(super) fn new(root: &Path) -> Self {
        let mode = KernelFile::new(root.join("proc/sys/vm/overcommit_memory"));
        Self { mode, binds: false }
    }

    /// The mode hardly ever changes, so only `refresh` reads the mode.
    pub(super) fn refresh(&mut self, look: &mut Look) {
        self.mode.refresh();
        self.binds = self.mode.get(look, "a number", parse::number) == Some(NEVER_OVERCOMMIT);
    }

    pub(super) fn offer(&self, info: &Meminfo, file: Arc<Path>, best: &mut Tightest) {
        if !self.binds {
            return;
        }
        if let (Some(limit), Some(committed)) = (info.commit_limit_bytes, info.committed_bytes) {
            best.offer(Reading {
                kind: Kind::Commit,
                limit_bytes: limit,
                usage_bytes: committed,
                reclaimable_bytes: 0,
                working_set_bytes: committed,
                file: Some(file),
                cgroup: None,
            });
        }
    }
}
