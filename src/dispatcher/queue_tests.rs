//! Unit tests of the queue.

use super::*;
use crate::id::RunKey;

fn job(seq: Seq, target: &str, at: u64) -> Job {
    let (id, key) = (crate::id::TaskId::generate(), RunKey::scheduled(Timestamp(at)));
    Job { seq, id, target: target.into(), key, attempt: 1, at: Timestamp(at) }
}

const NOW: Timestamp = Timestamp(1_000_000);
const SOON: Pace = Pace::Answered(Duration::from_millis(5));
const SMALL: Bounds = Bounds { all: 20, line: 8, held_line: 4, line_min: 2 };
const PATIENCE: Patience =
    Patience { hold_after: 2, probe_min: Duration::from_millis(500), probe_max: Duration::from_secs(30) };

fn queue(in_flight_max: usize, per_target_max: usize) -> Queue {
    Queue::new(in_flight_max, per_target_max, PATIENCE, Bounds::default())
}

fn small(in_flight_max: usize, per_target_max: usize) -> Queue {
    Queue::new(in_flight_max, per_target_max, PATIENCE, SMALL)
}

/// Ends a job of which nothing but its target counts.
fn free(queue: &mut Queue, target: &str) {
    assert_eq!(queue.release(&job(0, target, 0), Reach::Reached, SOON, NOW), None);
}

/// Jobs that are due at the times of their numbers.
fn fill(queue: &mut Queue, target: &str, seqs: std::ops::RangeInclusive<Seq>) {
    for seq in seqs {
        queue.push(job(seq, target, seq), true);
    }
}

fn pop(queue: &mut Queue) -> Option<Seq> {
    queue.pop().map(|job| job.seq)
}

#[test]
fn the_target_with_the_fewest_in_flight_goes_first_and_of_equals_the_one_that_waits_longest() {
    let mut queue = queue(100, 10);
    fill(&mut queue, "a", 1..=4);
    assert_eq!((pop(&mut queue), pop(&mut queue)), (Some(1), Some(2)));
    fill(&mut queue, "b", 5..=6);
    fill(&mut queue, "c", 7..=8);
    let order: Vec<_> = std::iter::from_fn(|| pop(&mut queue)).collect();
    assert_eq!(order, [5, 7, 6, 8, 3, 4]);
}

#[test]
fn targets_that_hang_leave_places_to_the_others_however_many_they_are() {
    for hosts in [8, 200, 1000] {
        let mut queue = queue(512, 64);
        queue.push(job(1, "quick", 1), true);
        assert_eq!(pop(&mut queue), Some(1));
        free(&mut queue, "quick");
        (0..hosts).for_each(|host| fill(&mut queue, &format!("hangs{host}"), 1..=64));
        let mut hanging: Vec<Job> = std::iter::from_fn(|| queue.pop()).collect();
        for round in 0..50 {
            queue.push(job(9, "quick", 1_000 + round), true);
            assert_eq!(pop(&mut queue), Some(9), "{hosts} hosts, round {round}, {} hang", hanging.len());
            free(&mut queue, "quick");
            // All of them time out, and the next ones go.
            for job in hanging.drain(..) {
                assert_eq!(queue.release(&job, Reach::Unclear, Pace::TimedOut, NOW), None);
            }
            hanging.extend(std::iter::from_fn(|| queue.pop()));
            if round > 10 && !hanging.is_empty() {
                assert!(hanging.len() <= 256 && hanging.len() <= 2 * hosts, "{} of {hosts} hosts", hanging.len());
                fill(&mut queue, &format!("new{round}"), 7..=7);
                assert_eq!(pop(&mut queue), Some(7), "one that is new has its place too");
                free(&mut queue, &format!("new{round}"));
            }
        }
    }
}

