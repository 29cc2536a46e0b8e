//! `/proc/self/cgroup`: the cgroup of the process in each hierarchy.

use super::lines;

/// One line: `4:memory:/path` (v1) or `0::/path` (v2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership<'a> {
    controllers: &'a [u8],
    /// As seen from our cgroup namespace: the path can start with `/..` and hold colons.
    pub path: &'a [u8],
}

impl Membership<'_> {
    /// The unified hierarchy names no controllers.
    #[must_use]
    pub fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    /// A v1 hierarchy that carries the memory controller.
    #[must_use]
    pub fn is_v1_memory(&self) -> bool {
        self.controllers
            .split(|byte| *byte == b',')
            .any(|name| name == b"memory")
    }
}

/// The well-formed lines; malformed lines are skipped.
pub fn memberships(bytes: &[u8]) -> impl Iterator<Item = Membership<'_>> {
    lines(bytes).filter_map(|line| {
        // At most three fields: the path begins after the second colon and may hold colons.
        let mut fields = line.splitn(3, |byte| *byte == b':');
        let hierarchy = super::value::digits(fields.next()?)?;
        let controllers = fields.next()?;
        let path = fields.next().filter(|path| path.starts_with(b"/"))?;
        // Only hierarchy 0 is the unified hierarchy.
        ((hierarchy == 0) == controllers.is_empty()).then_some(Membership { controllers, path })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colons_belong_to_the_path() {
        let text = b"4:cpu,memory:/a:b/c\n1:name=systemd:/x\n0::/d:e\n";
        let all: Vec<_> = memberships(text).collect();
        assert_eq!(all.len(), 3);
        let v1 = all
            .iter()
            .find(|one| one.is_v1_memory())
            .map(|one| one.path);
        let v2 = all.iter().find(|one| one.is_v2()).map(|one| one.path);
        assert_eq!(v1, Some(&b"/a:b/c"[..]));
        assert_eq!(v2, Some(&b"/d:e"[..]));
    }

    #[test]
    fn a_hierarchy_merely_named_memory_is_not_the_controller() {
        assert!(!memberships(b"1:name=memory:/x\n").any(|one| one.is_v1_memory()));
    }

    #[test]
    fn cut_off_and_foreign_lines_are_passed_over() {
        assert_eq!(memberships(b"0::/a").count(), 0);
        assert_eq!(
            memberships(b"\n::\n0:\nx::/a\n0::a\n1::/a\n0:memory:/a\n").count(),
            0
        );
    }
}
