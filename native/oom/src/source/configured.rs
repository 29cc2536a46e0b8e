//! The limit the user configured, against our resident memory.

use super::own::Usage;
use super::tightest::Tightest;
use crate::reading::{Kind, Reading};

#[derive(Debug)]
pub(super) struct Configured {
    limit_bytes: Option<u64>,
    /// Usage as measured elsewhere, where no file shows usage.
    fed_bytes: Option<u64>,
}

impl Configured {
    pub(super) fn new(limit_bytes: Option<u64>) -> Self {
        Self {
            limit_bytes,
            fed_bytes: None,
        }
    }

    pub(super) fn feed(&mut self, usage_bytes: u64) {
        self.fed_bytes = Some(usage_bytes);
    }

    pub(super) fn offer(&self, own: Option<Usage>, best: &mut Tightest) {
        let usage = own.map(|own| own.rss_bytes).or(self.fed_bytes);
        if let (Some(limit_bytes), Some(usage_bytes)) = (self.limit_bytes, usage) {
            best.offer(Reading {
                kind: Kind::Configured,
                limit_bytes,
                usage_bytes,
                reclaimable_bytes: 0,
                working_set_bytes: usage_bytes,
                file: None,
                cgroup: None,
            });
        }
    }
}
