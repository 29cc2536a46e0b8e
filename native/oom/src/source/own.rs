//! Memory and descriptors of our process.

use std::path::Path;

use super::file::{KernelFile, Look};
use super::sys;
use crate::parse;

/// Memory of this process, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    pub(super) address_space_bytes: u64,
    pub(super) rss_bytes: u64,
    pub(super) data_and_stack_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Own {
    statm: KernelFile,
    status: KernelFile,
    stat: KernelFile,
    page_bytes: Option<u64>,
}

impl Own {
    pub(super) fn new(root: &Path) -> Self {
        let statm = KernelFile::new(root.join("proc/self/statm"));
        Self {
            statm,
            status: KernelFile::new(root.join("proc/self/status")),
            stat: KernelFile::new(root.join("proc/self/stat")),
            page_bytes: sys::page_bytes(),
        }
    }

    pub(super) fn read(&mut self, look: &mut Look) -> Option<Usage> {
        let page_bytes = self.page_bytes?;
        let statm = self.statm.get(look, "seven numbers", parse::statm)?;
        Some(Usage {
            address_space_bytes: statm.size_pages.checked_mul(page_bytes)?,
            rss_bytes: statm.resident_pages.checked_mul(page_bytes)?,
            data_and_stack_bytes: statm.data_pages.checked_mul(page_bytes)?,
        })
    }

    /// The unit of `statm` and of counted pages.
    pub(super) fn page_bytes(&self) -> u64 {
        self.page_bytes.unwrap_or(0)
    }

    /// An upper bound of open files: the size of the descriptor table, a power of two that never
    /// shrinks.
    pub(super) fn descriptors(&mut self, look: &mut Look) -> Option<u64> {
        self.status.get(look, "a line FDSize", |bytes| {
            parse::plain_value(bytes, b"FDSize")
        })
    }

    /// Accesses to memory that had to wait for a disk, since the process began.
    pub(super) fn major_faults(&mut self, look: &mut Look) -> Option<u64> {
        self.stat.get(look, "twelve fields", parse::major_faults)
    }

    pub(super) fn refresh(&mut self) {
        self.stat.refresh();
        self.statm.refresh();
        self.status.refresh();
    }
}
