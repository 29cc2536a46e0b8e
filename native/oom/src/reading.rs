//! Figures passed from the sources to the level machine and on to the BEAM.
//!
//! An unknown figure is `None`, never 0.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use crate::floor::floor_bytes;

/// The rule of the kernel (or of the user) behind a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `memory.max` of a cgroup v2 level.
    CgroupV2Max,
    /// `memory.high` of a cgroup v2 level: above it the kernel throttles.
    CgroupV2High,
    /// `memory.limit_in_bytes` of a cgroup v1 level.
    CgroupV1,
    /// `memory.memsw.limit_in_bytes` of a cgroup v1 level: memory and swap together.
    CgroupV1Memsw,
    /// MemAvailable against MemTotal of the host.
    Host,
    /// RLIMIT_AS against the address space of this process.
    RlimitAs,
    /// RLIMIT_DATA against the data segment of this process.
    RlimitData,
    /// Committed_AS against CommitLimit, in overcommit mode 2.
    Commit,
    /// The `limit:` the user configured, against the resident memory of this process.
    Configured,
}

/// One limit and the usage counted against it, read at the same level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub kind: Kind,
    pub limit_bytes: u64,
    pub usage_bytes: u64,
    /// The part of the usage the kernel takes back by itself before it kills: file pages and
    /// reclaimable slab, less the part a working node needs. 0 where usage excludes reclaimable
    /// memory to begin with.
    pub reclaimable_bytes: u64,
    /// Usage less the reclaimable part.
    pub working_set_bytes: u64,
    /// The file the limit was read from; `None` for a configured limit.
    pub file: Option<Arc<Path>>,
    /// The cgroup the limit belongs to, as a path below the mount (`/` is the mount root).
    pub cgroup: Option<Arc<str>>,
}

impl Reading {
    /// Bytes left before the limit; 0 beyond the limit.
    #[must_use]
    pub fn headroom_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.working_set_bytes)
    }

    /// Distance of the working set from the floor of the limit; negative beyond the floor. Limits
    /// are compared by distance: 300 MiB left of 24 GiB are nearer to trouble than 200 MiB left of
    /// 512.
    #[must_use]
    pub fn distance_bytes(&self) -> i128 {
        distance_bytes(self.limit_bytes, self.working_set_bytes)
    }
}

/// The distance from the floor of `limit_bytes` with so much used.
#[must_use]
pub fn distance_bytes(limit_bytes: u64, working_set_bytes: u64) -> i128 {
    let kept = i128::from(working_set_bytes) + i128::from(floor_bytes(limit_bytes));
    i128::from(limit_bytes) - kept
}

/// Pressure stall information of memory; the `total`s are fresh on every read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Psi {
    pub some_avg10: f64,
    pub some_total_us: u64,
    pub full_avg10: f64,
    pub full_total_us: u64,
}

/// Swap left to the binding level, apart from memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swap {
    pub limit_bytes: u64,
    pub usage_bytes: u64,
}

/// The result of one look at the sources.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// The limit nearest to its floor; `None` when no source is usable.
    pub binding: Option<Reading>,
    /// Resident memory of this process.
    pub rss_bytes: Option<u64>,
    pub swap: Option<Swap>,
    pub psi: Option<Psi>,
}

/// Where samples come from: the system, or a test.
///
/// A source never fails as a whole: unreadable figures are left out of the sample, and
/// `take_problem` returns the reason.
pub trait Source: Send {
    /// One look at everything. Called up to 1,000 times a second: no allocation when nothing
    /// has changed.
    fn sample(&mut self) -> Sample;

    /// A cheap look: reads one file or two, allocates nothing, and returns whether the binding
    /// usage is about the figure of the last sample. `false` whenever that may not be the whole
    /// truth. Whole samples stay due now and then: limits move, and file pages can make way for
    /// anonymous memory while usage stands still.
    fn unchanged(&mut self) -> bool {
        false
    }

    /// Asks the system to ring a bell when the binding usage has grown by this step, and returns
    /// whether a bell is up. Called at every look at rest. Hanging up a bell may take some looks.
    /// Where no bell is possible, or usage has passed the step already, the answer is `false`.
    fn listen(&mut self, _step_bytes: u64) -> bool {
        false
    }

    /// Takes the bell down, if one is up or on its way.
    fn deafen(&mut self) {}

    /// A descriptor, readable when the present bell rings.
    fn bell(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The usage of this process as measured elsewhere, for platforms without a file for it.
    fn feed(&mut self, usage_bytes: u64);

    /// Returns a problem not reported before, if any.
    fn take_problem(&mut self) -> Option<crate::error::SourceError>;
}
