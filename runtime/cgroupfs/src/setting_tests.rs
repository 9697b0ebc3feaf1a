use proptest::prelude::*;

use super::*;

const PAGE: u64 = 4096;

fn max() -> impl Strategy<Value = Max> {
    prop_oneof![Just(Max::Unlimited), (1..1u64 << 50).prop_map(Max::Value)]
}

fn io_limit(max: impl Strategy<Value = Option<Max>>) -> impl Strategy<Value = IoLimit> {
    let limits = proptest::collection::vec(max, 4);
    (0..300u32, 0..300u32, limits).prop_map(|(major, minor, limits)| {
        IoLimit::with_limits(major, minor, limits.try_into().unwrap())
    })
}

#[test]
fn a_default_weight_is_undone_without_what_single_devices_have() {
    let of = Setting::DefaultWeight;
    assert!(of(7).is_in("default 7\n8:0 100\n", PAGE));
    assert!(!of(7).is_in("default 100\n8:0 7\n", PAGE));
    assert_eq!(of(7).undo("default 100\n8:0 7\n"), "default 100");
}

proptest! {
    #[test]
    fn cpu_max_comes_back(quota in proptest::option::of(1000..1u64 << 44), period in 1000..1_000_000u64) {
        let wanted = CpuMax { quota_usec: quota, period_usec: period };
        let text = Setting::CpuMax(wanted).render();
        prop_assert_eq!(parse_cpu_max(&text), Some(wanted));
        prop_assert!(Setting::CpuMax(wanted).is_in(&(text + "\n"), PAGE));
        prop_assert!(Setting::QuotaV1(quota).is_in(&Setting::QuotaV1(quota).render(), PAGE));
    }

    #[test]
    fn memory_is_there_as_the_whole_pages_the_kernel_makes_of_it(bytes in 0..1u64 << 60) {
        let pages = (bytes / PAGE * PAGE).to_string();
        prop_assert!(Setting::Bytes(Max::Value(bytes)).is_in(&pages, PAGE));
        prop_assert!(Setting::BytesV1(Max::Value(bytes)).is_in(&pages, PAGE));
        let other = (bytes / PAGE * PAGE + PAGE).to_string();
        prop_assert!(!Setting::Bytes(Max::Value(bytes)).is_in(&other, PAGE));
    }

    #[test]
    fn io_max_comes_back(limit in io_limit(proptest::option::of(max()))) {
        let line = Setting::IoMax(limit.clone()).render();
        prop_assert_eq!(parse_io_max_line(&line), Some(limit));
    }

    /// Whatever the file says of other devices, undoing names just what this one had.
    #[test]
    fn undo_of_io_max_is_the_old_line(
        old in proptest::collection::vec(io_limit(max().prop_map(Some)), 0..4),
        new in io_limit(proptest::option::of(max())),
    ) {
        let text: String =
            old.iter().map(|l| Setting::IoMax(l.clone()).render() + "\n").collect();
        let setting = Setting::IoMax(new.clone());
        let undo = parse_io_max_line(&setting.undo(&text)).unwrap();
        let had = old.iter().find(|l| (l.major, l.minor) == (new.major, new.minor));
        let none = IoLimit::with_limits(new.major, new.minor, [Some(Max::Unlimited); 4]);
        prop_assert_eq!(&undo, had.unwrap_or(&none));
    }

    #[test]
    fn a_throttle_comes_back_and_undo_restores_it(old in max(), new in max()) {
        let of = |rate| Setting::ThrottleV1 { major: 8, minor: 16, rate };
        // The kernel lists no device without a limit.
        let listed = |rate| match rate {
            Max::Unlimited => "8:0 5\n".to_owned(),
            Max::Value(v) => format!("8:0 5\n8:16 {v}\n"),
        };
        prop_assert!(of(new).is_in(&listed(new), PAGE));
        prop_assert_eq!(of(new).is_in(&listed(old), PAGE), old == new);
        prop_assert_eq!(of(new).undo(&listed(old)), of(old).render());
    }

    #[test]
    fn a_cpu_list_is_its_set(cpus in proptest::collection::vec((0..200u32, 0..5u32), 1..8)) {
        let text =
            cpus.iter().map(|(a, n)| format!("{a}-{}", a + n)).collect::<Vec<_>>().join(",");
        let list = CpuList::parse(&text).unwrap();
        let set: std::collections::BTreeSet<u32> =
            cpus.iter().flat_map(|(a, n)| *a..=a + n).collect();
        let one_by_one = set.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        prop_assert_eq!(CpuList::parse(&one_by_one), Some(list.clone()));
        prop_assert_eq!(CpuList::parse(&list.render()), Some(list));
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in "\\PC{0,40}") {
        let _ = (CpuList::parse(&text), parse_cpu_max(&text), parse_io_max(&text));
        let _ = (parse_throttle_v1(&text), parse::pressure(&text), parse::io_stat(&text));
        let _ = (parse::max(&text), parse::bytes_v1(&text, PAGE), parse::memory_stat_v1(&text));
        let _ = crate::layout::parse_mounts(&text);
    }
}

#[test]
fn texts_are_what_the_kernel_documents() {
    let check = |setting: Setting, text: &str| assert_eq!(setting.render(), text);
    check(Setting::CpuMax(CpuMax { quota_usec: None, period_usec: 100_000 }), "max 100000");
    check(Setting::QuotaV1(None), "-1");
    check(Setting::BytesV1(Max::Unlimited), "-1");
    check(Setting::Bytes(Max::Unlimited), "max");
    check(Setting::Count(Max::Value(7)), "7");
    check(Setting::ThrottleV1 { major: 8, minor: 0, rate: Max::Unlimited }, "8:0 0");
    let limits = [Some(Max::Value(2_097_152)), None, Some(Max::Unlimited), None];
    check(Setting::IoMax(IoLimit::with_limits(8, 16, limits)), "8:16 rbps=2097152 riops=max");
}

#[test]
fn v1_says_unlimited_as_the_most_pages() {
    assert_eq!(parse::bytes_v1("9223372036854771712\n", PAGE), Some(Max::Unlimited));
    assert_eq!(
        parse::bytes_v1("9223372036854767616\n", PAGE).unwrap().value(),
        Some((1 << 63) - 8192)
    );
}

#[test]
fn io_stat_survives_devices_that_share_a_line() {
    let io = parse::io_stat("253:0 8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n7:0 \n");
    assert_eq!(io.len(), 1);
    assert_eq!((io[0].major, io[0].read_bytes, io[0].discard_ops), (8, 1, 6));
}

#[test]
fn the_files_further_lines_are_no_part_of_whether_nobody_is_killed() {
    let text = "oom_kill_disable 1\nunder_oom 0\noom_kill 0\n";
    assert!(Setting::OomControlV1(true).is_in(text, PAGE));
    assert!(!Setting::OomControlV1(false).is_in(text, PAGE));
    assert_eq!(Setting::OomControlV1(false).undo(text), "1");
}
