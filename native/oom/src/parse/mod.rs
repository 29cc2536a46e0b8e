//! Readers of the kernel's files: bytes in, figures out, no IO.
//!
//! Three rules hold for all readers. No bytes make a reader panic. Unknown input is `None`, never
//! 0. A line counts only with its newline: the kernel ends every line with a newline, so a line
//! without a newline was cut off (a half-written file, a full buffer) and its number could be
//! short of digits.

mod cgroup;
mod keyed;
mod mountinfo;
mod process;
mod psi;
mod stat;
mod value;

pub use cgroup::{memberships, Membership};
pub use keyed::{kib_value, meminfo, plain_value, Meminfo};
pub use mountinfo::{mounts, Mount};
pub use process::{major_faults, soft_limit, statm, Statm};
pub use psi::psi;
pub use stat::{memory_stat_v1, memory_stat_v2, MemoryStat};
pub use value::{limit, number, Limit};

/// The complete lines of a file, without newlines.
fn lines(bytes: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    bytes
        .split_inclusive(|byte| *byte == b'\n')
        .filter_map(|line| line.strip_suffix(b"\n"))
}

/// The fields of a line, separated by any run of blanks.
fn fields(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| matches!(byte, b' ' | b'\t'))
        .filter(|field| !field.is_empty())
}
