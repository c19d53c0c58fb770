//! What the next due time of a schedule costs, and what reading one costs.

use std::hint::black_box;

use criterion::{criterion_group, criterion_main, Criterion};
use xcron::clock::Timestamp;
use xcron::schedule::{Schedule, Zone};

const SCHEDULES: [(&str, &str, &str); 8] = [
    ("crontab_common_utc", "*/5 * * * *", "UTC"),
    ("crontab_working_days_utc", "30 9 * * 1-5", "UTC"),
    ("crontab_leap_day_utc", "0 0 29 2 *", "UTC"),
    ("crontab_common_dst", "*/5 * * * *", "America/New_York"),
    ("crontab_working_days_dst", "30 9 * * 1-5", "America/New_York"),
    ("quartz_common_dst", "33 0/8 * * * ?", "America/New_York"),
    ("quartz_working_days_dst", "0 0 12 ? * MON-FRI", "America/New_York"),
    ("every", "@every 90s", "UTC"),
];

fn next_after(c: &mut Criterion) {
    let mut group = c.benchmark_group("next_after");
    for (name, format, zone) in SCHEDULES {
        let schedule = Schedule::parse(format).expect("a valid schedule");
        let zone = Zone::get(zone).expect("a known zone");
        let start = Timestamp::from_secs(1_760_000_000);
        group.bench_function(name, |bencher| {
            let mut at = start;
            // Each result is the next start, as for a task that lives on; from the beginning again after some years.
            bencher.iter(|| {
                at = schedule.next_after(&zone, start, black_box(at)).unwrap_or(start);
                if at.as_secs() > 4_000_000_000 {
                    at = start;
                }
                at
            });
        });
    }
    let impossible = Schedule::parse("0 0 30 2 *").expect("a valid schedule");
    group.bench_function("crontab_impossible", |bencher| {
        bencher
            .iter(|| impossible.next_after(&Zone::utc(), Timestamp(0), black_box(Timestamp::from_secs(1_760_000_000))));
    });
    group.finish();
}

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    for (name, format) in [
        ("crontab", "*/15 9-17 1,15 jan-jun mon-fri"),
        ("quartz", "0 0/15 9-17 ? * MON-FRI"),
        ("every", "@every 1h30m"),
        ("refused", "61 * * * *"),
    ] {
        group.bench_function(name, |bencher| bencher.iter(|| Schedule::parse(black_box(format))));
    }
    group.finish();
}

fn zone(c: &mut Criterion) {
    c.bench_function("zone_get", |bencher| bencher.iter(|| Zone::get(black_box("America/New_York"))));
}

criterion_group!(benches, next_after, parse, zone);
criterion_main!(benches);