#[test]
fn a_backlog_at_many_targets_lets_what_is_due_now_wait_one_round_at_most() {
    let mut queue = queue(512, 64);
    for target in 0..5000 {
        fill(&mut queue, &format!("t{target}"), 1..=20);
    }
    let mut flying: std::collections::VecDeque<Job> = std::iter::from_fn(|| queue.pop()).collect();
    queue.push(job(99, "healthy", 9_000), true);
    let mut waited = 0;
    loop {
        let ended = flying.pop_front().unwrap();
        queue.release(&ended, Reach::Reached, SOON, NOW);
        let next = queue.pop().expect("a place is free");
        if next.seq == 99 {
            break;
        }
        waited += 1;
        flying.push_back(next);
    }
    assert!(waited <= 5000, "{waited} went before it");
}

#[test]
fn one_that_is_due_now_comes_in_where_the_line_is_full() {
    let mut queue = small(100, 1);
    fill(&mut queue, "a", 1..=100);
    assert_eq!(pop(&mut queue), Some(1));
    assert!(queue.push(job(500, "a", 60_000), true) && queue.push(job(501, "a", 60_001), true));
    assert!(!queue.push(job(502, "a", 60_002), true), "so many as the least that any line may have");
    assert_eq!(queue.len(), 102);
    free(&mut queue, "a");
    assert_eq!(pop(&mut queue), Some(500));
}

/// Whatever happens to the queue, what it counts is what there is, and nothing gets lost.
#[test]
fn what_is_counted_is_what_there_is() {
    let mut seed = 1_u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for _ in 0..20 {
        let mut queue = Queue::new(12, 5, Patience { hold_after: 0, ..PATIENCE }, SMALL);
        let (mut flying, mut pushed, mut popped) = (Vec::new(), 0, 0);
        for n in 1..=2000 {
            match random(5) {
                0 | 1 => {
                    let target = format!("t{}", random(6));
                    pushed += usize::from(queue.push(job(n, &target, random(10_000)), random(2) == 0));
                }
                2 | 3 => flying.extend(queue.pop().inspect(|_| popped += 1)),
                _ if flying.is_empty() => {}
                _ => {
                    let ended: Job = flying.swap_remove(random(flying.len() as u64) as usize);
                    let paces = [SOON, Pace::TimedOut, Pace::Unknown, Pace::Answered(Duration::from_secs(9))];
                    queue.release(&ended, Reach::Unclear, paces[random(4) as usize], NOW);
                }
            }
            let ready: usize = queue.ready.iter().map(BTreeSet::len).sum();
            let waits = queue.lines.values().filter(|line| line.tell(5).ready).count();
            assert_eq!((queue.in_flight(), ready), (flying.len(), waits));
            let waiting: usize = queue.lines.values().map(|line| line.waiting.len()).sum();
            assert_eq!((pushed - popped, queue.waiting, queue.len()), (waiting, [waiting, 0], waiting + queue.spilled));
            assert!(flying.len() <= 12);
        }
    }
}

#[test]
fn a_target_without_a_place_holds_up_only_its_own() {
    let mut queue = queue(3, 1);
    for (seq, target, at) in [(1, "slow", 1), (2, "slow", 2), (3, "quick", 3), (4, "quick", 4), (5, "other", 5)] {
        assert!(queue.push(job(seq, target, at), true));
    }
    assert_eq!((pop(&mut queue), pop(&mut queue)), (Some(1), Some(3)));
    free(&mut queue, "quick");
    assert_eq!((pop(&mut queue), pop(&mut queue)), (Some(5), Some(4)));
    assert_eq!(queue.in_flight(), 3);
    free(&mut queue, "quick");
    assert_eq!(pop(&mut queue), None, "the slow one has no place");
    free(&mut queue, "slow");
    assert_eq!((pop(&mut queue), queue.len()), (Some(2), 0));
}

#[test]
fn what_waits_can_be_let_go_of_while_something_is_in_flight() {
    let mut queue = queue(1, 1);
    queue.push(job(1, "a", 1), true);
    queue.push(job(2, "a", 2), true);
    assert_eq!(pop(&mut queue), Some(1));
    assert_eq!(queue.drain().len(), 1);
    free(&mut queue, "a");
    assert_eq!((queue.len(), queue.in_flight(), queue.lines.len()), (0, 0, 0));
}

