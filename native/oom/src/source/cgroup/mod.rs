//! The cgroups above this process, and the binding level among them.

mod credit;
mod file_pages;
mod level;
mod names;
mod place;
mod slab;
mod thrash;
mod threshold;

use std::fs;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

pub(super) use self::credit::Around;
use self::level::Level;
use self::names::Version;
use self::place::Place;
use self::threshold::Threshold;
use super::file::{KernelFile, Look, BUFFER_BYTES};
use super::tightest::Tightest;
use crate::error::SourceError;
use crate::parse;
use crate::reading::{Kind, Psi, Reading, Swap};

/// Of a deeper tree the levels nearest to the process count.
const MAX_LEVELS: usize = 64;

#[derive(Debug)]
pub(super) struct Cgroups {
    root: PathBuf,
    membership: KernelFile,
    /// Content of `/proc/self/cgroup` when the levels were found.
    seen: Box<[u8]>,
    place: Option<Place>,
    /// From our own cgroup up to the mount root.
    levels: Vec<Level>,
    pressure: Option<KernelFile>,
    /// The level the last look found to be the tightest.
    binding: Option<usize>,
    threshold: Threshold,
}

impl Cgroups {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            membership: KernelFile::new(root.join("proc/self/cgroup")),
            seen: Box::default(),
            place: None,
            levels: Vec::new(),
            pressure: None,
            binding: None,
            threshold: Threshold::default(),
        }
    }

    pub(super) fn refresh(&mut self) {
        self.membership.refresh();
        self.levels.iter_mut().for_each(Level::refresh);
        self.pressure.iter_mut().for_each(KernelFile::refresh);
    }

    /// Whether memory is limited by v1, which hides reclaimable kernel memory.
    pub(super) fn hide_slab(&self) -> bool {
        let place = self.place.as_ref();
        place.is_some_and(|place| place.version == Version::V1)
    }

    /// The tightest of all levels.
    pub(super) fn read(&mut self, look: &mut Look, around: &mut Around<'_>) -> Option<Reading> {
        if self.has_moved(look) {
            self.resolve(look);
        }
        look.lost = false;
        let reading = self.tightest(look, around);
        if !look.lost {
            return reading;
        }
        // A file went away during the look: the cgroup is gone, or a move is under way.
        self.resolve(look);
        self.tightest(look, around)
    }

    fn tightest(&mut self, look: &mut Look, around: &mut Around<'_>) -> Option<Reading> {
        let mut best = Tightest::default();
        self.binding = None;
        for (index, level) in self.levels.iter_mut().enumerate() {
            if level.offer(look, around, &mut best) {
                self.binding = Some(index);
            }
        }
        best.into_reading()
    }

    /// Returns swap as limited by the binding level.
    pub(super) fn swap(&mut self, look: &mut Look) -> Option<Swap> {
        let index = self.binding?;
        self.levels.get_mut(index)?.swap(look)
    }

    /// Returns the bytes charged now against the limit of this kind found binding by `read`.
    pub(super) fn usage_bytes(&mut self, look: &mut Look, kind: Kind) -> Option<u64> {
        let index = self.binding?;
        let usage = self.levels.get_mut(index)?.usage_bytes(look, kind);
        if look.lost {
            // The next `read` finds the levels anew.
            self.seen = Box::default();
        }
        usage
    }

    /// Asks for a bell `step_bytes` above the usage of the binding limit of this kind (v1 only).
    /// Returns whether the bell is up.
    pub(super) fn listen(
        &mut self,
        look: &mut Look,
        kind: Kind,
        limit_bytes: u64,
        step_bytes: u64,
    ) -> bool {
        self.threshold.settle();
        let usage_bytes = self.usage_bytes(look, kind);
        let level = self.binding.and_then(|index| self.levels.get(index));
        let file = level.and_then(|level| level.usage_with_thresholds(kind));
        // At the limit usage stands still, and growth takes the place of file pages.
        let below = |usage: &u64| usage.saturating_add(step_bytes) < limit_bytes;
        match file.zip(usage_bytes.filter(below)) {
            Some((file, usage_bytes)) => self.threshold.set(&file, usage_bytes, step_bytes),
            None => {
                self.threshold.clear();
                false
            }
        }
    }

    pub(super) fn deafen(&mut self) {
        self.threshold.clear();
    }

    pub(super) fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.threshold.fd()
    }

    /// The pressure in our own cgroup.
    pub(super) fn psi(&mut self, look: &mut Look) -> Option<Psi> {
        self.pressure.as_mut()?.get(look, "PSI lines", parse::psi)
    }

    fn has_moved(&mut self, look: &mut Look) -> bool {
        let seen = &self.seen;
        let same = self.membership.get(look, "lines of cgroups", |bytes| {
            // A file larger than the buffer is compared as far as it goes.
            let is_whole = bytes.len() < BUFFER_BYTES;
            let is_cut_off = is_whole && !bytes.ends_with(b"\n");
            let same = seen.starts_with(bytes) && (!is_whole || seen.len() == bytes.len());
            (!is_cut_off).then_some(same)
        });
        same == Some(false)
    }

    fn resolve(&mut self, look: &mut Look) {
        let cgroup = self.read_whole(look, "proc/self/cgroup");
        let mountinfo = self.read_whole(look, "proc/self/mountinfo");
        let [v1, v2] = place::find(&self.root, &cgroup, &mountinfo);
        // The unified hierarchy has PSI, even on hosts with memory still on v1.
        self.pressure = v2.as_ref().map(|place| {
            KernelFile::new(place.directory(place.below.len()).join("memory.pressure"))
        });
        let place = v1.or(v2);
        self.levels = place.as_ref().map_or_else(Vec::new, levels);
        if let (Some(old), Some(new)) = (&self.place, &place) {
            if old.below != new.below {
                let path = self.root.join("proc/self/cgroup");
                look.note(SourceError::Moved {
                    path,
                    cgroup: new.name(new.below.len()),
                });
            }
        }
        self.place = place;
        self.seen = cgroup.into();
    }

    fn read_whole(&self, look: &mut Look, file: &str) -> Vec<u8> {
        let path = self.root.join(file);
        fs::read(&path).unwrap_or_else(|error| {
            look.note(SourceError::Io { path, error });
            Vec::new()
        })
    }
}

fn levels(place: &Place) -> Vec<Level> {
    let mut levels = Vec::new();
    for depth in (0..=place.below.len()).rev().take(MAX_LEVELS) {
        let directory = place.directory(depth);
        if !levels.is_empty() && place.version == Version::V1 && !counts_below(&directory) {
            break;
        }
        levels.push(Level::new(
            place.version,
            &directory,
            place.name(depth).into(),
        ));
    }
    levels
}

/// Before Linux 5.11 a v1 cgroup could be told not to count the groups below. Then its limit and
/// the limits above do not apply to this process.
fn counts_below(directory: &Path) -> bool {
    let told = fs::read(directory.join("memory.use_hierarchy"));
    told.ok().and_then(|bytes| parse::number(&bytes)) != Some(0)
}
