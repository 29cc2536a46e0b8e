//! Two figures not found in any file, asked of libc; the only unsafe code of the sources.

use std::path::Path;

/// The unit of `statm`.
pub(super) fn page_bytes() -> Option<u64> {
    // SAFETY: sysconf takes a plain number and touches no memory of ours.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).ok().filter(|bytes| *bytes > 0)
}

/// Returns the magic number of the filesystem visible at `path`; `None` on failure.
#[cfg(target_os = "linux")]
pub(super) fn filesystem_magic(path: &Path) -> Option<u32> {
    use std::os::unix::ffi::OsStrExt;

    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut answer = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `path` ends with a NUL and outlives the call; `answer` is large enough for the
    // output of statfs, and is read only after statfs reported success, so after it was filled.
    let answer = unsafe {
        if libc::statfs(path.as_ptr(), answer.as_mut_ptr()) != 0 {
            return None;
        }
        answer.assume_init()
    };
    // The type of the field differs between architectures; magic numbers have 32 bits.
    Some(answer.f_type as u32)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn filesystem_magic(_path: &Path) -> Option<u32> {
    None
}
