//! Name servers that are silent, late, or say that there is no such name.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A name server that is told what to say. A name that begins with "silent" never gets an answer.
#[derive(Default)]
struct Server {
    says: Mutex<HashMap<String, Vec<IpAddr>>>,
    /// Whether it answers at all.
    is_silent: Mutex<bool>,
    asked: AtomicUsize,
    /// The names whose lookups are under way.
    going: Mutex<Vec<String>>,
    /// The most of them at once.
    most: AtomicUsize,
}

impl Server {
    fn new() -> Arc<Server> {
        Arc::default()
    }

    fn says(&self, name: &str, ips: &[&str]) {
        let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        self.says.lock().unwrap().insert(name.to_owned(), ips);
    }

    fn falls_silent(&self, is_silent: bool) {
        *self.is_silent.lock().unwrap() = is_silent;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn lookup(self: &Arc<Self>) -> Lookup {
        let server = self.clone();
        Arc::new(move |name| {
            let (server, name) = (server.clone(), name.to_owned());
            server.asked.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                let going = {
                    let mut going = server.going.lock().unwrap();
                    going.push(name.clone());
                    going.len()
                };
                server.most.fetch_max(going, Ordering::Relaxed);
                if *server.is_silent.lock().unwrap() || name.starts_with("silent") {
                    tokio::time::sleep(SILENCE).await;
                }
                server.going.lock().unwrap().retain(|other| *other != name);
                if *server.is_silent.lock().unwrap() || name.starts_with("silent") {
                    return Err(io::Error::other("Temporary failure in name resolution"));
                }
                Ok(server.says.lock().unwrap().get(&name).cloned().unwrap_or_default())
            })
        })
    }
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|ip| ip.parse().unwrap()).collect()
}

async fn found(names: &Names, name: &str) -> Vec<IpAddr> {
    names.addresses(name).await.unwrap()
}

/// For how long the system's resolver waits for a name server that is silent.
const SILENCE: Duration = Duration::from_millis(600);
const PATIENCE: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_millis(300);
const STALE_MAX: Duration = Duration::from_secs(2);
const FRESH: Duration = Duration::ZERO;

fn of_peers(server: &Arc<Server>) -> Names {
    let (patience, wait_max) = (PATIENCE, WAIT_MAX);
    Names::with(
        server.lookup(),
        Rule { places: 8, slow: 2 * PATIENCE, fresh: FRESH, patience, wait_max, stale_max: None },
    )
}

fn of_targets(server: &Arc<Server>) -> Names {
    let (slow, patience, stale_max) = (2 * PATIENCE, PATIENCE, Some(STALE_MAX));
    Names::with(server.lookup(), Rule { places: 8, slow, fresh: FRESH, patience, wait_max: WAIT_MAX, stale_max })
}

