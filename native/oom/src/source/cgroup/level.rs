//! One cgroup between the process and the mount root: its limits and the memory charged to it.

use std::path::Path;
use std::sync::Arc;

use super::super::file::{KernelFile, Look};
use super::super::tightest::Tightest;
use super::credit::{Around, Charged, Credit};
use super::names::Version;
use crate::parse::{self, Limit};
use crate::reading::{distance_bytes, Kind, Reading, Swap};

#[derive(Debug)]
pub(super) struct Level {
    version: Version,
    /// The path below the mount root.
    name: Arc<str>,
    limit: KernelFile,
    high: Option<KernelFile>,
    usage: KernelFile,
    swap_limit: KernelFile,
    swap_usage: KernelFile,
    credit: Credit,
}

/// A set limit and the memory charged against it.
#[derive(Debug)]
struct Candidate {
    kind: Kind,
    limit_bytes: u64,
    usage_bytes: u64,
    file: Arc<Path>,
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
            swap_limit: file(names.swap_limit),
            swap_usage: file(names.swap_usage),
            credit: Credit::new(names, directory),
        }
    }

    pub(super) fn refresh(&mut self) {
        let files = [&mut self.limit, &mut self.usage];
        let swap = [&mut self.swap_limit, &mut self.swap_usage];
        files
            .into_iter()
            .chain(swap)
            .chain(&mut self.high)
            .for_each(KernelFile::refresh);
        self.credit.refresh();
    }

    /// Offers each set limit of the level to `best`. Returns whether a limit of the level binds.
    pub(super) fn offer(
        &mut self,
        look: &mut Look,
        around: &mut Around<'_>,
        best: &mut Tightest,
    ) -> bool {
        let candidates = self.candidates(look);
        let candidates = || candidates.iter().flatten();
        // `memory.stat` is by far the dearest file and can only add headroom. A level with more
        // headroom than the tightest even without the credit cannot bind, so the file is not read.
        if !candidates().any(|candidate| best.has_room_for(candidate.raw_distance_bytes())) {
            return false;
        }
        let tightest = candidates().min_by_key(|candidate| candidate.raw_distance_bytes());
        let Some(charged) = tightest.map(Candidate::charged) else {
            return false;
        };
        let Some(reclaimable) = self.credit.bytes(look, around, charged) else {
            return false;
        };
        candidates().fold(false, |binds, candidate| {
            best.offer(candidate.reading(reclaimable, &self.name)) | binds
        })
    }

    /// The hard limit, `memory.high`, and memory with swap (v1). Of equal limits the first binds.
    /// Limits are read at every sample: they can change at any time, and reading is cheap.
    fn candidates(&mut self, look: &mut Look) -> [Option<Candidate>; 3] {
        let mut found = [const { None }; 3];
        let [hard, high, with_swap] = &mut found;
        let hard_bytes = limit_bytes(&mut self.limit, look);
        let high_bytes = self.high.as_mut().and_then(|file| limit_bytes(file, look));
        if hard_bytes.or(high_bytes).is_some() {
            let usage = self.usage.get(look, "a number", parse::number);
            let candidate = |kind, file: &KernelFile, limit: Option<u64>| {
                Some(Candidate::new(kind, file, limit?, usage?))
            };
            *hard = candidate(self.version.names().hard, &self.limit, hard_bytes);
            if let Some(file) = &self.high {
                *high = candidate(Kind::CgroupV2High, file, high_bytes);
            }
        }
        if self.version == Version::V1 {
            if let Some((limit, usage)) = self.swap_figures(look) {
                let file = &self.swap_limit;
                *with_swap = Some(Candidate::new(Kind::CgroupV1Memsw, file, limit, usage));
            }
        }
        found
    }

    fn swap_figures(&mut self, look: &mut Look) -> Option<(u64, u64)> {
        let limit = limit_bytes(&mut self.swap_limit, look)?;
        let usage = self.swap_usage.get(look, "a number", parse::number)?;
        Some((limit, usage))
    }

    /// Returns the swap allowed to the level, where the kernel shows a figure. v1 counts memory
    /// and swap in one figure, so memory is subtracted.
    pub(super) fn swap(&mut self, look: &mut Look) -> Option<Swap> {
        let (limit, usage) = self.swap_figures(look)?;
        let memory = match self.version {
            Version::V1 => (
                limit_bytes(&mut self.limit, look)?,
                self.usage.get(look, "a number", parse::number)?,
            ),
            Version::V2 => (0, 0),
        };
        Some(Swap {
            limit_bytes: limit.saturating_sub(memory.0),
            usage_bytes: usage.saturating_sub(memory.1),
        })
    }

    /// Returns the bytes charged now against a limit of this kind, from one file.
    pub(super) fn usage_bytes(&mut self, look: &mut Look, kind: Kind) -> Option<u64> {
        let file = match kind {
            Kind::CgroupV1Memsw => &mut self.swap_usage,
            _ => &mut self.usage,
        };
        file.get(look, "a number", parse::number)
    }

    /// Returns the usage file of this kind of limit, where the kernel signals thresholds (v1).
    pub(super) fn usage_with_thresholds(&self, kind: Kind) -> Option<Arc<Path>> {
        match kind {
            Kind::CgroupV1 => Some(self.usage.path()),
            Kind::CgroupV1Memsw => Some(self.swap_usage.path()),
            _ => None,
        }
    }
}

impl Candidate {
    fn new(kind: Kind, file: &KernelFile, limit_bytes: u64, usage_bytes: u64) -> Self {
        Self {
            kind,
            limit_bytes,
            usage_bytes,
            file: file.path(),
        }
    }

    /// The distance with nothing reclaimable.
    fn raw_distance_bytes(&self) -> i128 {
        distance_bytes(self.limit_bytes, self.usage_bytes)
    }

    fn charged(&self) -> Charged {
        Charged {
            limit_bytes: self.limit_bytes,
            usage_bytes: self.usage_bytes,
        }
    }

    fn reading(&self, reclaimable_bytes: u64, cgroup: &Arc<str>) -> Reading {
        let reclaimable_bytes = reclaimable_bytes.min(self.usage_bytes);
        Reading {
            kind: self.kind,
            limit_bytes: self.limit_bytes,
            usage_bytes: self.usage_bytes,
            reclaimable_bytes,
            working_set_bytes: self.usage_bytes - reclaimable_bytes,
            file: Some(Arc::clone(&self.file)),
            cgroup: Some(Arc::clone(cgroup)),
        }
    }
}

fn limit_bytes(file: &mut KernelFile, look: &mut Look) -> Option<u64> {
    file.get(look, "a number or max", parse::limit)
        .and_then(Limit::bytes)
}
