#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;

use clap::Parser;

use super::*;
use crate::cli::bench::options::Arguments;
use crate::cli::bench::report::Report;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

fn plan(arguments: &[&str]) -> Result<Plan, String> {
    Line::try_parse_from([&["bench"], arguments].concat()).unwrap().arguments.plan()
}

#[test]
fn plans_that_cannot_be_carried_out_are_refused() {
    assert!(plan(&["put", "--key-size", "5"]).unwrap_err().contains("6 bytes are needed"));
    assert!(plan(&["put", "--value-size", "1572864"]).unwrap_err().contains("larger than a request may be"));
    assert!(plan(&["put", "--value-size", "18446744073709551615"]).is_err());
    assert!(plan(&["put", "--duration", "0s"]).is_err());
    assert_eq!(plan(&["put", "--clients", "2", "--threads", "8"]).unwrap().threads, 2);
    assert_eq!(plan(&["put"]).unwrap().duration, Some(Duration::from_secs(10)));
    assert_eq!(plan(&["put", "--total", "5"]).unwrap().duration, None);
}

#[test]
fn keys_are_distinct_of_one_size_and_in_the_order_of_their_numbers() {
    let plan = plan(&["put", "--key-space", "1000", "--key-size", "5"]).unwrap();
    let payload = Payload::new(&plan);
    let keys: Vec<_> = (0..1000).map(|number| payload.key(number)).collect();
    assert!(keys.iter().all(|key| key.len() == 5 && key.starts_with(b"b/")));
    assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(keys[0], "b/000");
    assert_eq!(keys[999], "b/999");
    assert!(keys.iter().all(|key| *key < payload.end()));
}

#[test]
fn the_same_seed_gives_the_same_keys_and_values() {
    let plan = plan(&["put"]).unwrap();
    let draw = |seed| {
        let mut rng = Rng::new(seed, 3);
        let payload = Payload::new(&Plan { seed, ..plan.clone() });
        (0..50).map(|_| (rng.below(1000), payload.value(&mut rng))).collect::<Vec<_>>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    let values: BTreeSet<_> = draw(1).into_iter().map(|(_, value)| value).collect();
    assert!(values.len() > 45, "values repeat: {}", values.len());
    assert!(values.iter().all(|value| value.len() == 256));
}

#[test]
fn numbers_below_a_bound_reach_all_of_it_and_nothing_else() {
    let mut rng = Rng::new(7, 0);
    let seen: BTreeSet<_> = (0..1000).map(|_| rng.below(10)).collect();
    assert_eq!(seen, (0..10).collect());
    assert_eq!(rng.below(1), 0);
}

#[test]
fn shares_add_up() {
    for (total, parts) in [(1, 1), (7, 3), (3, 7), (128, 4), (0, 2)] {
        let shares: Vec<_> = (0..parts).map(|index| share(total, parts, index)).collect();
        assert_eq!(shares.iter().sum::<u32>(), total);
        assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
    }
}

#[test]
fn tickets_end_with_their_number_or_their_time() {
    let tickets = Tickets::new(&plan(&["put", "--total", "3"]).unwrap());
    let now = Instant::now();
    assert_eq!(
        (0..5).filter_map(|_| tickets.take(now)).map(|ticket| ticket.number).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    let tickets = Tickets::new(&plan(&["put", "--duration", "10s", "--warmup", "5s"]).unwrap());
    assert!(tickets.take(Instant::now() + Duration::from_secs(14)).is_some());
    assert!(tickets.take(Instant::now() + Duration::from_secs(16)).is_none());
    tickets.stop();
    assert!(tickets.take(Instant::now()).is_none());
}

#[test]
fn with_a_rate_tickets_are_due_at_fixed_times() {
    let tickets = Tickets::new(&plan(&["put", "--rate", "100", "--duration", "1s"]).unwrap());
    let now = Instant::now();
    let due: Vec<_> = std::iter::from_fn(|| tickets.take(now)).map(|ticket| ticket.due.unwrap()).collect();
    assert_eq!(due.len(), 100);
    for pair in due.windows(2) {
        let apart = pair[1] - pair[0];
        assert!(apart.abs_diff(Duration::from_millis(10)) < Duration::from_micros(10), "{apart:?}");
    }
}

#[test]
fn only_what_began_after_the_warm_up_counts() {
    let tickets = Tickets::new(&plan(&["put", "--warmup", "1s", "--duration", "1s"]).unwrap());
    let from = tickets.measure_from();
    let at = |millis: u64| from + Duration::from_millis(millis);
    let mut measured = Measured::new().unwrap();
    let mut record = |begin, now, result| record(&mut measured, &tickets, begin, now, result);
    record(from.checked_sub(Duration::from_millis(1)).unwrap(), at(5), Ok(Found::Something));
    record(at(0), at(5), Ok(Found::Something));
    record(at(10), at(20), Ok(Found::Nothing));
    record(at(20), at(21), Err(Error::NoLeader));
    // Begun in time, answered too late: its latency counts, the throughput does not.
    record(at(999), at(1_500), Ok(Found::Something));
    assert_eq!(measured.latency_us.len(), 3);
    assert_eq!((measured.done, measured.empty, measured.errors.total()), (2, 1, 1));
    assert!(measured.latency_us.max() >= 500_000);
}

#[test]
fn merging_threads_loses_nothing() {
    let mut whole = Measured::new().unwrap();
    let start = Instant::now();
    for thread in 0..4_u64 {
        let mut part = Measured::new().unwrap();
        for us in 1..=1_000 {
            part.latency_us.record(thread * 1_000 + us).unwrap();
        }
        part.done = 1_000;
        part.errors.add(format!("error {}", thread % 2), 1);
        part.from = Some(start);
        part.to = Some(start + Duration::from_secs(thread + 1));
        whole.merge(&part).unwrap();
    }
    assert_eq!(whole.done, 4_000);
    assert_eq!(whole.errors.iter().collect::<Vec<_>>(), [("error 0", 2), ("error 1", 2)]);
    assert!((whole.seconds() - 4.0).abs() < 1e-9);
    for (percentile, expected) in [(50.0, 2_000.0), (90.0, 3_600.0), (99.0, 3_960.0), (100.0, 4_000.0)] {
        let value = whole.latency_us.value_at_percentile(percentile) as f64;
        assert!((value - expected).abs() <= expected * 0.001 + 1.0, "p{percentile}: {value}");
    }
    let plan = plan(&["mixed", "--reads", "30", "--duration", "4s"]).unwrap();
    let report = Report::new(&plan, 3, &whole).json();
    assert_eq!(report["requests_per_second"], 1_000.0);
    assert_eq!(report["requests"], 4_000);
    assert_eq!(report["errors"], 4);
    assert_eq!(report["reads_percent"], 30);
    assert_eq!(report["latency_us"]["min"], 1);
}

#[test]
fn many_different_errors_are_bounded() {
    let mut errors = Errors::default();
    for number in 0..1_000 {
        errors.add(format!("error {number}"), 1);
    }
    assert_eq!(errors.total(), 1_000);
    assert_eq!(errors.iter().count(), ERROR_TEXTS + 1);
    assert_eq!(errors.iter().last(), Some(("other errors", 1_000 - ERROR_TEXTS as u64)));
}
