//! The only call to the operating system by the thread itself.
#![allow(unsafe_code)]

/// Asks for a better nice value for the calling thread, so a full run queue does not keep the
/// watcher from looking. Returns whether the system granted the request, which needs CAP_SYS_NICE.
#[cfg(target_os = "linux")]
pub(super) fn raise_priority() -> bool {
    const NICE: libc::c_int = -10;
    // SAFETY: setpriority takes three integers and no pointers. On Linux PRIO_PROCESS with 0
    // names the calling thread alone, not its process.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) == 0 }
}

/// Elsewhere the same call would change the whole process.
#[cfg(not(target_os = "linux"))]
pub(super) fn raise_priority() -> bool {
    false
}
