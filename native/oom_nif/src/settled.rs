//! The resource with the processes skipped by a walk.

use std::panic::RefUnwindSafe;

use oom::settled::Settled;
use parking_lot::Mutex;
use rustler::{Error, LocalPid, NifResult, Resource, Term};

/// A local pid is one word of the VM, and stays the same for the life of the process.
type Word = u64;

#[derive(Default)]
pub(crate) struct SettledResource {
    settled: Mutex<Settled>,
}

#[rustler::resource_impl]
impl Resource for SettledResource {}

// A panic leaves a set without some processes at worst, and the next walk places these again.
impl RefUnwindSafe for SettledResource {}

impl SettledResource {
    /// Returns the processes of the list that are not settled.
    pub(crate) fn begin<'a>(&self, processes: Term<'a>) -> NifResult<Vec<Term<'a>>> {
        let mut all = Vec::with_capacity(processes.list_length()?);
        for process in processes.into_list_iterator()? {
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
        let outside = outside.into_list_iterator()?.map(word);
        let outside = outside.collect::<NifResult<Vec<Word>>>()?;
        self.settled.lock().settle(outside);
        Ok(())
    }
}

fn word(process: Term<'_>) -> NifResult<Word> {
    process.decode::<LocalPid>()?;
    Word::try_from(process.as_c_arg()).map_err(|_| Error::BadArg)
}
