//! Memory and limits of this process from `/proc/self`.

use super::value::{digits, Limit};
use super::{fields, lines};

/// `/proc/self/statm`, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statm {
    /// The whole address space: the kernel's `total_vm`, compared with RLIMIT_AS.
    pub size_pages: u64,
    pub resident_pages: u64,
    /// `data_vm` plus the main stack: a little more than the figure compared with RLIMIT_DATA.
    pub data_pages: u64,
}

/// The only file with positions instead of names: `size resident shared text lib data dt`. A
/// process without an address space (exiting) shows zeros, which is no figure.
#[must_use]
pub fn statm(bytes: &[u8]) -> Option<Statm> {
    let mut fields = fields(lines(bytes).next()?).map(digits);
    let size_pages = fields.next()?.filter(|pages| *pages > 0)?;
    let resident_pages = fields.next()??;
    let data_pages = fields.nth(3)??;
    Some(Statm {
        size_pages,
        resident_pages,
        data_pages,
    })
}

/// Accesses of this process to memory that had to wait for a disk, from `/proc/self/stat`:
/// `pid (name) state ppid pgrp session tty tpgid flags minflt cminflt majflt …`. The name may hold
/// any byte, a closing bracket too.
#[must_use]
pub fn major_faults(bytes: &[u8]) -> Option<u64> {
    let line = lines(bytes).next_back()?;
    let mut halves = line.rsplitn(2, |byte| *byte == b')');
    let rest = halves.next()?;
    halves.next()?;
    digits(fields(rest).nth(9)?)
}

/// The soft limit called `name` in `/proc/self/limits`: the limit the kernel enforces.
#[must_use]
pub fn soft_limit(bytes: &[u8], name: &[u8]) -> Option<Limit> {
    let rest = lines(bytes).find_map(|line| line.strip_prefix(name)?.strip_prefix(b" "))?;
    match fields(rest).next()? {
        b"unlimited" => Some(Limit::Unlimited),
        field => digits(field).map(Limit::from_number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statm_takes_whole_lines_only() {
        let want = Statm {
            size_pages: 765,
            resident_pages: 422,
            data_pages: 123,
        };
        assert_eq!(statm(b"765 422 394 5 0 123 0\n"), Some(want));
        assert_eq!(statm(b"765 422 394 5 0 12"), None);
        assert_eq!(statm(b"765 422 394\n"), None);
        assert_eq!(statm(b"0 0 0 0 0 0 0\n"), None);
        assert_eq!(statm(b""), None);
    }

    #[test]
    fn major_faults_come_after_any_name() {
        let stat = |name| format!("7 ({name}) S 1 2 3 0 -1 4194560 1000 2000 33 44 5 6\n");
        for name in ["beam.smp", "a) S 1 (b", "a\nb", ""] {
            assert_eq!(major_faults(stat(name).as_bytes()), Some(33), "{name}");
        }
        assert_eq!(
            major_faults(b"7 (x) S 1 2 3 0 -1 4194560 1000 2000 33"),
            None
        );
        assert_eq!(major_faults(b"7 (x) S 1 2\n"), None);
        assert_eq!(major_faults(b"1 2 3 4 5 6 7 8 9 10 11 12\n"), None);
    }

    #[test]
    fn limits_are_found_by_name() {
        let text =
            b"Limit                     Soft Limit           Hard Limit           Units     \n\
            Max data size             unlimited            unlimited            bytes     \n\
            Max address space         1073741824           unlimited            bytes     \n";
        assert_eq!(soft_limit(text, b"Max data size"), Some(Limit::Unlimited));
        assert_eq!(
            soft_limit(text, b"Max address space"),
            Some(Limit::Bytes(1 << 30))
        );
        assert_eq!(soft_limit(text, b"Max address"), None);
        assert_eq!(soft_limit(text, b"Max stack size"), None);
    }
}