#[tokio::test]
async fn there_is_one_lookup_of_a_name_at_a_time_and_waiting_is_bounded() {
    let server = Server::new();
    let names = of_peers(&server);
    let began = monotonic();
    let asked = (0..100).map(|_| names.addresses("silent"));
    for answer in futures::future::join_all(asked).await {
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains("lookup address"), "{error}");
    }
    assert_eq!(server.asked(), 1);
    assert!(began.elapsed() < SILENCE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn while_the_name_server_is_silent_a_peer_is_where_it_was() {
    let server = Server::new();
    server.says("peer", &["10.0.0.1"]);
    let names = of_peers(&server);
    assert_eq!(found(&names, "peer").await, ips(&["10.0.0.1"]));
    server.falls_silent(true);
    assert_eq!(found(&names, "peer").await, ips(&["10.0.0.1"]));
    // From the first silence on nobody waits, whatever the number of calls.
    let began = monotonic();
    for _ in 0..1000 {
        assert_eq!(found(&names, "peer").await, ips(&["10.0.0.1"]));
    }
    assert_eq!(server.asked(), 2);
    assert!(began.elapsed() < SILENCE, "{:?}", began.elapsed());
    // Nor once the resolver has given up.
    tokio::time::sleep(SILENCE).await;
    assert_eq!(found(&names, "peer").await, ips(&["10.0.0.1"]));
    // It answers again, and the peer has moved.
    server.falls_silent(false);
    server.says("peer", &["10.0.0.2"]);
    let began = monotonic();
    while found(&names, "peer").await != ips(&["10.0.0.2"]) {
        assert!(began.elapsed() < 10 * SILENCE, "the old address stays");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn that_a_name_does_not_exist_is_believed_of_targets_and_not_of_peers() {
    let server = Server::new();
    let (peers, targets) = (of_peers(&server), of_targets(&server));
    for names in [&peers, &targets] {
        server.says("a", &["10.0.0.1"]);
        assert_eq!(found(names, "a").await, ips(&["10.0.0.1"]));
        assert_eq!(names.addresses("unknown").await.unwrap_err().kind(), io::ErrorKind::NotFound);
        server.says("a", &[]);
    }
    assert_eq!(found(&peers, "a").await, ips(&["10.0.0.1"]));
    assert_eq!(targets.addresses("a").await.unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn a_target_is_where_it_was_for_a_bounded_time() {
    let server = Server::new();
    server.says("a", &["10.0.0.1"]);
    let names = of_targets(&server);
    assert_eq!(found(&names, "a").await, ips(&["10.0.0.1"]));
    server.falls_silent(true);
    assert_eq!(found(&names, "a").await, ips(&["10.0.0.1"]));
    tokio::time::sleep(STALE_MAX).await;
    let began = monotonic();
    assert_eq!(names.addresses("a").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(began.elapsed() < SILENCE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn names_whose_server_is_silent_do_not_hold_up_the_others() {
    let server = Server::new();
    server.says("good", &["10.0.0.1"]);
    let names = of_targets(&server);
    let places = names.0.rule.places;
    // Many, each of which is asked for again and again.
    let ask = |n: usize| {
        let names = names.clone();
        tokio::spawn(async move {
            loop {
                let _ = names.addresses(&format!("silent-{n}")).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    };
    let asking: Vec<_> = (0..5 * places).map(ask).collect();
    // The first time nobody can know which they are.
    let began = monotonic();
    while names.known().values().filter(|known| known.is_slow).count() < 5 * places {
        assert!(began.elapsed() < 30 * SILENCE, "not all have been looked up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let began = monotonic();
    for _ in 0..20 {
        assert_eq!(found(&names, "good").await, ips(&["10.0.0.1"]));
    }
    assert!(began.elapsed() < SILENCE, "{:?}", began.elapsed());
    let going = server.going.lock().unwrap().clone();
    assert_eq!(going.len(), going.iter().collect::<HashSet<_>>().len(), "{going:?}");
    assert!(going.len() <= places.div_ceil(2) && server.most.load(Ordering::Relaxed) <= places, "{going:?}");
    asking.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_name_that_nobody_has_asked_for_is_found_while_many_others_are_silent() {
    let server = Server::new();
    let names = of_targets(&server);
    let ask = |n: usize| {
        let names = names.clone();
        tokio::spawn(async move { names.addresses(&format!("silent-{n}")).await })
    };
    // Many times as many as there are places, all at once, and none was asked for before.
    let asking: Vec<_> = (0..500).map(ask).collect();
    tokio::time::sleep(PATIENCE).await;
    let began = monotonic();
    server.says("new", &["10.0.0.1"]);
    let mut tries = 0;
    while let Err(error) = names.addresses("new").await {
        tries += 1;
        // Nothing is held against it.
        assert_eq!(error.kind(), NO_PLACE, "{error}");
        assert!(!names.known()["new"].is_late);
        assert!(tries < 20, "it is not found among {} silent ones", asking.len());
    }
    assert!(began.elapsed() < 3 * SILENCE, "{:?}", began.elapsed());
    for silent in asking {
        assert!([io::ErrorKind::TimedOut, NO_PLACE].contains(&silent.await.unwrap().unwrap_err().kind()));
    }
    // Nobody waits long for one that was silent a moment ago, as one of the first was.
    let began = monotonic();
    assert!(names.addresses("silent-0").await.is_err() && began.elapsed() < WAIT_MAX, "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_was_found_a_moment_ago_needs_no_lookup() {
    let server = Server::new();
    server.says("a", &["10.0.0.1"]);
    let names = Names::of_targets(server.lookup(), WAIT_MAX);
    for _ in 0..100 {
        assert_eq!(found(&names, "a").await, ips(&["10.0.0.1"]));
    }
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn what_is_kept_of_names_is_bounded() {
    let server = Server::new();
    let names = of_targets(&server);
    for n in 0..2 * NAMES_MAX {
        server.says(&format!("name-{n}"), &["10.0.0.1"]);
        assert_eq!(found(&names, &format!("name-{n}")).await, ips(&["10.0.0.1"]));
        assert!(names.known().len() <= NAMES_MAX);
    }
}

#[tokio::test]
async fn where_somebody_else_has_answered_is_tried_last_and_where_the_peer_was_is_kept() {
    let server = Server::new();
    server.says("peer", &["10.0.0.1"]);
    let names = of_peers(&server);
    let ip = |text: &str| text.parse().unwrap();
    found(&names, "peer").await;
    names.prove("peer", ip("10.0.0.1"));
    // A name server that is wrong, or a record that is late.
    server.says("peer", &["10.0.0.9", "10.0.0.8"]);
    assert_eq!(found(&names, "peer").await, ips(&["10.0.0.9", "10.0.0.8", "10.0.0.1"]));
    names.refuse("peer", ip("10.0.0.9"));
    assert_eq!(found(&names, "peer").await, ips(&["10.0.0.8", "10.0.0.1", "10.0.0.9"]));
    names.refuse("peer", ip("10.0.0.8"));
    assert_eq!(found(&names, "peer").await, ips(&["10.0.0.1", "10.0.0.9", "10.0.0.8"]));
    // It has moved there after all.
    names.prove("peer", ip("10.0.0.9"));
    assert_eq!(found(&names, "peer").await, ips(&["10.0.0.9", "10.0.0.8"]));
    for n in 0..100 {
        names.refuse("peer", ip(&format!("10.0.1.{n}")));
    }
    assert!(names.known()["peer"].refused.len() <= REFUSED_MAX);
}

#[tokio::test]
async fn the_system_is_asked_on_a_thread_of_its_own() {
    let (ask, asked) = (system(), std::sync::mpsc::channel());
    assert!(ask("localhost").await.unwrap().iter().all(IpAddr::is_loopback));
    // Literal addresses need nobody.
    asked.0.send(ask("127.0.0.1").await.unwrap()).unwrap();
    assert_eq!(asked.1.recv().unwrap(), ips(&["127.0.0.1"]));
}

#[test]
fn an_error_that_says_that_there_is_no_such_name_is_told_from_others() {
    let of = |text: &str| is_absence(&format!("failed to lookup address information: {text}"));
    for text in ["Name or service not known", "No address associated with hostname", "Name does not resolve"] {
        assert!(of(text), "{text}");
    }
    for text in ["Temporary failure in name resolution", "Try again", "System error", "Memory allocation failure"] {
        assert!(!of(text), "{text}");
    }
}
