//! Hands the VM's cached, unused memory segments back to the operating system.
//!
//! Each scheduler keeps up to ten freed segments of any size. `erts_mseg_clear_cache` of the VM
//! drops the segments of the calling scheduler and the shared segments. The function is not part
//! of any API: Elixir decides whether this OTP release allows the call; this module only calls.
#![allow(unsafe_code)]

use std::mem::transmute;
use std::sync::OnceLock;

use libc::{c_void, dlsym, RTLD_DEFAULT};
use rustler::sys::{enif_thread_type, ERL_NIF_THR_NORMAL_SCHEDULER};

/// `void erts_mseg_clear_cache(void)`
type ClearCache = unsafe extern "C" fn();

pub(crate) fn supported() -> bool {
    clear_cache().is_some()
}

/// Returns whether the cache was cleared: the VM has to export the function, and the caller has to
/// be a normal scheduler.
pub(crate) fn clear_segment_cache() -> bool {
    let Some(clear_cache) = clear_cache() else {
        return false;
    };
    // SAFETY: takes nothing, and reads thread-specific data of the VM only.
    if unsafe { enif_thread_type() } != ERL_NIF_THR_NORMAL_SCHEDULER {
        return false;
    }
    // SAFETY: the function takes and returns nothing. It clears the cache of the calling
    // scheduler, without a lock, because nobody else touches it, and the shared one under its
    // lock. We are on a normal scheduler, as just checked, and a NIF call cannot migrate. A
    // segment in the cache is not in use by anybody.
    unsafe { clear_cache() };
    true
}

fn clear_cache() -> Option<ClearCache> {
    static FOUND: OnceLock<Option<ClearCache>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        // SAFETY: the name is a NUL-terminated string and RTLD_DEFAULT a valid handle.
        let symbol: *mut c_void = unsafe { dlsym(RTLD_DEFAULT, c"erts_mseg_clear_cache".as_ptr()) };
        if symbol.is_null() {
            return None;
        }
        // SAFETY: not null, and in every OTP release that exports this symbol (25 and 27 read)
        // it is a function from void to void. The VM is never unloaded.
        Some(unsafe { transmute::<*mut c_void, ClearCache>(symbol) })
    })
}