fn fail(queue: &mut Queue, job: &Job) -> Option<Probe> {
    queue.release(job, Reach::Unreached("refused".into()), Pace::Unreached, NOW)
}

/// A queue in which "dead" is held, and the id of its hold.
fn with_a_hold(mut queue: Queue) -> (Queue, u64) {
    queue.push(job(901, "dead", 1), true);
    queue.push(job(902, "dead", 2), true);
    let (first, second) = (queue.pop().unwrap(), queue.pop().unwrap());
    assert_eq!(fail(&mut queue, &first), None);
    let probe = fail(&mut queue, &second).expect("a probe");
    assert_eq!((queue.held(), probe.pause), (1, Duration::from_millis(500)));
    (queue, probe.id)
}

#[test]
fn a_held_target_waits_and_one_job_goes_before_the_others() {
    let (mut queue, id) = with_a_hold(queue(10, 10));
    for (seq, at) in [(3, 30), (1, 10), (2, 20)] {
        assert!(queue.push(job(seq, "dead", at), true));
    }
    queue.push(job(9, "quick", 99), true);
    assert_eq!((pop(&mut queue), pop(&mut queue)), (Some(9), None), "what is held goes nowhere");
    assert!(queue.probes(&"dead".into(), id));
    assert_eq!(queue.probed(&"dead".into(), id, Some("no".into()), NOW).unwrap().pause, Duration::from_secs(1));
    assert_eq!(pop(&mut queue), None);
    assert_eq!(queue.probed(&"dead".into(), id, None, NOW), None);
    let first = queue.pop().expect("one goes first");
    assert_eq!((first.seq, pop(&mut queue)), (1, None));
    assert_eq!(fail(&mut queue, &first).unwrap().pause, Duration::from_secs(2), "held again, for longer");
    assert_eq!((pop(&mut queue), queue.held()), (None, 1));
    queue.probed(&"dead".into(), id, None, NOW);
    let second = queue.pop().unwrap();
    assert_eq!(second.seq, 2);
    queue.push(job(1, "dead", 10), true);
    assert_eq!(queue.release(&second, Reach::Reached, SOON, NOW), None);
    assert_eq!((pop(&mut queue), pop(&mut queue), queue.held()), (Some(1), Some(3), 0), "the earliest first");
    assert_eq!(queue.outage(&"dead".into(), Timestamp(5)), Some((NOW, Some(NOW))));
    assert_eq!(queue.outage(&"dead".into(), NOW.plus_ms(1)), None);
}

#[test]
fn what_is_held_or_spilled_takes_no_room() {
    let (mut queue, _) = with_a_hold(small(10, 10));
    let all = queue.room();
    let kept = (1..=1000).filter(|seq| queue.push(job(*seq, "dead", *seq), true)).count();
    assert_eq!((kept, queue.len(), queue.room()), (SMALL.held_line, 1000, all));
    assert!(queue.push(job(2000, "quick", 5000), true));
    assert_eq!((pop(&mut queue), queue.room()), (Some(2000), all));
}

#[test]
fn a_target_that_hangs_does_not_take_the_room_of_others() {
    let mut queue = small(100, 1);
    for target in ["a", "b", "c", "d"] {
        fill(&mut queue, target, 1..=100);
        assert!(queue.pop().is_some());
    }
    assert!(queue.room() > 0 && queue.room() <= 2 * SMALL.all - SMALL.all, "{}", queue.room());
    assert!(queue.push(job(1, "quick", 500), true) && queue.push(job(2, "quick", 501), true));
    assert!(!queue.push(job(3, "quick", 502), true), "spilled, and it comes again");
    assert_eq!((pop(&mut queue), pop(&mut queue)), (Some(1), None));
}

