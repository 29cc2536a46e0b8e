//! The configuration map, decoded and checked by the types of the `oom` crate.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oom::pace::Pace;
use oom::source::Options;
use oom::watcher::Config;
use oom::watermarks::{TimeToExhaustion, Watermarks};
use rustler::types::atom::nil;
use rustler::{Atom, Binary, Decoder, Term};

mod atoms {
    rustler::atoms! {
        limit_bytes, root, watermarks, tte_ms, min_interval_ms, max_interval_ms,
        invalid_config, thread_not_started, owner_not_alive,
    }
}

/// The decoded configuration of a watcher.
pub(crate) struct Settings {
    pub(crate) watcher: Config,
    pub(crate) source: Options,
}

/// Why no watcher was started.
pub(crate) struct Refused {
    pub(crate) reason: Atom,
    pub(crate) message: String,
}

impl Refused {
    fn config(message: impl ToString) -> Self {
        Self {
            reason: atoms::invalid_config(),
            message: message.to_string(),
        }
    }

    pub(crate) fn owner() -> Self {
        Self {
            reason: atoms::owner_not_alive(),
            message: "the owner is not alive".to_owned(),
        }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        let message = format!("the watcher's thread could not be started: {error}");
        Self {
            reason: atoms::thread_not_started(),
            message,
        }
    }
}

/// Every key may be missing or `nil`; then the default applies.
pub(crate) fn decode(config: Term<'_>) -> Result<Settings, Refused> {
    if !config.is_map() {
        return Err(Refused::config("expected a map"));
    }
    let root = field::<Binary>(config, atoms::root(), "root", "a binary")?;
    let root = root.map_or_else(
        || PathBuf::from("/"),
        |bytes| Path::new(OsStr::from_bytes(bytes.as_slice())).to_path_buf(),
    );
    let limit_bytes = field(
        config,
        atoms::limit_bytes(),
        "limit_bytes",
        "a number of bytes",
    )?;
    let watcher = Config {
        watermarks: watermarks(config)?,
        times: times(config)?,
        pace: pace(config)?,
        ..Config::default()
    };
    Ok(Settings {
        watcher,
        source: Options { root, limit_bytes },
    })
}

fn watermarks(config: Term<'_>) -> Result<Watermarks, Refused> {
    let shape = "{elevated, high, critical} as fractions of the limit";
    match field::<(Number, Number, Number)>(config, atoms::watermarks(), "watermarks", shape)? {
        None => Ok(Watermarks::Auto),
        Some((elevated, high, critical)) => {
            Watermarks::fractions(elevated.0, high.0, critical.0).map_err(Refused::config)
        }
    }
}

fn times(config: Term<'_>) -> Result<TimeToExhaustion, Refused> {
    let shape = "{elevated, high, critical} in milliseconds";
    match field::<(Number, Number, Number)>(config, atoms::tte_ms(), "tte_ms", shape)? {
        None => Ok(TimeToExhaustion::default()),
        Some((elevated, high, critical)) => TimeToExhaustion::new(
            millis("tte_ms", elevated)?,
            millis("tte_ms", high)?,
            millis("tte_ms", critical)?,
        )
        .map_err(Refused::config),
    }
}

fn pace(config: Term<'_>) -> Result<Pace, Refused> {
    let bound = |key, name, default| match field(config, key, name, "milliseconds")? {
        None => Ok(default),
        Some(number) => millis(name, number),
    };
    let default = Pace::default();
    let min = bound(atoms::min_interval_ms(), "min_interval_ms", default.min())?;
    let max = bound(atoms::max_interval_ms(), "max_interval_ms", default.max())?;
    Pace::new(min, max).map_err(Refused::config)
}

fn millis(name: &str, Number(number): Number) -> Result<Duration, Refused> {
    Duration::try_from_secs_f64(number / 1000.0)
        .map_err(|_| Refused::config(format!("{name}: expected milliseconds, got: {number}")))
}

fn field<'a, T: Decoder<'a>>(
    config: Term<'a>,
    key: Atom,
    name: &str,
    expected: &str,
) -> Result<Option<T>, Refused> {
    match config.map_get(key) {
        Err(_) => Ok(None),
        Ok(value) if nil() == value => Ok(None),
        Ok(value) => match value.decode() {
            Ok(decoded) => Ok(Some(decoded)),
            Err(_) => Err(Refused::config(format!(
                "{name}: expected {expected} or nil, got: {value:?}"
            ))),
        },
    }
}

/// An integer or a float.
struct Number(f64);

impl<'a> Decoder<'a> for Number {
    fn decode(term: Term<'a>) -> rustler::NifResult<Self> {
        match term.decode::<f64>() {
            Ok(float) => Ok(Self(float)),
            Err(_) => term.decode::<i64>().map(|integer| Self(integer as f64)),
        }
    }
}
