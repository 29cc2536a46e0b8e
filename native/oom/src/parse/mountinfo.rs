//! `/proc/self/mountinfo`: mounts, mount points and the visible part of each filesystem.

use super::lines;

/// One mount, its escapes undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount<'a> {
    /// The directory of the filesystem at the root of the mount; for a cgroup mount the cgroup, as
    /// seen from our cgroup namespace.
    pub root: Vec<u8>,
    pub mountpoint: Vec<u8>,
    pub filesystem: &'a [u8],
    super_options: &'a [u8],
}

impl Mount<'_> {
    /// Whether the filesystem itself (not the mount) has the option.
    #[must_use]
    pub fn has_super_option(&self, option: &[u8]) -> bool {
        self.super_options
            .split(|byte| *byte == b',')
            .any(|one| one == option)
    }
}

/// The mounts on well-formed lines; malformed lines are skipped.
pub fn mounts(bytes: &[u8]) -> impl Iterator<Item = Mount<'_>> {
    lines(bytes).filter_map(mount)
}

/// `36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
///
/// Fields are separated by exactly one blank: the source (`/dev/root`) can be empty.
fn mount(line: &[u8]) -> Option<Mount<'_>> {
    let mut fields = line.split(|byte| *byte == b' ');
    let root = fields.nth(3)?;
    let mountpoint = fields.next()?;
    // Any number of optional fields, then a dash.
    fields.find(|field| *field == b"-")?;
    let filesystem = fields.next().filter(|name| !name.is_empty())?;
    let super_options = fields.nth(1)?;
    if !root.starts_with(b"/") || !mountpoint.starts_with(b"/") {
        return None;
    }
    Some(Mount {
        root: unescape(root),
        mountpoint: unescape(mountpoint),
        filesystem,
        super_options,
    })
}

/// Blank, tab, newline and backslash are written as three octal digits: `\040`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        match (first, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                plain.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                rest = tail;
            }
            _ => {
                plain.push(first);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_fields_and_escapes() {
        let text =
            b"36 35 98:0 /a\\040b /mnt\\134x rw shared:1 master:2 - cgroup cgroup rw,memory\n\
                     37 35 98:0 / /plain rw - cgroup2  rw\n";
        let all: Vec<_> = mounts(text).collect();
        let [first, second] = all.as_slice() else {
            unreachable!("two mounts: {all:?}")
        };
        assert_eq!(first.root, b"/a b");
        assert_eq!(first.mountpoint, b"/mnt\\x");
        assert_eq!(first.filesystem, b"cgroup");
        assert!(first.has_super_option(b"memory"));
        assert!(!first.has_super_option(b"mem"));
        assert_eq!(second.filesystem, b"cgroup2");
        assert!(second.has_super_option(b"rw"));
    }

    #[test]
    fn malformed_lines_are_passed_over() {
        let text = b"\n1\n1 2 3:4 /\n1 2 3:4 / /x rw\n1 2 3:4 / /x rw - \n1 2 3:4 / /x rw - cgroup2\n\
                     1 2 3:4 x /x rw - t s o\n1 2 3:4 / /ok rw - cgroup2 none rw\n1 2 3:4 / /cut rw - t s o";
        let points: Vec<_> = mounts(text).map(|mount| mount.mountpoint).collect();
        assert_eq!(points, [b"/ok".to_vec()]);
    }

    #[test]
    fn half_an_escape_stays_as_it_is() {
        assert_eq!(unescape(b"\\04"), b"\\04");
        assert_eq!(unescape(b"\\777"), b"\\777");
        assert_eq!(unescape(b"\\"), b"\\");
        assert_eq!(unescape(b"\\012\\011"), b"\n\t");
    }
}