#[test]
fn what_was_spilled_comes_back_earliest_first_when_there_is_room() {
    let mut queue = small(1, 1);
    let kept: Vec<Seq> = (1..=30).filter(|seq| queue.push(job(*seq, "a", *seq), true)).collect();
    assert_eq!(kept, (1..=8).collect::<Vec<_>>());
    assert_eq!(queue.spilled, 22);
    let (mut order, mut now) = (Vec::new(), crate::clock::monotonic());
    assert!(queue.returns(None, now).is_empty(), "no room yet");
    while let Some(job) = queue.pop() {
        order.push(job.seq);
        queue.release(&job, Reach::Reached, SOON, NOW);
        let returned = queue.returns(Some(&"a".into()), now);
        assert!(queue.returns(Some(&"a".into()), now).is_empty(), "not asked for twice");
        // The last to be spilled comes first: it must not overtake.
        for seq in returned.iter().rev() {
            queue.push(self::job(*seq, "a", *seq), true);
        }
        now += RETURNS_PATIENCE;
    }
    assert_eq!(order, (1..=30).collect::<Vec<_>>());
    assert_eq!((queue.len(), queue.spilled, queue.lines.len(), queue.spilling.len()), (0, 0, 0, 0));
}

#[test]
fn what_is_given_back_and_does_not_come_is_not_waited_for_long() {
    let mut queue = small(100, 100);
    fill(&mut queue, "a", 1..=30);
    while pop(&mut queue).is_some() {}
    let now = crate::clock::monotonic();
    assert_eq!(queue.returns(None, now).len(), SMALL.line);
    assert!(queue.returns(None, now + RETURNS_EVERY).is_empty());
    assert_eq!(queue.returns(None, now + RETURNS_PATIENCE).len(), SMALL.line);
}

#[test]
fn a_job_that_comes_again_by_itself_is_not_spilled() {
    let (mut queue, _) = with_a_hold(small(10, 10));
    (1..=4).for_each(|seq| assert!(queue.push(job(seq, "dead", seq), false)));
    assert!(!queue.push(job(5, "dead", 5), false));
    assert_eq!((queue.len(), queue.spilled), (4, 0));
    let removed = queue.remove(&"dead".into(), &[job(2, "dead", 2), job(7, "dead", 7)]);
    assert_eq!((removed.len(), queue.len()), (1, 3));
}

#[test]
fn nothing_is_known_of_targets_once_this_node_does_not_lead() {
    let (mut queue, id) = with_a_hold(small(10, 10));
    fill(&mut queue, "dead", 1..=9);
    assert_eq!(queue.show(None, None, 10)[0].waiting, 9);
    assert_eq!(queue.drain().len(), 4);
    assert_eq!((queue.len(), queue.held(), queue.lines.len()), (0, 0, 0));
    assert!(!queue.probes(&"dead".into(), id) && queue.probed(&"dead".into(), id, None, NOW).is_none());
    assert!(queue.returns(None, crate::clock::monotonic()).is_empty());
}

#[test]
fn targets_are_shown_by_state_in_the_order_of_their_names() {
    let (mut queue, id) = with_a_hold(queue(10, 2));
    for (seq, target) in [(1, "c"), (2, "a"), (3, "a"), (4, "dead")] {
        queue.push(job(seq, target, seq), true);
    }
    let names = |state, after, limit| -> Vec<String> {
        queue.show(state, after, limit).into_iter().map(|view| view.target).collect()
    };
    assert_eq!(names(None, None, 10), ["a", "c", "dead"]);
    assert_eq!((names(None, None, 2), names(None, Some("a"), 1)), (vec!["a".into(), "c".into()], vec!["c".into()]));
    assert_eq!(names(Some(TargetState::Held), None, 10), ["dead"]);
    let held = queue.show(Some(TargetState::Held), None, 1).remove(0);
    assert_eq!((held.waiting, held.consecutive_failures, held.last_error.as_deref()), (1, 2, Some("refused")));
    assert_eq!((held.held_since, held.next_probe), (Some(NOW), Some(NOW.plus_ms(500))));
    queue.probes(&"dead".into(), id);
    assert_eq!(queue.show(Some(TargetState::Probing), None, 9).len(), 1);
}
