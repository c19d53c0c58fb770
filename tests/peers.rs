//! Who is at a peer's address: another node, another cluster, the sender itself. Each node is reached through a switch
//! of its own, which can lead to any of them, as a name can.

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use support::node::own_address;
use support::{once, pass, until, with, Cluster, TestNode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use xcron::raft::TypeConfig;
use xcron::storage::identity::Identity;
use xcron::storage::log::{Options, RaftLog};

const NOWHERE: &str = "http://127.0.0.1:9/never";
const FAR_MS: u64 = 3_600_000;

/// An address that leads to another one.
struct Switch {
    address: SocketAddr,
    to: Arc<Mutex<SocketAddr>>,
    connections: Arc<Mutex<Vec<tokio::task::AbortHandle>>>,
    /// Connections that it ever took.
    taken: Arc<AtomicUsize>,
    /// How long it holds back whatever goes through it.
    delay_ms: Arc<AtomicU64>,
}

impl Switch {
    async fn new(to: SocketAddr) -> Switch {
        let listener = TcpListener::bind((own_address(), 0)).await.expect("as it is set up");
        let address = listener.local_addr().expect("as it is set up");
        let (to, connections) = (Arc::new(Mutex::new(to)), Arc::new(Mutex::new(Vec::new())));
        let (taken, delay_ms) = (Arc::<AtomicUsize>::default(), Arc::<AtomicU64>::default());
        let (leads_to, all, count, delay) = (to.clone(), connections.clone(), taken.clone(), delay_ms.clone());
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let (to, delay) = (*leads_to.lock().expect("as it is set up"), delay.clone());
                let joined = tokio::spawn(async move {
                    let Ok(onward) = TcpStream::connect(to).await else { return };
                    let ((from, back), (answers, onward)) = (from.into_split(), onward.into_split());
                    tokio::select! {
                        () = pass_on(from, onward, &delay) => {}
                        () = pass_on(answers, back, &delay) => {}
                    }
                });
                all.lock().expect("as it is set up").push(joined.abort_handle());
            }
        });
        Switch { address, to, connections, taken, delay_ms }
    }

    /// New connections lead there from now on.
    fn lead_new_to(&self, to: SocketAddr) {
        *self.to.lock().expect("as it is set up") = to;
    }

    /// Leads there from now on.
    fn lead_to(&self, to: SocketAddr) {
        self.lead_new_to(to);
        self.connections.lock().expect("as it is set up").drain(..).for_each(|connection| connection.abort());
    }
}

/// Passes on what comes from one to the other, until one of them ends.
async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay_ms: &AtomicU64) {
    let mut part = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut part).await {
        match delay_ms.load(Ordering::Relaxed) {
            0 => {}
            ms => pass(ms).await,
        }
        if to.write_all(&part[..read]).await.is_err() {
            return;
        }
    }
}

/// Three nodes behind switches, none of which runs yet; where each serves its peers, and its switch.
async fn behind_switches() -> (Cluster, Vec<SocketAddr>, Vec<Switch>) {
    let mut cluster = Cluster::new(3, |config| config.limits.request_timeout_ms = 1500);
    let real: Vec<SocketAddr> = cluster.configs.iter().map(|c| SocketAddr::new(c.bind, c.peer_port)).collect();
    let mut switches = Vec::new();
    for to in &real {
        switches.push(Switch::new(*to).await);
    }
    let names: Vec<String> = switches.iter().map(|switch| switch.address.to_string()).collect();
    for (config, name) in cluster.configs.iter_mut().zip(&names) {
        config.peer.peer_hosts = names.clone();
        config.advertise = name.clone();
    }
    (cluster, real, switches)
}

/// That a write is not acknowledged. A switch takes a call for a node that is down, so its outcome can be unknown.
async fn takes_no_write(cluster: &Cluster, i: usize) {
    let answer = cluster.client(i).post("/xcron/createTask", &once(NOWHERE, FAR_MS)).await;
    assert!([1050, 1051].contains(&answer.code), "{}", answer.json);
}

