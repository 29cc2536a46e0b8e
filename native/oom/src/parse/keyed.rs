//! Files of `key value` lines. The order of the keys differs between kernels, so keys are looked
//! up by name.

use super::value::digits;
use super::{fields, lines};

/// The value of `key` in a file like `/proc/self/status`, without a unit: `key:\t123`.
#[must_use]
pub fn plain_value(bytes: &[u8], key: &[u8]) -> Option<u64> {
    let rest = lines(bytes).find_map(|line| line.strip_prefix(key)?.strip_prefix(b":"))?;
    let mut fields = fields(rest);
    let value = digits(fields.next()?)?;
    fields.next().is_none().then_some(value)
}

/// The value of `key` in bytes, in a file like `/proc/meminfo` or `/proc/self/status`:
/// `key:   123 kB`.
#[must_use]
pub fn kib_value(bytes: &[u8], key: &[u8]) -> Option<u64> {
    lines(bytes)
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(b":"))
        .and_then(kib)
}

/// The figures of `/proc/meminfo` relevant for limits, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meminfo {
    pub total_bytes: Option<u64>,
    pub available_bytes: Option<u64>,
    /// Reclaimable slab of the whole machine.
    pub slab_reclaimable_bytes: Option<u64>,
    pub swap_total_bytes: Option<u64>,
    pub swap_free_bytes: Option<u64>,
    pub commit_limit_bytes: Option<u64>,
    pub committed_bytes: Option<u64>,
}

/// `/proc/meminfo` in one pass.
#[must_use]
pub fn meminfo(bytes: &[u8]) -> Meminfo {
    let mut info = Meminfo::default();
    for line in lines(bytes) {
        // The wanted keys start with M, S or C; most lines are skipped by one byte.
        if !matches!(line.first(), Some(b'M' | b'S' | b'C')) {
            continue;
        }
        let mut halves = line.splitn(2, |byte| *byte == b':');
        let (Some(key), Some(value)) = (halves.next(), halves.next()) else {
            continue;
        };
        let slot = match key {
            b"MemTotal" => &mut info.total_bytes,
            b"MemAvailable" => &mut info.available_bytes,
            b"SReclaimable" => &mut info.slab_reclaimable_bytes,
            b"SwapTotal" => &mut info.swap_total_bytes,
            b"SwapFree" => &mut info.swap_free_bytes,
            b"CommitLimit" => &mut info.commit_limit_bytes,
            b"Committed_AS" => &mut info.committed_bytes,
            _ => continue,
        };
        *slot = kib(value);
    }
    info
}

/// `   123 kB` in bytes. The kernel's "kB" are KiB.
fn kib(value: &[u8]) -> Option<u64> {
    let mut fields = fields(value);
    let number = digits(fields.next()?)?;
    match (fields.next(), fields.next()) {
        (Some(b"kB"), None) => number.checked_mul(1024),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_value_has_no_unit() {
        let status = b"Name:\tcat\nFDSizes:\t9\nFDSize:\t256\nVmData:\t 360 kB\n";
        assert_eq!(plain_value(status, b"FDSize"), Some(256));
        assert_eq!(plain_value(status, b"VmData"), None);
        assert_eq!(plain_value(status, b"Threads"), None);
        assert_eq!(plain_value(b"FDSize:\t25", b"FDSize"), None);
    }

    #[test]
    fn a_cut_off_line_is_nothing() {
        assert_eq!(kib_value(b"VmData:\t     360 k", b"VmData"), None);
        assert_eq!(meminfo(b"MemTotal:       24684084 kB"), Meminfo::default());
    }

    #[test]
    fn kib_become_bytes() {
        assert_eq!(
            kib_value(b"Name:\tcat\nVmData:\t     360 kB\n", b"VmData"),
            Some(360 << 10)
        );
        assert_eq!(
            kib_value(b"VmData:\t18446744073709551615 kB\n", b"VmData"),
            None
        );
        assert_eq!(
            kib_value(b"HugePages_Total:       3\n", b"HugePages_Total"),
            None
        );
    }

    #[test]
    fn meminfo_in_any_order_and_with_keys_missing() {
        let info =
            meminfo(b"SwapFree: 0 kB\nSReclaimable: 7 kB\nCommitted_AS: 5 kB\nMemTotal: 3 kB\n");
        assert_eq!(info.swap_free_bytes, Some(0));
        assert_eq!(info.committed_bytes, Some(5 << 10));
        assert_eq!(info.total_bytes, Some(3 << 10));
        assert_eq!(info.available_bytes, None);
        assert_eq!(info.slab_reclaimable_bytes, Some(7 << 10));
    }
}
