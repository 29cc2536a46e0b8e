//! The resource with the processes that a walk skips.

use std::panic::RefUnwindSafe;

use oom::settled::Settled;
use parking_lot::Mutex;
use rustler::{Error, LocalPid, NifResult, Resource, Term};

/// A pid of this node is one word of the VM, the same as long as the process lives.
type Word = u64;

#[derive(Default)]
pub(crate) struct SettledResource {
    settled: Mutex<Settled>,
}

#[rustler::resource_impl]
impl Resource for SettledResource {}

// After a panic the set misses processes at worst, and the next walk looks at them again.
impl RefUnwindSafe for SettledResource {}

impl SettledResource {
    /// Returns the processes of the list that are not settled.
    pub(crate) fn begin<'a>(&self, processes: Term<'a>) -> NifResult<Vec<Term<'a>>> {
        let mut all = Vec::with_capacity(processes.list_length()?);
        for process in list(processes)? {
            all.push((word(process)?, process));
        }
        let fresh = self.settled.lock().begin(all.iter().map(|(word, _)| *word));
        Ok(all
            .into_iter()
            .filter(|(word, _)| fresh.binary_search(word).is_ok())
            .map(|(_, process)| process)
            .collect())
    }

    pub(crate) fn end(&self, outside: Term<'_>) -> NifResult<()> {
        let outside = list(outside)?.map(word).collect::<NifResult<Vec<Word>>>()?;
        self.settled.lock().settle(outside);
        Ok(())
    }
}

fn list<'a>(term: Term<'a>) -> NifResult<impl Iterator<Item = Term<'a>>> {
    term.into_list_iterator()
}

fn word(process: Term<'_>) -> NifResult<Word> {
    process.decode::<LocalPid>()?;
    Word::try_from(process.as_c_arg()).map_err(|_| Error::BadArg)
}
