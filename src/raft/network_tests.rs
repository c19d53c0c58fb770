//! A peer behind links that are slow, or that take and never answer. openraft's part is played by a loop: it waits a
//! heartbeat for the answer to an append, and asks again.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use axum::Router;
use openraft::{CommittedLeaderId, Entry, EntryPayload};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::clock::Clock;
use crate::raft::wire::HEADER_CLOCK;
use crate::raft::Lease;
use crate::raft::Payload;

const HEARTBEAT: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(30);
const TERM: u64 = 3;

/// What a follower has received.
#[derive(Default)]
struct Received {
    /// Messages with entries.
    entries: AtomicUsize,
    /// Signs of life.
    signs: AtomicUsize,
    snapshots: AtomicUsize,
    /// It answers with a greater vote.
    outvotes: std::sync::atomic::AtomicBool,
    /// The next message with entries gets no answer.
    drops_one: std::sync::atomic::AtomicBool,
}

impl Received {
    fn of(counter: &AtomicUsize) -> usize {
        counter.load(Ordering::Relaxed)
    }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A follower that takes whatever it is sent.
async fn follower() -> (Arc<Received>, SocketAddr) {
    async fn append(State(received): State<Arc<Received>>, body: Bytes) -> Vec<u8> {
        let request: Append = postcard::from_bytes(&body).unwrap();
        let is_sign = request.entries.is_empty();
        if !is_sign && received.drops_one.swap(false, Ordering::Relaxed) {
            return std::future::pending().await;
        }
        let counter = if is_sign { &received.signs } else { &received.entries };
        counter.fetch_add(1, Ordering::Relaxed);
        let answer: Appended = Ok(match received.outvotes.load(Ordering::Relaxed) {
            true => AppendEntriesResponse::HigherVote(Vote::new(TERM + 1, 2)),
            false => AppendEntriesResponse::Success,
        });
        postcard::to_stdvec(&answer).unwrap()
    }
    async fn snapshot(State(received): State<Arc<Received>>, body: Bytes) -> Vec<u8> {
        let request: InstallSnapshotRequest<TypeConfig> = postcard::from_bytes(&body).unwrap();
        received.snapshots.fetch_add(1, Ordering::Relaxed);
        postcard::to_stdvec(&PieceAnswer::Taken(request.vote)).unwrap()
    }
    let received = Arc::new(Received::default());
    let routes = Router::new()
        .route("/peer/1/append", post(append))
        .route("/peer/1/snapshot", post(snapshot))
        .layer(axum::extract::DefaultBodyLimit::disable())
        // As each node does, and whoever is none does not.
        .layer(axum::middleware::map_response(|answer: axum::response::Response| async {
            ([(HEADER_CLOCK, "1")], answer)
        }))
        .with_state(received.clone());
    let (listener, address) = listener().await;
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (received, address)
}

/// A link to `to` that lets so many bytes pass in a second on each connection, and so many connections through; those
/// that follow are taken and hang.
async fn slow_link(to: SocketAddr, bytes_per_s: usize) -> SocketAddr {
    async fn pass(mut from: TcpStream, to: SocketAddr, bytes_per_s: usize) -> std::io::Result<()> {
        let mut onward = TcpStream::connect(to).await?;
        onward.set_nodelay(true)?;
        let (mut client_reads, mut client_writes) = from.split();
        let (mut server_reads, mut server_writes) = onward.split();
        let there = async {
            let mut piece = vec![0; 4096];
            loop {
                let read = client_reads.read(&mut piece).await?;
                if read == 0 {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_micros((read * 1_000_000 / bytes_per_s) as u64)).await;
                server_writes.write_all(&piece[..read]).await?;
            }
        };
        let back = tokio::io::copy(&mut server_reads, &mut client_writes);
        tokio::select! {
            ended = there => ended,
            ended = back => ended.map(drop),
        }
    }
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(pass(connection, to, bytes_per_s));
        }
    });
    address
}

async fn peer(address: SocketAddr) -> (Peer, Arc<Office>) {
    let office = Arc::new(Office::new(Lease::new(Duration::from_millis(500))));
    let links = Links::new(Clock::system(), Duration::from_secs(1));
    let mut network = Network::new(links, office.clone(), HEARTBEAT);
    (network.new_client(2, &BasicNode::new(address.to_string())).await, office)
}

fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(TERM, 1), index)
}

fn entries(indexes: std::ops::Range<u64>, bytes: usize) -> Append {
    let entry = |index| {
        let payload = EntryPayload::Normal(Payload(vec![7; bytes].into()));
        Entry { log_id: log_id(index), payload }
    };
    AppendEntriesRequest {
        vote: Vote::new_committed(TERM, 1),
        prev_log_id: Some(log_id(indexes.start - 1)),
        leader_commit: None,
        entries: indexes.map(entry).collect(),
    }
}

/// As openraft does it; how often it has asked, and the answer.
async fn until_answered(peer: &mut Peer, request: impl Fn(usize) -> Append) -> (usize, AppendEntriesResponse<u64>) {
    let began = monotonic();
    for asked in 1.. {
        let call = peer.append_entries(request(asked), RPCOption::new(HEARTBEAT));
        match tokio::time::timeout(HEARTBEAT, call).await {
            Ok(Ok(answer)) => return (asked, answer),
            Ok(Err(_)) => tokio::time::sleep(HEARTBEAT).await,
            Err(_) => {}
        }
        assert!(began.elapsed() < PATIENCE, "the entries do not arrive");
    }
    unreachable!()
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_take_longer_than_a_heartbeat_arrive_and_their_leader_is_heard_meanwhile() {
    let (received, address) = follower().await;
    let link = slow_link(address, 1 << 20).await;
    let (mut peer, office) = peer(link).await;
    let holds = || office.lease.holds(TERM, &[2, 3], Moment::now(&Clock::system()));
    let watched = async {
        // From the first sign on the lease holds until the entries are there.
        while Received::of(&received.entries) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let signs = Received::of(&received.signs);
            assert!(signs < 3 || holds(), "the lease has ended after {signs} signs");
        }
    };
    let sent = until_answered(&mut peer, |_| entries(8..9, 1 << 20));
    let ((asked, answer), ()) = tokio::join!(sent, watched);
    assert_eq!(answer, AppendEntriesResponse::Success);
    assert!(asked >= 8, "a message of 1 MiB at 1 MiB/s: {asked}");
    assert_eq!(Received::of(&received.entries), 1, "it is sent once");
    assert!(Received::of(&received.signs) >= 5 && holds());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_is_the_answer_for_a_beginning_of_what_is_asked_for_later() {
    let (received, address) = follower().await;
    let link = slow_link(address, 1 << 20).await;
    let (mut peer, _) = peer(link).await;
    let growing = |asked: usize| entries(8..8 + 2 * asked as u64, 200_000);
    let (_, answer) = until_answered(&mut peer, growing).await;
    assert_eq!(answer, AppendEntriesResponse::PartialSuccess(Some(log_id(9))));
    assert_eq!(Received::of(&received.entries), 1);
    // Other entries are another transfer.
    let (_, answer) = until_answered(&mut peer, |_| entries(5..6, 200_000)).await;
    assert_eq!((answer, Received::of(&received.entries)), (AppendEntriesResponse::Success, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greater_vote_ends_a_transfer_that_is_under_way() {
    let (received, address) = follower().await;
    received.outvotes.store(true, Ordering::Relaxed);
    let link = slow_link(address, 100_000).await;
    let (mut peer, _) = peer(link).await;
    let (_, answer) = until_answered(&mut peer, |_| entries(8..9, 10 << 20)).await;
    assert_eq!(answer, AppendEntriesResponse::HigherVote(Vote::new(TERM + 1, 2)));
    assert_eq!(Received::of(&received.entries), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_of_a_snapshot_is_sent_once_and_its_leader_is_heard_meanwhile() {
    let (received, address) = follower().await;
    let link = slow_link(address, 1 << 20).await;
    let (mut peer, office) = peer(link).await;
    let piece = InstallSnapshotRequest {
        vote: Vote::new_committed(TERM, 1),
        meta: openraft::SnapshotMeta::default(),
        offset: 0,
        data: vec![7; 1 << 20],
        done: false,
    };
    let answer = peer.send_piece(&piece, Duration::from_secs(60)).await.unwrap();
    assert_eq!(answer, PieceAnswer::Taken(Vote::new_committed(TERM, 1)));
    assert_eq!(Received::of(&received.snapshots), 1);
    assert!(Received::of(&received.signs) >= 5 && office.lease.holds(TERM, &[2, 3], Moment::now(&Clock::system())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_takes_connections_and_reads_nothing_holds_few_of_them() {
    let (listener, address) = listener().await;
    let taken = tokio::spawn(async move {
        let mut taken = Vec::new();
        while let Ok(Ok((connection, _))) = tokio::time::timeout(Duration::from_secs(3), listener.accept()).await {
            taken.push(connection);
            if taken.len() == 40 {
                break;
            }
        }
        taken
    });
    let (mut peer, _) = peer(address).await;
    let began = monotonic();
    while !taken.is_finished() && began.elapsed() < PATIENCE {
        // Entries, and with them signs of life; and heartbeats.
        let call = peer.append_entries(entries(8..9, 4 << 20), RPCOption::new(HEARTBEAT));
        let _ = tokio::time::timeout(HEARTBEAT, call).await;
        let heartbeat = peer.append_entries(entries(8..8, 0), RPCOption::new(HEARTBEAT));
        let _ = tokio::time::timeout(HEARTBEAT, heartbeat).await;
    }
    let taken = taken.await.unwrap();
    assert!(taken.len() >= 20, "{}", taken.len());
    let mut held = 0;
    for mut connection in taken {
        let mut read = vec![0; 1 << 16];
        let ends = async { while connection.read(&mut read).await.is_ok_and(|bytes| bytes > 0) {} };
        if tokio::time::timeout(Duration::from_millis(300), ends).await.is_err() {
            held += 1;
        }
    }
    // One transfer, and as many signs as are waited for.
    assert!(held <= 12, "{held} connections are held");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_lost_with_its_link_is_sent_again_when_the_link_is_back() {
    // The first connections hang, as those of a link that is cut; later ones reach the follower.
    let (received, address) = follower().await;
    let (listener, link) = listener().await;
    let cut = monotonic() + Duration::from_millis(400);
    tokio::spawn(async move {
        let mut lost = Vec::new();
        while let Ok((mut connection, _)) = listener.accept().await {
            if monotonic() < cut {
                lost.push(connection);
                continue;
            }
            tokio::spawn(async move {
                let mut onward = TcpStream::connect(address).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut connection, &mut onward).await;
            });
        }
    });
    let (mut peer, _) = peer(link).await;
    let began = monotonic();
    let (_, answer) = until_answered(&mut peer, |_| entries(8..9, 1000)).await;
    assert_eq!(answer, AppendEntriesResponse::Success);
    assert_eq!(Received::of(&received.entries), 1);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// No sign of life is lost: a firewall has forgotten one connection, say.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_connection_alone_is_dead_is_sent_again() {
    let (received, address) = follower().await;
    received.drops_one.store(true, Ordering::Relaxed);
    let (mut peer, _) = peer(address).await;
    let began = monotonic();
    let (_, answer) = until_answered(&mut peer, |_| entries(8..9, 1000)).await;
    assert_eq!((answer, Received::of(&received.entries)), (AppendEntriesResponse::Success, 1));
    assert!(began.elapsed() < WRITTEN_AFTER_MAX * 2, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_nobody_asks_for_any_more_gives_its_place_to_a_snapshot() {
    let (received, address) = follower().await;
    let link = slow_link(address, 1 << 20).await;
    let office = Arc::new(Office::new(Lease::new(Duration::from_millis(500))));
    let links = Links::new(Clock::system(), Duration::from_secs(1));
    let mut network = Network::new(links.clone(), office, HEARTBEAT);
    // openraft has one for entries and heartbeats, and one for snapshots.
    let node = BasicNode::new(link.to_string());
    let (mut appends, mut snapshots) = (network.new_client(2, &node).await, network.new_client(2, &node).await);
    let call = appends.append_entries(entries(8..9, 4 << 20), RPCOption::new(HEARTBEAT));
    assert!(tokio::time::timeout(HEARTBEAT, call).await.is_err(), "4 MiB at 1 MiB/s have arrived");
    // From here on it sends a snapshot, and heartbeats beside.
    let heartbeats = async {
        loop {
            let _ = appends.append_entries(entries(8..8, 0), RPCOption::new(HEARTBEAT)).await;
            tokio::time::sleep(HEARTBEAT).await;
        }
    };
    let pieces = async {
        let began = monotonic();
        for offset in 0..20 {
            let (vote, meta, data) = (Vote::new_committed(TERM, 1), openraft::SnapshotMeta::default(), vec![7; 1000]);
            let piece = InstallSnapshotRequest { vote, meta, offset, data, done: false };
            snapshots.send_piece(&piece, Duration::from_secs(60)).await.unwrap();
        }
        began.elapsed()
    };
    let took = tokio::select! {
        () = heartbeats => unreachable!(),
        took = pieces => took,
    };
    assert_eq!(Received::of(&received.snapshots), 20);
    // Each would wait for its place; but only the first ones do.
    assert!(took < 8 * PLACE_MAX, "{took:?}");
    assert!(links.transfer_place(&link.to_string()).await.is_some());
}

/// What a leader sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Heartbeat,
    /// A sign of life beside entries.
    Sign,
    Entries,
    Piece,
}

/// How long after a message its answer comes.
const ANSWERED_AFTER: Duration = Duration::from_millis(400);

/// A follower that answers messages of one kind alone, each of them late; when the first of them arrived.
async fn late_follower(answered: Message) -> (Arc<std::sync::OnceLock<Instant>>, SocketAddr) {
    let arrived: Arc<std::sync::OnceLock<Instant>> = Arc::default();
    let first = arrived.clone();
    let answer = move |call: axum::http::Uri, body: Bytes| async move {
        let is_sign = || postcard::from_bytes::<Append>(&body).is_ok_and(|request| request.entries.is_empty());
        let is_answered = match answered {
            Message::Piece => call.path() == "/peer/1/snapshot",
            Message::Entries => call.path() == "/peer/1/append" && !is_sign(),
            Message::Heartbeat | Message::Sign => call.path() == "/peer/1/append" && is_sign(),
        };
        if !is_answered {
            return std::future::pending().await;
        }
        first.get_or_init(monotonic);
        tokio::time::sleep(ANSWERED_AFTER).await;
        let appended: Appended = Ok(AppendEntriesResponse::Success);
        match answered {
            Message::Piece => postcard::to_stdvec(&PieceAnswer::Taken(Vote::new_committed(TERM, 1))).unwrap(),
            _ => postcard::to_stdvec(&appended).unwrap(),
        }
    };
    let routes = Router::new().fallback(answer).layer(axum::extract::DefaultBodyLimit::disable()).layer(
        axum::middleware::map_response(|answer: axum::response::Response| async { ([(HEADER_CLOCK, "1")], answer) }),
    );
    let (listener, address) = listener().await;
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (arrived, address)
}

/// The follower's promise to vote for no other begins when the message arrives: a leader that counted from the answer would
/// act after the promise has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_counts_from_the_sending_of_what_was_acknowledged_however_late_the_answer() {
    for message in [Message::Heartbeat, Message::Sign, Message::Entries, Message::Piece] {
        let (arrived, address) = late_follower(message).await;
        let (mut peer, office) = peer(address).await;
        let sends = async {
            match message {
                Message::Heartbeat => {
                    let _ = peer.append_entries(entries(8..8, 0), RPCOption::new(ANSWERED_AFTER * 4)).await;
                }
                Message::Sign | Message::Entries => {
                    let _ = peer.append_entries(entries(8..9, 1000), RPCOption::new(ANSWERED_AFTER * 4)).await;
                }
                Message::Piece => {
                    let (vote, meta) = (Vote::new_committed(TERM, 1), openraft::SnapshotMeta::default());
                    let piece = InstallSnapshotRequest { vote, meta, offset: 0, data: vec![7; 1000], done: false };
                    let _ = peer.send_piece(&piece, PATIENCE).await;
                }
            }
            std::future::pending::<()>().await;
        };
        let acknowledged = async {
            loop {
                if let Some(sent) = office.lease.last_of(2, TERM) {
                    return sent.steady;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let sent = tokio::select! {
            () = sends => unreachable!(),
            sent = tokio::time::timeout(PATIENCE, acknowledged) => sent.expect("the answer counts"),
        };
        let arrived = *arrived.get().expect("it has arrived");
        assert!(sent <= arrived, "{message:?}: the lease counts from {:?} after it arrived", sent - arrived);
    }
}
