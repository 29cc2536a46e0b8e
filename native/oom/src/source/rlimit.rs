//! The resource limits set on our process.

use std::path::Path;

use super::file::{KernelFile, Look};
use super::own::Usage;
use super::tightest::Tightest;
use crate::parse::{self, Limit};
use crate::reading::{Kind, Reading};

/// RLIMIT_AS and RLIMIT_DATA. Both hardly ever change, so only `refresh` reads the limits.
#[derive(Debug)]
pub(super) struct Rlimits {
    limits: KernelFile,
    status: KernelFile,
    address_space: Option<u64>,
    data: Option<u64>,
}

impl Rlimits {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            limits: KernelFile::new(root.join("proc/self/limits")),
            status: KernelFile::new(root.join("proc/self/status")),
            address_space: None,
            data: None,
        }
    }

    pub(super) fn refresh(&mut self, look: &mut Look) {
        self.limits.refresh();
        self.status.refresh();
        let both = self
            .limits
            .get(look, "the lines of RLIMIT_AS and RLIMIT_DATA", |bytes| {
                let address_space = parse::soft_limit(bytes, b"Max address space")?;
                Some((address_space, parse::soft_limit(bytes, b"Max data size")?))
            });
        let (address_space, data) = both.unwrap_or((Limit::Unlimited, Limit::Unlimited));
        self.address_space = address_space.bytes();
        self.data = data.bytes();
    }

    pub(super) fn offer(&mut self, look: &mut Look, own: Option<Usage>, best: &mut Tightest) {
        if let (Some(limit), Some(own)) = (self.address_space, own) {
            best.offer(self.reading(Kind::RlimitAs, limit, own.address_space_bytes));
        }
        if let Some(limit) = self.data {
            if let Some(usage) = self.data_bytes(look, own) {
                best.offer(self.reading(Kind::RlimitData, limit, usage));
            }
        }
    }

    /// RLIMIT_DATA limits `data_vm`: private writable mappings (the heap among them) without the
    /// main stack. `VmData` of status is exactly this figure. The sixth figure of statm adds the
    /// stack. Where status has nothing, statm steps in and errs on the safe side. Status costs
    /// more than statm, and is read only when the limit is set.
    fn data_bytes(&mut self, look: &mut Look, own: Option<Usage>) -> Option<u64> {
        let exact = self.status.get(look, "a line VmData", |bytes| {
            parse::kib_value(bytes, b"VmData")
        });
        exact.or(own.map(|own| own.data_and_stack_bytes))
    }

    fn reading(&self, kind: Kind, limit_bytes: u64, usage_bytes: u64) -> Reading {
        Reading {
            kind,
            limit_bytes,
            usage_bytes,
            reclaimable_bytes: 0,
            working_set_bytes: usage_bytes,
            file: Some(self.limits.path()),
            cgroup: None,
        }
    }
}
