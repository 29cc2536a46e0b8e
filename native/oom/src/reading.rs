//! The figures that pass from the sources to the level machine and on to the BEAM.
//!
//! A figure that is not known is `None`, never 0.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use crate::floor::floor_bytes;

/// Which rule of the kernel (or of the user) a limit comes from.
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
    /// RLIMIT_AS against our own address space.
    RlimitAs,
    /// RLIMIT_DATA against our own data segment.
    RlimitData,
    /// Committed_AS against CommitLimit, in overcommit mode 2.
    Commit,
    /// The `limit:` the user configured, against our own resident memory.
    Configured,
}

/// One limit and what counts against it, read at the same level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    pub kind: Kind,
    pub limit_bytes: u64,
    pub usage_bytes: u64,
    /// Of the usage, what the kernel takes back by itself before it kills: pages of files and
    /// reclaimable slab, less what a working node needs of them. 0 where it is not in the usage to
    /// begin with.
    pub reclaimable_bytes: u64,
    /// Usage less that.
    pub working_set_bytes: u64,
    /// The file the limit was read from; `None` for a configured limit.
    pub file: Option<Arc<Path>>,
    /// The cgroup the limit belongs to, as a path below the mount (`/` is the mount root).
    pub cgroup: Option<Arc<str>>,
}

impl Reading {
    /// Bytes left before the limit; 0 when it is passed.
    #[must_use]
    pub fn headroom_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.working_set_bytes)
    }

    /// How far the working set is from the floor of this limit; negative beyond it. Limits are
    /// compared by this: 300 MiB left of 24 GiB are nearer to trouble than 200 MiB left of 512.
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

/// All that one look at the sources gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// The limit that is nearest to its floor; `None` when no source is usable.
    pub binding: Option<Reading>,
    /// Resident memory of this process.
    pub rss_bytes: Option<u64>,
    pub swap: Option<Swap>,
    pub psi: Option<Psi>,
}

/// Where samples come from: the system, or a test.
///
/// A source never fails as a whole: what cannot be read is left out of the sample, and the
/// reason can be taken with `take_problem`.
pub trait Source: Send {
    /// One look at everything. Called up to 1,000 times a second: no allocation when nothing
    /// has changed.
    fn sample(&mut self) -> Sample;

    /// A cheap look: reads one file or two, allocates nothing, and says whether the usage that binds is
    /// about what the last sample found. `false` whenever that may not be the whole truth. A
    /// sample is due now and then all the same: limits move, and file pages can make way for other
    /// memory while the usage stands still.
    fn unchanged(&mut self) -> bool {
        false
    }

    /// Asks the system to ring a bell when the usage that binds has grown by this from now on, and says
    /// whether one is up. Called at every look at rest; one may take some looks to hang up, and where
    /// there can be none, or usage has come by it already, the answer is `false`.
    fn listen(&mut self, _step_bytes: u64) -> bool {
        false
    }

    /// Takes the bell down, if one is up or on its way.
    fn deafen(&mut self) {}

    /// What becomes readable when the bell rings that is up.
    fn bell(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Our own usage as measured elsewhere, for platforms where no file tells it.
    fn feed(&mut self, usage_bytes: u64);

    /// A problem not reported before, if there is one.
    fn take_problem(&mut self) -> Option<crate::error::SourceError>;
}
