//! Where the limits are: the system's files, and the user's configuration.
//!
//! Each module below knows one kind of limit. All are asked at every sample, and the limit nearest
//! to its floor binds.

mod cgroup;
mod commit;
mod configured;
mod file;
mod host;
mod own;
mod quiet;
mod rlimit;
mod sys;
mod tightest;

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Instant;

use self::cgroup::{Around, Cgroups};
use self::commit::Commit;
use self::configured::Configured;
use self::file::{KernelFile, Look};
use self::host::Host;
use self::own::Own;
use self::quiet::Quiet;
use self::rlimit::Rlimits;
use self::tightest::Tightest;
use crate::error::SourceError;
use crate::parse;
use crate::reading::{Kind, Psi, Reading, Sample, Source, Swap};

/// Rarely changing facts are read every so many samples: resource limits, the overcommit mode,
/// missing files.
const SAMPLES_PER_REFRESH: u32 = 16;

/// Settings of a `SystemSource`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where `/proc` and `/sys` are found; `/`, or a fake tree in a test.
    pub root: PathBuf,
    /// The limit the user configured.
    pub limit_bytes: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/"),
            limit_bytes: None,
        }
    }
}

/// The limits of the system we run on.
///
/// All files stay open; nothing is opened before the first sample.
#[derive(Debug)]
pub struct SystemSource {
    look: Look,
    started: Instant,
    samples: u32,
    /// Upper bound of the open files of this process.
    descriptors: u64,
    /// The binding limit of the last sample.
    quiet: Option<Quiet>,
    own: Own,
    configured: Configured,
    rlimits: Rlimits,
    cgroups: Cgroups,
    host: Host,
    commit: Commit,
    pressure: KernelFile,
}

impl SystemSource {
    #[must_use]
    pub fn new(options: Options) -> Self {
        let root = options.root;
        Self {
            look: Look::new(),
            started: Instant::now(),
            samples: 0,
            descriptors: 0,
            quiet: None,
            own: Own::new(&root),
            configured: Configured::new(options.limit_bytes),
            rlimits: Rlimits::new(&root),
            cgroups: Cgroups::new(&root),
            host: Host::new(&root),
            commit: Commit::new(&root),
            pressure: KernelFile::new(root.join("proc/pressure/memory")),
        }
    }

    fn refresh(&mut self) {
        self.own.refresh();
        self.rlimits.refresh(&mut self.look);
        self.cgroups.refresh();
        self.host.refresh();
        self.commit.refresh(&mut self.look);
        self.pressure.refresh();
        if self.cgroups.hide_slab() {
            self.descriptors = self.own.descriptors(&mut self.look).unwrap_or(0);
        }
    }

    /// Returns the usage counted against a limit of this kind, from one file.
    fn usage_bytes(&mut self, kind: Kind) -> Option<u64> {
        let look = &mut self.look;
        match kind {
            Kind::CgroupV2Max | Kind::CgroupV2High | Kind::CgroupV1 | Kind::CgroupV1Memsw => {
                self.cgroups.usage_bytes(look, kind)
            }
            Kind::Host => host::used_bytes(&self.host.read(look)?),
            Kind::Commit => self.host.read(look)?.committed_bytes,
            Kind::RlimitAs | Kind::RlimitData | Kind::Configured => {
                quiet::own_bytes(kind, self.own.read(look)?)
            }
        }
    }

    fn psi(&mut self) -> Option<Psi> {
        let of_cgroup = self.cgroups.psi(&mut self.look);
        of_cgroup.or_else(|| self.pressure.get(&mut self.look, "PSI lines", parse::psi))
    }
}

impl Source for SystemSource {
    fn sample(&mut self) -> Sample {
        if self.samples % SAMPLES_PER_REFRESH == 0 {
            self.refresh();
        }
        self.samples = self.samples.wrapping_add(1);

        let look = &mut self.look;
        let meminfo = self.host.read(look);
        let own = self.own.read(look);
        let mut around = Around {
            at: self.started.elapsed(),
            own: &mut self.own,
            machine_slab_bytes: meminfo
                .and_then(|info| info.slab_reclaimable_bytes)
                .unwrap_or(0),
            descriptors: self.descriptors,
        };
        let of_cgroup = self.cgroups.read(look, &mut around);

        // From the specific to the general: of equal limits the first binds.
        let mut best = Tightest::default();
        self.configured.offer(own, &mut best);
        self.rlimits.offer(look, own, &mut best);
        if let Some(reading) = of_cgroup.clone() {
            best.offer(reading);
        }
        if let Some(info) = &meminfo {
            self.commit.offer(info, self.host.file(), &mut best);
            self.host.offer(info, &mut best);
        }
        let binding = best.into_reading();

        let of_host = meminfo.as_ref().and_then(host::swap);
        // A cgroup's swap goes with its memory; all remaining limits have the swap of the host.
        let of_cgroup = of_cgroup.filter(|reading| binding.as_ref() == Some(reading));
        let of_cgroup = of_cgroup.and_then(|_: Reading| self.cgroups.swap(look));
        self.quiet = binding
            .as_ref()
            .and_then(|reading| Quiet::new(reading, own));

        Sample {
            binding,
            rss_bytes: own.map(|own| own.rss_bytes),
            swap: least_left(of_cgroup, of_host),
            psi: self.psi(),
        }
    }

    fn unchanged(&mut self) -> bool {
        let Some(quiet) = self.quiet else {
            return false;
        };
        let Some(usage) = self.usage_bytes(quiet.kind()) else {
            return false;
        };
        quiet.holds(usage)
            && (!quiet.is_near(usage) || quiet.own_holds(self.own.read(&mut self.look)))
    }

    fn listen(&mut self, step_bytes: u64) -> bool {
        let Some(quiet) = self.quiet else {
            return false;
        };
        let (kind, limit_bytes) = (quiet.kind(), quiet.limit_bytes());
        let look = &mut self.look;
        match kind {
            Kind::CgroupV1 | Kind::CgroupV1Memsw => {
                self.cgroups.listen(look, kind, limit_bytes, step_bytes)
            }
            _ => {
                self.deafen();
                false
            }
        }
    }

    fn deafen(&mut self) {
        self.cgroups.deafen();
    }

    fn bell(&self) -> Option<BorrowedFd<'_>> {
        self.cgroups.bell()
    }

    fn feed(&mut self, usage_bytes: u64) {
        self.configured.feed(usage_bytes);
    }

    fn take_problem(&mut self) -> Option<SourceError> {
        self.look.take_problem()
    }
}

/// A cgroup may be allowed more swap than the host has left.
fn least_left(of_cgroup: Option<Swap>, of_host: Option<Swap>) -> Option<Swap> {
    let left = |swap: &Swap| swap.limit_bytes.saturating_sub(swap.usage_bytes);
    of_cgroup.into_iter().chain(of_host).min_by_key(left)
}
