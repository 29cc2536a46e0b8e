//! Properties of the parsers: no bytes cause a panic, a cut never makes a wrong number, and
//! written values come back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use oom::parse::{self, Limit, MemoryStat};
use proptest::prelude::*;

// The fuzzer's seeds.
const SAMPLES: [&[u8]; 9] = [
    include_bytes!("../fuzz/seeds/limit/v1_unlimited"),
    include_bytes!("../fuzz/seeds/limit/v2_unlimited"),
    include_bytes!("../fuzz/seeds/stat/both"),
    include_bytes!("../fuzz/seeds/meminfo/machine"),
    include_bytes!("../fuzz/seeds/statm/process"),
    include_bytes!("../fuzz/seeds/psi/both"),
    include_bytes!("../fuzz/seeds/memberships/hybrid"),
    include_bytes!("../fuzz/seeds/mounts/hybrid"),
    include_bytes!("../fuzz/seeds/soft_limit/process"),
];

fn run_all(bytes: &[u8]) {
    let _ = parse::limit(bytes);
    let _ = parse::number(bytes);
    let _ = parse::memory_stat_v1(bytes);
    let _ = parse::memory_stat_v2(bytes);
    let _ = parse::plain_value(bytes, b"FDSize");
    let _ = parse::kib_value(bytes, b"VmData");
    let _ = parse::meminfo(bytes);
    let _ = parse::statm(bytes);
    let _ = parse::major_faults(bytes);
    let _ = parse::psi(bytes);
    let _ = parse::soft_limit(bytes, b"Max address space");
    for one in parse::memberships(bytes) {
        let _ = (one.is_v1_memory(), one.is_v2());
    }
    for mount in parse::mounts(bytes) {
        let _ = mount.has_super_option(b"memory");
    }
}

/// A valid file with some bytes replaced, some cut out and its end cut off.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let cut = (any::<prop::sample::Index>(), any::<prop::sample::Index>());
    (prop::sample::select(&SAMPLES[..]), edits, cut).prop_map(|(file, edits, (start, end))| {
        let mut bytes = file.to_vec();
        for (place, byte) in edits {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let start = start.index(bytes.len());
        bytes.drain(start..(start + 3).min(bytes.len()));
        bytes.truncate(end.index(bytes.len() + 1));
        bytes
    })
}

/// `part` gives the figures of `whole`, or fewer.
fn no_other_figures<T: PartialEq + std::fmt::Debug>(part: Option<T>, whole: Option<T>) {
    if part.is_some() {
        assert_eq!(part, whole);
    }
}

/// Each figure of `part` equals the figure of `whole`, or is 0 as with a missing line.
fn no_more_in_stat(part: Option<MemoryStat>, whole: Option<MemoryStat>) {
    let Some(part) = part else { return };
    let whole = whole.unwrap();
    let figures = |stat: MemoryStat| {
        [
            stat.inactive_file_bytes,
            stat.active_file_bytes,
            stat.dirty_bytes,
            stat.writeback_bytes,
            stat.mapped_bytes,
            stat.slab_reclaimable_bytes.unwrap_or(0),
            stat.refaulted_pages,
            stat.major_faults,
        ]
    };
    let pairs = figures(part).into_iter().zip(figures(whole));
    for (some, all) in pairs {
        assert!(some == 0 || some == all, "{part:?} {whole:?}");
    }
}

