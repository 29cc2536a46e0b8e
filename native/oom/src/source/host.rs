//! The whole machine, as `/proc/meminfo` shows it: memory and swap.

use std::path::Path;
use std::sync::Arc;

use super::file::{KernelFile, Look};
use super::tightest::Tightest;
use crate::parse::{self, Meminfo};
use crate::reading::{Kind, Reading, Swap};

#[derive(Debug)]
pub(super) struct Host {
    meminfo: KernelFile,
}

impl Host {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            meminfo: KernelFile::new(root.join("proc/meminfo")),
        }
    }

    pub(super) fn refresh(&mut self) {
        self.meminfo.refresh();
    }

    pub(super) fn file(&self) -> Arc<Path> {
        self.meminfo.path()
    }

    /// Reads `/proc/meminfo`. Without MemAvailable (before Linux 3.14) the figures come from the
    /// remaining lines.
    pub(super) fn read(&mut self, look: &mut Look) -> Option<Meminfo> {
        self.meminfo.get(look, "a line MemTotal", |bytes| {
            Some(parse::meminfo(bytes)).filter(|info| info.total_bytes.is_some_and(|all| all > 0))
        })
    }

    /// MemAvailable is the memory available without swapping, so the rest is the working set.
    pub(super) fn offer(&self, info: &Meminfo, best: &mut Tightest) {
        if let (Some(total), Some(used)) = (info.total_bytes, used_bytes(info)) {
            best.offer(Reading {
                kind: Kind::Host,
                limit_bytes: total,
                usage_bytes: used,
                reclaimable_bytes: 0,
                working_set_bytes: used,
                file: Some(self.file()),
                cgroup: None,
            });
        }
    }
}

pub(super) fn used_bytes(info: &Meminfo) -> Option<u64> {
    Some(info.total_bytes?.saturating_sub(info.available_bytes?))
}

pub(super) fn swap(info: &Meminfo) -> Option<Swap> {
    let limit_bytes = info.swap_total_bytes?;
    Some(Swap {
        limit_bytes,
        usage_bytes: limit_bytes.saturating_sub(info.swap_free_bytes?),
    })
}
