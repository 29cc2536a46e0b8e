//! The place of our cgroup in the file system.
//!
//! The kernel tells our cgroup (`/proc/self/cgroup`) and the mounts (`/proc/self/mountinfo`). Both
//! paths are written as seen from our cgroup namespace, so a mount shows our cgroup when the root
//! of the mount is a prefix of the path.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::super::sys;
use super::names::Version;
use crate::parse::{self, Mount};

const USUAL_PARENT: &[u8] = b"/sys/fs/cgroup";

// From linux/magic.h.
const CGROUP_SUPER_MAGIC: u32 = 0x0027_e0eb;
const CGROUP2_SUPER_MAGIC: u32 = 0x6367_7270;

/// A cgroup directory: the mount showing it, and the names from there down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) version: Version,
    pub(super) top: PathBuf,
    pub(super) below: Vec<Vec<u8>>,
}

impl Place {
    pub(super) fn directory(&self, depth: usize) -> PathBuf {
        let names = self
            .below
            .iter()
            .take(depth)
            .map(|name| OsStr::from_bytes(name));
        self.top.join(names.collect::<PathBuf>())
    }

    /// The path below the mount; `/` is the mount root.
    pub(super) fn name(&self, depth: usize) -> String {
        if depth == 0 {
            return "/".to_owned();
        }
        let names = self.below.iter().take(depth);
        names
            .map(|name| format!("/{}", String::from_utf8_lossy(name)))
            .collect()
    }
}

/// The places of our cgroup in the v1 hierarchy of memory and in the unified one.
pub(super) fn find(root: &Path, cgroup: &[u8], mountinfo: &[u8]) -> [Option<Place>; 2] {
    let mounts: Vec<_> = parse::mounts(mountinfo).collect();
    let place = |version, path: Option<&[u8]>| best(root, version, path?, &mounts);
    let v1 = parse::memberships(cgroup)
        .find(|one| one.is_v1_memory())
        .map(|one| one.path);
    let v2 = parse::memberships(cgroup)
        .find(|one| one.is_v2())
        .map(|one| one.path);
    [place(Version::V1, v1), place(Version::V2, v2)]
}

/// How well a mount shows our cgroup; later is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// Not a prefix. May still be the container's own cgroup.
    Foreign,
    /// The names between the mount and us are outside of our namespace (`/..`) and unknown.
    Hidden,
    Prefix,
}

fn best(root: &Path, version: Version, path: &[u8], mounts: &[Mount<'_>]) -> Option<Place> {
    let of_version = mounts.iter().filter(|mount| is_version(mount, version));
    let usable = of_version.filter_map(|mount| {
        let usual = is_below(&mount.mountpoint, USUAL_PARENT);
        let (fit, below) = fit(&mount.root, path);
        // A foreign mount elsewhere belongs to a foreign cgroup, shown for unrelated reasons.
        if fit == Fit::Foreign && !usual {
            return None;
        }
        let top = under(root, &mount.mountpoint);
        if !shows(root, &top, version) {
            return None;
        }
        // Of several mounts the usual mount wins, then the mount with more ancestors. Of equal
        // mounts `max_by_key` takes the last, which lies on top.
        let rank = (fit, usual, std::cmp::Reverse(mount.root.len()));
        Some((
            rank,
            Place {
                version,
                top,
                below,
            },
        ))
    });
    usable.max_by_key(|(rank, _)| *rank).map(|(_, place)| place)
}

fn is_version(mount: &Mount<'_>, version: Version) -> bool {
    match version {
        Version::V1 => mount.filesystem == b"cgroup" && mount.has_super_option(b"memory"),
        Version::V2 => mount.filesystem == b"cgroup2",
    }
}

/// Whether the mount is visible at its mountpoint. mountinfo also lists covered mounts, and the
/// magic number belongs to the mount on top. A fake tree has no magic number to ask for.
fn shows(root: &Path, top: &Path, version: Version) -> bool {
    let want = match version {
        Version::V1 => CGROUP_SUPER_MAGIC,
        Version::V2 => CGROUP2_SUPER_MAGIC,
    };
    root != Path::new("/") || sys::filesystem_magic(top) == Some(want)
}

/// How the mount with `mount_root` shows the cgroup `path`, and the names from it down to us.
fn fit(mount_root: &[u8], path: &[u8]) -> (Fit, Vec<Vec<u8>>) {
    let mut rest = names(path);
    let is_prefix = names(mount_root).all(|name| rest.next() == Some(name));
    let climbs = |path| names(path).any(|name| name == b"..");
    if !is_prefix {
        let hidden = climbs(mount_root) || climbs(path);
        return (if hidden { Fit::Hidden } else { Fit::Foreign }, Vec::new());
    }
    let below: Vec<_> = rest.map(<[u8]>::to_vec).collect();
    if below.iter().any(|name| name == b"..") {
        return (Fit::Hidden, Vec::new());
    }
    (Fit::Prefix, below)
}

fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
}

fn is_below(path: &[u8], parent: &[u8]) -> bool {
    path.strip_prefix(parent)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// An absolute path of the system, below the root that stands for `/`.
fn under(root: &Path, absolute: &[u8]) -> PathBuf {
    let path = Path::new(OsStr::from_bytes(absolute));
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below(mount_root: &str, path: &str) -> (Fit, String) {
        let (fit, below) = fit(mount_root.as_bytes(), path.as_bytes());
        let place = Place {
            version: Version::V2,
            top: PathBuf::new(),
            below,
        };
        let name = place.name(place.below.len());
        (fit, name)
    }

    #[test]
    fn roots_and_paths() {
        let cases = [
            // the host, or a private namespace
            ("/", "/a/b", Fit::Prefix, "/a/b"),
            ("/", "/", Fit::Prefix, "/"),
            // a container in the namespace of the host
            ("/docker/x", "/docker/x", Fit::Prefix, "/"),
            ("/docker/x", "/docker/x/y", Fit::Prefix, "/y"),
            // whole names, not letters
            ("/docker/x", "/docker/xy", Fit::Foreign, "/"),
            // outside of our namespace
            ("/", "/../..", Fit::Hidden, "/"),
            ("/../..", "/", Fit::Hidden, "/"),
            ("/..", "/../..", Fit::Hidden, "/"),
            ("/../..", "/../../a", Fit::Prefix, "/a"),
        ];
        for (root, path, fit, name) in cases {
            assert_eq!(below(root, path), (fit, name.to_owned()), "{root} {path}");
        }
    }
}