#[test]
fn a_file_cut_anywhere_gives_its_own_figures_or_none() {
    for whole in SAMPLES {
        for end in 0..whole.len() {
            let part = &whole[..end];
            no_other_figures(parse::limit(part), parse::limit(whole));
            no_other_figures(parse::number(part), parse::number(whole));
            no_more_in_stat(parse::memory_stat_v1(part), parse::memory_stat_v1(whole));
            no_more_in_stat(parse::memory_stat_v2(part), parse::memory_stat_v2(whole));
            no_other_figures(
                parse::plain_value(part, b"FDSize"),
                parse::plain_value(whole, b"FDSize"),
            );
            let (some, all) = (parse::meminfo(part), parse::meminfo(whole));
            no_other_figures(some.total_bytes, all.total_bytes);
            no_other_figures(some.available_bytes, all.available_bytes);
            no_other_figures(some.slab_reclaimable_bytes, all.slab_reclaimable_bytes);
            no_other_figures(some.swap_total_bytes, all.swap_total_bytes);
            no_other_figures(some.swap_free_bytes, all.swap_free_bytes);
            no_other_figures(some.commit_limit_bytes, all.commit_limit_bytes);
            no_other_figures(some.committed_bytes, all.committed_bytes);
            no_other_figures(parse::statm(part), parse::statm(whole));
            no_other_figures(parse::psi(part), parse::psi(whole));
            for name in [&b"Max data size"[..], b"Max address space"] {
                no_other_figures(
                    parse::soft_limit(part, name),
                    parse::soft_limit(whole, name),
                );
            }
            let (some, all) = (parse::memberships(part), parse::memberships(whole));
            assert!(some.zip(all).all(|(one, other)| one == other));
            assert!(parse::mounts(part)
                .zip(parse::mounts(whole))
                .all(|(one, other)| one == other));
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        run_all(&bytes);
    }

    #[test]
    fn no_text_of_the_right_letters_makes_a_parser_panic(text in "[0-9a-zA-Z_:=., /\\\\\n\t-]{0,300}") {
        run_all(text.as_bytes());
    }

    #[test]
    fn no_mutation_of_a_file_makes_a_parser_panic(bytes in mutated()) {
        run_all(&bytes);
    }

    #[test]
    fn numbers_come_back(number: u64) {
        prop_assert_eq!(parse::number(format!("{number}\n").as_bytes()), Some(number));
        prop_assert_eq!(parse::number(format!("{number}").as_bytes()), None);
        let stat = format!("a 1\ninactive_file {number}\nb 2\n");
        let found = parse::memory_stat_v2(stat.as_bytes()).map(|stat| stat.inactive_file_bytes);
        prop_assert_eq!(found, Some(number));
    }

    #[test]
    fn limits_come_back(bytes in 0_u64..1 << 62) {
        let text = format!("{bytes}\n");
        prop_assert_eq!(parse::limit(text.as_bytes()), Some(Limit::Bytes(bytes)));
        let line = format!("Max data size   {bytes}   unlimited  bytes\n");
        let found = parse::soft_limit(line.as_bytes(), b"Max data size");
        prop_assert_eq!(found, Some(Limit::Bytes(bytes)));
    }

    #[test]
    fn kib_come_back(kib in 0_u64..1 << 54) {
        let text = format!("MemFree: 7 kB\nMemAvailable:   {kib} kB\n");
        prop_assert_eq!(parse::meminfo(text.as_bytes()).available_bytes, Some(kib << 10));
        prop_assert_eq!(parse::kib_value(text.as_bytes(), b"MemAvailable"), Some(kib << 10));
    }

    #[test]
    fn psi_comes_back(cents in 0_u32..=10_000, total: u64, full: u64) {
        let avg = format!("{}.{:02}", cents / 100, cents % 100);
        let line = |total| format!("avg10={avg} avg60=0.00 avg300=0.00 total={total}\n");
        let text = format!("some {}full {}", line(total), line(full));
        let psi = parse::psi(text.as_bytes()).unwrap();
        prop_assert!((psi.some_avg10 - f64::from(cents) / 100.0).abs() < 1e-9);
        prop_assert_eq!((psi.some_total_us, psi.full_total_us), (total, full));
    }

    #[test]
    fn any_path_comes_back_from_a_membership(path in "/[^\n]{0,60}") {
        let text = format!("7:cpu:/x\n0::{path}\n");
        let found = parse::memberships(text.as_bytes()).find(|one| one.is_v2()).unwrap();
        prop_assert_eq!(found.path, path.as_bytes());
    }

    #[test]
    fn any_path_comes_back_from_mountinfo(root in "/[^\0]{0,40}", point in "/[^\0]{0,40}") {
        let escape = |path: &str| {
            path.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012")
        };
        let line = format!("1 2 0:3 {} {} rw a:1 - cgroup2 x rw\n", escape(&root), escape(&point));
        let found: Vec<_> = parse::mounts(line.as_bytes()).collect();
        prop_assert_eq!(found.len(), 1);
        prop_assert_eq!(&found[0].root, root.as_bytes());
        prop_assert_eq!(&found[0].mountpoint, point.as_bytes());
    }
}
