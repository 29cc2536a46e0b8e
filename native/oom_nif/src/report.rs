//! A report as a flat map (at most 32 keys); unknown figures are `nil`.

use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use oom::level::Level;
use oom::reading::Kind;
use oom::watcher::Report;
use rustler::{Encoder, Env, NewBinary, NifMap, NifUnitEnum, Term};

#[derive(NifUnitEnum)]
pub(crate) enum LevelAtom {
    Normal,
    Elevated,
    High,
    Critical,
}

impl From<Level> for LevelAtom {
    fn from(level: Level) -> Self {
        match level {
            Level::Normal => Self::Normal,
            Level::Elevated => Self::Elevated,
            Level::High => Self::High,
            Level::Critical => Self::Critical,
        }
    }
}

#[derive(NifUnitEnum)]
enum SourceAtom {
    #[allow(clippy::enum_variant_names)]
    CgroupV2,
    CgroupV2High,
    CgroupV1,
    CgroupV1Memsw,
    Host,
    RlimitAs,
    RlimitData,
    Commit,
    Configured,
}

impl From<Kind> for SourceAtom {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::CgroupV2Max => Self::CgroupV2,
            Kind::CgroupV2High => Self::CgroupV2High,
            Kind::CgroupV1 => Self::CgroupV1,
            Kind::CgroupV1Memsw => Self::CgroupV1Memsw,
            Kind::Host => Self::Host,
            Kind::RlimitAs => Self::RlimitAs,
            Kind::RlimitData => Self::RlimitData,
            Kind::Commit => Self::Commit,
            Kind::Configured => Self::Configured,
        }
    }
}

/// Bytes to be encoded as a binary.
struct Bytes<'a>(&'a [u8]);

impl Encoder for Bytes<'_> {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let mut binary = NewBinary::new(env, self.0.len());
        binary.as_mut_slice().copy_from_slice(self.0);
        binary.into()
    }
}

#[derive(NifMap)]
#[rustler(encode)]
pub(crate) struct ReportMap<'a> {
    level: LevelAtom,
    source: Option<SourceAtom>,
    file: Option<Bytes<'a>>,
    cgroup: Option<Bytes<'a>>,
    limit_bytes: Option<u64>,
    usage_bytes: Option<u64>,
    reclaimable_bytes: Option<u64>,
    working_set_bytes: Option<u64>,
    headroom_bytes: Option<u64>,
    elevated_headroom_bytes: Option<u64>,
    high_headroom_bytes: Option<u64>,
    critical_headroom_bytes: Option<u64>,
    slack_bytes: Option<u64>,
    growth_bytes_per_s: Option<i64>,
    surge_bytes_per_s: Option<u64>,
    drift_bytes_per_s: Option<u64>,
    trend_bytes_per_s: Option<i64>,
    peak_bytes: Option<u64>,
    time_to_exhaustion_ms: Option<u64>,
    rss_bytes: Option<u64>,
    swap_limit_bytes: Option<u64>,
    swap_usage_bytes: Option<u64>,
    psi_some_avg10: Option<f64>,
    psi_some_total_us: Option<u64>,
    psi_full_avg10: Option<f64>,
    psi_full_total_us: Option<u64>,
    interval_us: u64,
    age_us: u64,
    samples: u64,
}

impl<'a> ReportMap<'a> {
    /// `age` is the time since the sample was taken.
    pub(crate) fn new(report: &'a Report, age: Duration) -> Self {
        let binding = report.sample.binding.as_ref();
        let (begins, swap, psi) = (report.begins, report.sample.swap, report.sample.psi);
        Self {
            level: report.level.into(),
            source: binding.map(|b| b.kind.into()),
            file: binding
                .and_then(|b| b.file.as_ref())
                .map(|file| Bytes(file.as_os_str().as_bytes())),
            cgroup: binding
                .and_then(|b| b.cgroup.as_ref())
                .map(|path| Bytes(path.as_bytes())),
            limit_bytes: binding.map(|b| b.limit_bytes),
            usage_bytes: binding.map(|b| b.usage_bytes),
            reclaimable_bytes: binding.map(|b| b.reclaimable_bytes),
            working_set_bytes: binding.map(|b| b.working_set_bytes),
            headroom_bytes: binding.map(|b| b.headroom_bytes()),
            elevated_headroom_bytes: begins.map(|b| b.elevated),
            high_headroom_bytes: begins.map(|b| b.high),
            critical_headroom_bytes: begins.map(|b| b.critical),
            slack_bytes: report.slack_bytes,
            growth_bytes_per_s: report.growth_bytes_per_s,
            surge_bytes_per_s: report.surge_bytes_per_s,
            drift_bytes_per_s: report.drift_bytes_per_s,
            trend_bytes_per_s: report.trend_bytes_per_s,
            peak_bytes: report.peak_bytes,
            time_to_exhaustion_ms: report.time_to_exhaustion.map(millis),
            rss_bytes: report.sample.rss_bytes,
            swap_limit_bytes: swap.map(|s| s.limit_bytes),
            swap_usage_bytes: swap.map(|s| s.usage_bytes),
            psi_some_avg10: psi.map(|p| p.some_avg10),
            psi_some_total_us: psi.map(|p| p.some_total_us),
            psi_full_avg10: psi.map(|p| p.full_avg10),
            psi_full_total_us: psi.map(|p| p.full_total_us),
            interval_us: micros(report.interval),
            age_us: micros(age),
            samples: report.samples,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
