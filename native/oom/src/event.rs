//! A descriptor that wakes a thread, rung by this process or by the kernel; and a wait on two of
//! them.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// An eventfd. Stays readable from the first ring until cleared.
#[derive(Debug)]
pub(crate) struct Event(File);

impl Event {
    /// Fails where the system has no eventfd, or no descriptor is left.
    #[cfg(target_os = "linux")]
    pub(crate) fn new() -> io::Result<Self> {
        use std::os::fd::{FromRawFd, OwnedFd};

        // SAFETY: eventfd takes two integers and no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was opened just now, and nobody else knows of it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self(File::from(fd)))
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn ring(&self) {
        // Fails only after 2^64 - 2 rings.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    pub(crate) fn clear(&self) {
        // Fails where nothing was rung.
        let _ = (&self.0).read(&mut [0; 8]);
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until a descriptor is readable or gone, at most for `at_most`. Returns for each
/// descriptor whether it is ready.
#[cfg(target_os = "linux")]
pub(crate) fn wait(
    one: BorrowedFd<'_>,
    other: Option<BorrowedFd<'_>>,
    at_most: Duration,
) -> [bool; 2] {
    use std::os::fd::AsRawFd;

    // The kernel ignores negative descriptors.
    let entry = |fd: Option<BorrowedFd<'_>>| libc::pollfd {
        fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    };
    let mut fds = [entry(Some(one)), entry(other)];
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(at_most.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: at_most.subsec_nanos().into(),
    };
    // SAFETY: `fds` and `time` outlive the call, and the number passed is the length of the array;
    // no signal mask is passed.
    let ready = unsafe { libc::ppoll(fds.as_mut_ptr(), 2, &time, std::ptr::null()) };
    // After a signal nothing is ready; the caller looks, and waits again.
    fds.map(|fd| ready > 0 && fd.revents != 0)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn wait(
    _one: BorrowedFd<'_>,
    _other: Option<BorrowedFd<'_>>,
    _at_most: Duration,
) -> [bool; 2] {
    [false; 2]
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn what_was_rung_before_is_not_waited_for() -> io::Result<()> {
        let (one, other) = (Event::new()?, Event::new()?);
        one.ring();
        one.ring();
        assert_eq!(wait(one.fd(), None, HOUR), [true, false]);
        assert_eq!(wait(one.fd(), Some(other.fd()), HOUR), [true, false]);
        other.ring();
        assert_eq!(wait(one.fd(), Some(other.fd()), HOUR), [true, true]);
        one.clear();
        assert_eq!(wait(one.fd(), Some(other.fd()), HOUR), [false, true]);
        other.clear();
        other.clear();
        assert_eq!(
            wait(one.fd(), Some(other.fd()), Duration::ZERO),
            [false, false]
        );
        Ok(())
    }

    #[test]
    fn a_ring_wakes_who_waits() -> io::Result<()> {
        let (one, other) = (Event::new()?, Event::new()?);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| wait(one.fd(), Some(other.fd()), HOUR));
            other.ring();
            assert_eq!(waiting.join().ok(), Some([false, true]));
        });
        Ok(())
    }
}
