//! One cgroup between the process and the mount root: its limits, and what counts against them.

use std::path::Path;
use std::sync::Arc;

use super::super::file::{KernelFile, Look};
use super::super::tightest::Tightest;
use crate::parse::{self, Limit};
use crate::reading::{Kind, Reading, Swap};

/// Which of the two kernel interfaces a hierarchy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// How an interface calls its files.
struct Names {
    limit: &'static str,
    high: Option<&'static str>,
    usage: &'static str,
    inactive_file: &'static [u8],
    swap_limit: &'static str,
    swap_usage: &'static str,
}

const V1: Names = Names {
    limit: "memory.limit_in_bytes",
    high: None,
    usage: "memory.usage_in_bytes",
    // Without `total_` it would leave out the groups below, whose pages the usage counts.
    inactive_file: b"total_inactive_file",
    swap_limit: "memory.memsw.limit_in_bytes",
    swap_usage: "memory.memsw.usage_in_bytes",
};

const V2: Names = Names {
    limit: "memory.max",
    high: Some("memory.high"),
    usage: "memory.current",
    inactive_file: b"inactive_file",
    swap_limit: "memory.swap.max",
    swap_usage: "memory.swap.current",
};

impl Version {
    fn names(self) -> &'static Names {
        match self {
            Self::V1 => &V1,
            Self::V2 => &V2,
        }
    }
}

#[derive(Debug)]
pub(super) struct Level {
    version: Version,
    /// The path below the mount root.
    name: Arc<str>,
    limit: KernelFile,
    high: Option<KernelFile>,
    usage: KernelFile,
    stat: KernelFile,
    swap_limit: KernelFile,
    swap_usage: KernelFile,
}

impl Level {
    pub(super) fn new(version: Version, directory: &Path, name: Arc<str>) -> Self {
        let names = version.names();
        let file = |name: &str| KernelFile::new(directory.join(name));
        Self {
            version,
            name,
            limit: file(names.limit),
            high: names.high.map(file),
            usage: file(names.usage),
            stat: file("memory.stat"),
            swap_limit: file(names.swap_limit),
            swap_usage: file(names.swap_usage),
        }
    }

    pub(super) fn refresh(&mut self) {
        let files = [&mut self.limit, &mut self.usage, &mut self.stat];
        let swap = [&mut self.swap_limit, &mut self.swap_usage];
        files
            .into_iter()
            .chain(swap)
            .chain(&mut self.high)
            .for_each(KernelFile::refresh);
    }

    /// Offers this level if it has a limit and could bind; says whether it was offered.
    pub(super) fn offer(&mut self, look: &mut Look, best: &mut Tightest) -> bool {
        let Some((kind, limit_bytes, file)) = self.least_limit(look) else {
            return false;
        };
        let Some(usage_bytes) = self.usage.get(look, "a number", parse::number) else {
            return false;
        };
        // `memory.stat` is by far the dearest file. It can only add headroom, so a level that
        // has too much without it need not be asked.
        if !best.has_room_for(limit_bytes.saturating_sub(usage_bytes)) {
            return false;
        }
        let Some(inactive_bytes) = self.inactive_file_bytes(look) else {
            return false;
        };
        let reading = Reading {
            kind,
            limit_bytes,
            usage_bytes,
            working_set_bytes: usage_bytes.saturating_sub(inactive_bytes),
            file: Some(file),
            cgroup: Some(Arc::clone(&self.name)),
        };
        let binds = best.has_room_for(reading.headroom_bytes());
        best.offer(reading);
        binds
    }

    /// The lower of the hard limit and `memory.high`, of equals the hard one. The limits are read
    /// at every sample: they change while we run, and cost little.
    fn least_limit(&mut self, look: &mut Look) -> Option<(Kind, u64, Arc<Path>)> {
        let hard_kind = match self.version {
            Version::V1 => Kind::CgroupV1,
            Version::V2 => Kind::CgroupV2Max,
        };
        let hard = limit_bytes(&mut self.limit, look);
        let high = self.high.as_mut().and_then(|file| limit_bytes(file, look));
        match (hard, high, &self.high) {
            (Some(hard), Some(high), Some(file)) if high < hard => {
                Some((Kind::CgroupV2High, high, file.path()))
            }
            (None, Some(high), Some(file)) => Some((Kind::CgroupV2High, high, file.path())),
            (Some(hard), _, _) => Some((hard_kind, hard, self.limit.path())),
            (None, _, _) => None,
        }
    }

    /// Page cache the kernel drops before it kills. Where there is no `memory.stat` at all
    /// (emulated kernels) none is known to be droppable; one that cannot be read is a failure.
    fn inactive_file_bytes(&mut self, look: &mut Look) -> Option<u64> {
        let key = self.version.names().inactive_file;
        let known = self.stat.get(look, "a line inactive_file", |bytes| {
            parse::stat_value(bytes, key)
        });
        known.or(self.stat.is_missing().then_some(0))
    }

    /// Swap this level may use, where it says so. v1 counts memory and swap in one figure, from
    /// which the part that is memory (`memory`, read just now) is taken off.
    pub(super) fn swap(&mut self, look: &mut Look, memory: &Reading) -> Option<Swap> {
        let limit = limit_bytes(&mut self.swap_limit, look)?;
        let usage = self.swap_usage.get(look, "a number", parse::number)?;
        let memory = match self.version {
            Version::V1 => (memory.limit_bytes, memory.usage_bytes),
            Version::V2 => (0, 0),
        };
        Some(Swap {
            limit_bytes: limit.saturating_sub(memory.0),
            usage_bytes: usage.saturating_sub(memory.1),
        })
    }
}

fn limit_bytes(file: &mut KernelFile, look: &mut Look) -> Option<u64> {
    file.get(look, "a number or max", parse::limit)
        .and_then(Limit::bytes)
}
