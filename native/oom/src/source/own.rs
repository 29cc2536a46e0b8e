//! What our own process has.

use std::path::Path;

use super::file::{KernelFile, Look};
use super::sys;
use crate::parse;

/// What this process has, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    pub(super) address_space_bytes: u64,
    pub(super) rss_bytes: u64,
    pub(super) data_and_stack_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Own {
    statm: KernelFile,
    page_bytes: Option<u64>,
}

impl Own {
    pub(super) fn new(root: &Path) -> Self {
        let statm = KernelFile::new(root.join("proc/self/statm"));
        Self {
            statm,
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

    pub(super) fn refresh(&mut self) {
        self.statm.refresh();
    }
}