async fn all_start(cluster: &mut Cluster) {
    for i in 0..3 {
        cluster.start(i).await;
    }
    for i in 0..3 {
        cluster.node(i).await_ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_to_the_wrong_node_makes_no_majority() {
    let (mut cluster, real, switches) = behind_switches().await;
    all_start(&mut cluster).await;
    let before = cluster.client(0).create(&once(NOWHERE, FAR_MS)).await;
    cluster.crash(1).await;
    cluster.crash(2).await;
    // The second node's name leads to the first one, which would grant itself the vote that it lacks.
    switches[1].lead_to(real[0]);
    pass(3000).await;
    assert_eq!(cluster.node(0).monitor.plain("/readyz").await.0, 503, "one of three is no majority");
    takes_no_write(&cluster, 0).await;
    cluster.crash(0).await;
    switches[1].lead_to(real[1]);
    all_start(&mut cluster).await;
    for i in 0..3 {
        assert_eq!(cluster.client(i).task(&before).await["task_id"], before.as_str());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_to_a_third_node_adds_no_vote() {
    let (mut cluster, real, switches) = behind_switches().await;
    all_start(&mut cluster).await;
    // Two of three run, and both names of the others lead to one of them.
    cluster.crash(2).await;
    switches[2].lead_to(real[1]);
    let id = cluster.client(0).create(&once(NOWHERE, FAR_MS)).await;
    cluster.crash(1).await;
    switches[1].lead_to(real[0]);
    switches[2].lead_to(real[0]);
    pass(2500).await;
    takes_no_write(&cluster, 0).await;
    switches[1].lead_to(real[1]);
    switches[2].lead_to(real[2]);
    cluster.start(1).await;
    cluster.start(2).await;
    for i in 0..3 {
        cluster.node(i).await_ready().await;
        assert_eq!(cluster.client(i).task(&id).await["task_id"], id.as_str());
    }
}

/// Each read asks both followers, and one that answers is enough.
#[tokio::test(flavor = "multi_thread")]
async fn reads_leave_the_connections_to_a_slow_node_open_and_make_few_to_one_that_is_silent() {
    const READS: usize = 300;
    let (mut cluster, _, switches) = behind_switches().await;
    all_start(&mut cluster).await;
    let leader = cluster.leader().await;
    let id = cluster.client(leader).create(&once(NOWHERE, FAR_MS)).await;
    let slow = &switches[cluster.followers().await[0]];
    let read = async || {
        let before = slow.taken.load(Ordering::Relaxed);
        for _ in 0..READS {
            assert_eq!(cluster.client(leader).task(&id).await["task_id"], id.as_str());
        }
        slow.taken.load(Ordering::Relaxed) - before
    };
    slow.delay_ms.store(20, Ordering::Relaxed);
    let taken = read().await;
    assert!(taken < READS / 3, "{taken} connections to the slow node for {READS} reads");
    let silent = TcpListener::bind((own_address(), 0)).await.expect("as it is set up");
    slow.lead_to(silent.local_addr().expect("as it is set up"));
    let taken = read().await;
    assert!(taken < READS / 3, "{taken} connections to the silent node for {READS} reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_one_process_are_one_node_when_a_cluster_forms() {
    let (mut cluster, real, switches) = behind_switches().await;
    switches[1].lead_to(real[0]);
    switches[2].lead_to(real[0]);
    cluster.start(0).await;
    pass(1500).await;
    let (status, _, why) = cluster.node(0).monitor.plain("/readyz").await;
    assert_eq!(status, 503, "{why}");
    assert!(why.contains("0 of 2 others answer"), "{why}");
    // With their own addresses they form one.
    switches[1].lead_to(real[1]);
    switches[2].lead_to(real[2]);
    cluster.start(1).await;
    cluster.node(0).await_ready().await;
}

/// A second process with the entry of the first node, as of a configuration that was copied, and where it serves its
/// peers. Its directory and its ports are its own.
fn double_of(cluster: &Cluster) -> (Cluster, SocketAddr) {
    let mut double = Cluster::new(1, |_| {});
    let (config, copied) = (&mut double.configs[0], &cluster.configs[0]);
    config.peer.peer_hosts = copied.peer.peer_hosts.clone();
    config.advertise = copied.advertise.clone();
    let real = SocketAddr::new(config.bind, config.peer_port);
    (double, real)
}

/// Has it taken part in forming a cluster before, as the first node, and been killed before it learnt of one; the node's id.
async fn has_taken_part(double: &Cluster) -> u64 {
    let (config, dir) = (&double.configs[0], double.path(0));
    let log = RaftLog::<TypeConfig>::open(&dir.join("log"), Options::default()).expect("as it is set up");
    log.note_start(1).await.expect("as it is set up");
    let place = config.peers().iter().position(|peer| peer.to_string() == config.advertise).expect("as it is set up");
    let (node, peer) = (place as u64 + 1, config.advertise.clone());
    let identity =
        Identity { store: xcron::seam::uuid(), node, peer, cluster: None, starts: 1, log: log.facts().number };
    log.close();
    identity.write(&dir).expect("as it is set up");
    node
}

async fn says(node: &TestNode, why: &str) {
    until(why, || async { node.monitor.plain("/readyz").await.2.contains(why).then_some(()) }).await;
}

const NOT_ALONE: &str = "another process answers at this node's own address";

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_with_the_entry_of_another_takes_no_part() {
    let (mut cluster, _, switches) = behind_switches().await;
    let (mut double, real) = double_of(&cluster);
    for node in [&mut cluster, &mut double] {
        node.start(0).await;
    }
    says(double.node(0), NOT_ALONE).await;
    // Of these each makes a majority with either of the two.
    cluster.start(1).await;
    cluster.start(2).await;
    for i in 0..3 {
        cluster.node(i).await_ready().await;
    }
    assert_eq!(double.node(0).id(), 0);
    double.crash(0).await;
    double.start(0).await;
    says(double.node(0), NOT_ALONE).await;
    // Once the address is its own, it asks for the place.
    switches[0].lead_to(real);
    let why = double.node_mut(0).failed().await.to_string();
    assert!(why.contains("has voted with another store"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_has_taken_part_and_knows_no_cluster_waits_while_another_has_its_address() {
    let (mut cluster, _, switches) = behind_switches().await;
    let (mut double, real) = double_of(&cluster);
    let id = has_taken_part(&double).await;
    cluster.start(0).await;
    double.start(0).await;
    says(double.node(0), NOT_ALONE).await;
    // The connections that there are lead to the other one still, which is there as well.
    switches[0].lead_new_to(real);
    cluster.start(1).await;
    double.node(0).await_ready().await;
    says(cluster.node(0), NOT_ALONE).await;
    assert_eq!((double.node(0).id(), cluster.node(0).id()), (id, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_takes_part_stops_where_a_member_answers_at_its_address() {
    let (mut cluster, real, switches) = behind_switches().await;
    all_start(&mut cluster).await;
    let (mut double, of_double) = double_of(&cluster);
    has_taken_part(&double).await;
    switches[0].lead_to(of_double);
    double.start(0).await;
    says(double.node(0), "no leader is known").await;
    switches[0].lead_to(real[0]);
    let why = double.node_mut(0).failed().await.to_string();
    assert!(why.contains("another process acts as node"), "{why}");
    for i in 0..3 {
        cluster.node(i).await_ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_with_different_lists_form_no_cluster_and_say_which() {
    let mut cluster = Cluster::new(3, |_| {});
    let right = cluster.configs[0].peer.peer_hosts.clone();
    // The first knows of two nodes, and a fourth that there is not; the others agree with each other alone.
    let mut wrong = right.clone();
    wrong[2] = "127.0.0.1:9".to_owned();
    cluster.configs[0].peer.peer_hosts = wrong.clone();
    cluster.start(0).await;
    cluster.start(1).await;
    for i in [0, 1] {
        let why = until("a reason", || async {
            let (status, _, why) = cluster.node(i).monitor.plain("/readyz").await;
            assert_eq!(status, 503, "nodes with different lists are ready");
            why.contains("different peer_hosts").then_some(why)
        })
        .await;
        assert!(why.contains(&right[2]) && why.contains("127.0.0.1:9"), "both lists are named: {why}");
    }
    // Corrected, they form one.
    cluster.stop(0).await;
    cluster.configs[0].peer.peer_hosts = right;
    cluster.start(0).await;
    cluster.start(2).await;
    for i in 0..3 {
        cluster.node(i).await_ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_come_back_empty_do_not_act_as_their_old_selves() {
    for order in [[0, 1, 2], [1, 2, 0]] {
        let mut cluster = Cluster::three_with(|config| config.limits.request_timeout_ms = 1500).await;
        let kept = with(once(NOWHERE, FAR_MS), json!({"task_id": "kept"}));
        cluster.client(0).create(&kept).await;
        // Until a store has claimed its node, none is known to be the wrong one.
        until("all claims", || async {
            cluster
                .running()
                .all(|(_, node)| node.server().node().machine().with_state(|s| s.claims().len() == 3))
                .then_some(())
        })
        .await;
        cluster.level().await;
        for i in 0..3 {
            cluster.crash(i).await;
        }
        for i in [1, 2] {
            std::fs::remove_dir_all(cluster.path(i)).expect("as it is set up");
        }
        for i in order {
            cluster.start(i).await;
        }
        // Whatever the two make of it: the one that has its data is no part of it, and keeps them.
        pass(2000).await;
        takes_no_write(&cluster, 0).await;
        let task = cluster.client(0).get("/xcron/queryTask?task_id=kept&consistency=local").await.ok();
        assert_eq!(task["task_id"], "kept");
        assert_eq!(cluster.node(0).monitor.plain("/readyz").await.0, 503);
    }
}
