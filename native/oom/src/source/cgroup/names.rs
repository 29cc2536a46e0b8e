//! File names of the two kernel interfaces.

use crate::parse::{self, MemoryStat};
use crate::reading::Kind;

/// The interface of a hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

#[derive(Debug)]
pub(super) struct Names {
    pub(super) hard: Kind,
    pub(super) limit: &'static str,
    pub(super) high: Option<&'static str>,
    pub(super) usage: &'static str,
    /// v1 limits memory and swap together, v2 swap alone.
    pub(super) swap_limit: &'static str,
    pub(super) swap_usage: &'static str,
    /// Where `memory.stat` does not show slab.
    pub(super) kernel_memory: Option<KernelMemory>,
    pub(super) stat: fn(&[u8]) -> Option<MemoryStat>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct KernelMemory {
    pub(super) usage: &'static str,
    /// Charges that found the limit reached.
    pub(super) failures: &'static str,
}

const V1: Names = Names {
    hard: Kind::CgroupV1,
    limit: "memory.limit_in_bytes",
    high: None,
    usage: "memory.usage_in_bytes",
    swap_limit: "memory.memsw.limit_in_bytes",
    swap_usage: "memory.memsw.usage_in_bytes",
    kernel_memory: Some(KernelMemory {
        usage: "memory.kmem.usage_in_bytes",
        failures: "memory.failcnt",
    }),
    stat: parse::memory_stat_v1,
};

const V2: Names = Names {
    hard: Kind::CgroupV2Max,
    limit: "memory.max",
    high: Some("memory.high"),
    usage: "memory.current",
    swap_limit: "memory.swap.max",
    swap_usage: "memory.swap.current",
    kernel_memory: None,
    stat: parse::memory_stat_v2,
};

impl Version {
    pub(super) fn names(self) -> &'static Names {
        match self {
            Self::V1 => &V1,
            Self::V2 => &V2,
        }
    }
}
