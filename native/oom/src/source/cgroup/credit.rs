//! Memory the kernel would take back from one cgroup: the files with the figures, and the state
//! kept between looks.

use std::path::Path;
use std::time::Duration;

use super::super::file::{KernelFile, Look};
use super::super::own::Own;
use super::file_pages;
use super::names::Names;
use super::slab::{self, Slab};
use super::thrash::Thrash;
use crate::floor::floor_bytes;
use crate::parse::{self, MemoryStat};

/// Facts from outside of the cgroup.
#[derive(Debug)]
pub(in super::super) struct Around<'a> {
    /// By any clock that never goes back.
    pub(in super::super) at: Duration,
    /// Asked for further figures where needed.
    pub(in super::super) own: &'a mut Own,
    /// Reclaimable slab of the whole machine; 0 where unknown.
    pub(in super::super) machine_slab_bytes: u64,
    /// Open files of this process.
    pub(in super::super) descriptors: u64,
}

/// Memory charged to the level, and the nearest limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Charged {
    pub(super) limit_bytes: u64,
    pub(super) usage_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Credit {
    stat: KernelFile,
    parse: fn(&[u8]) -> Option<MemoryStat>,
    kernel: Option<Kernel>,
    thrash: Thrash,
}

#[derive(Debug)]
struct Kernel {
    usage: KernelFile,
    failures: KernelFile,
    slab: Slab,
}

impl Credit {
    pub(super) fn new(names: &Names, directory: &Path) -> Self {
        let file = |name: &str| KernelFile::new(directory.join(name));
        Self {
            stat: file("memory.stat"),
            parse: names.stat,
            kernel: names.kernel_memory.map(|kernel| Kernel {
                usage: file(kernel.usage),
                failures: file(kernel.failures),
                slab: Slab::default(),
            }),
            thrash: Thrash::default(),
        }
    }

    pub(super) fn refresh(&mut self) {
        self.stat.refresh();
        if let Some(kernel) = &mut self.kernel {
            kernel.usage.refresh();
            kernel.failures.refresh();
        }
    }

    /// Returns the bytes the kernel takes back before it kills. 0 where `memory.stat` does not
    /// exist (emulated kernels); `None` where the file cannot be read.
    pub(super) fn bytes(
        &mut self,
        look: &mut Look,
        around: &mut Around<'_>,
        charged: Charged,
    ) -> Option<u64> {
        let stat = self.stat.get(look, "a line inactive_file", self.parse);
        let Some(stat) = stat else {
            return self.stat.is_missing().then_some(0);
        };
        let own = &mut around.own;
        let thrashing = self
            .thrash
            .pages(around.at, &stat, || own.major_faults(look))
            .saturating_mul(own.page_bytes());
        let of_files = file_pages::reclaimable_bytes(&stat, charged.limit_bytes, thrashing);
        let slab = stat.slab_reclaimable_bytes.or_else(|| {
            let kernel = self.kernel.as_mut()?;
            kernel.slab_bytes(look, around, charged, &stat)
        });
        Some(of_files.saturating_add(slab.unwrap_or(0)))
    }
}

impl Kernel {
    fn slab_bytes(
        &mut self,
        look: &mut Look,
        around: &Around<'_>,
        charged: Charged,
        stat: &MemoryStat,
    ) -> Option<u64> {
        let kernel_bytes = self.usage.get(look, "a number", parse::number)?;
        let failures = self.failures.get(look, "a number", parse::number)?;
        Some(self.slab.bytes(&slab::Seen {
            kernel_bytes,
            needed_bytes: slab::needed_bytes(charged.usage_bytes, around.descriptors),
            machine_bytes: around.machine_slab_bytes,
            failures,
            room_bytes: charged.limit_bytes.saturating_sub(charged.usage_bytes),
            file_bytes: file_pages::all_bytes(stat),
            few_file_bytes: floor_bytes(charged.limit_bytes).saturating_mul(2),
        }))
    }
}
