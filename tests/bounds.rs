//! What a node takes and holds at once: bodies, answers, connections, calls that compute, writes, tasks, its disk.

mod support;

use serde_json::{json, Value};
use support::{config, node, node_with, once, pass, until, with, Cluster, TestNode, PATIENCE};
use xcron::clock::monotonic;

const URL: &str = "http://127.0.0.1:9/never";
const FAR_MS: u64 = 3_600_000;

/// Headers that make a task about `kib` KiB large.
fn large_headers(kib: usize) -> Value {
    (0..kib / 4).map(|i| (format!("x-{i}"), Value::from("v".repeat(4 << 10)))).collect::<serde_json::Map<_, _>>().into()
}

/// Sends these bytes on a connection whose buffers are small.
async fn connect(node: &TestNode, bytes: &[u8]) -> tokio::net::TcpStream {
    use tokio::io::AsyncWriteExt;
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4 << 10).expect("a small buffer");
    let mut stream = socket.connect(node.api).await.expect("a connection");
    stream.write_all(bytes).await.expect("it is sent");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_never_end_take_no_more_than_their_share_and_small_ones_pass() {
    let (_dir, node) = node_with(|c| c.limits.buffered_bytes_max = 16 << 20).await;
    let client = &node.client;
    let head = format!("POST /xcron/createTasks HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", 8 << 20);
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(connect(&node, &[head.as_bytes(), &vec![b' '; 7 << 20]].concat()).await);
    }
    let large = json!({"tasks": [with(once(URL, FAR_MS), json!({"name": " ".repeat(2 << 20)}))]}).to_string();
    until("a body that finds no room", || async {
        let answer = client.send("POST", "/xcron/createTasks", large.clone()).await;
        (answer.code == 1070).then(|| answer.is(1070, 429, "limits.buffered_bytes_max"))
    })
    .await;
    client.create(&once(URL, FAR_MS)).await;
    drop(held);
    until("room again", || async {
        let answer = client.send("POST", "/xcron/createTasks", large.clone()).await;
        (answer.code == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_is_408() {
    use tokio::io::AsyncReadExt;
    let (_dir, node) = node_with(|c| c.limits.request_timeout_ms = 300).await;
    let head = "POST /xcron/createTask HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{";
    let mut stream = connect(&node, head.as_bytes()).await;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"code\":1000"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_list_ends_by_its_bytes_whatever_makes_them_up() {
    let (_dir, node) = node().await;
    let client = &node.client;
    let tags: serde_json::Map<_, _> = (0..60).map(|i| (format!("k{i}"), "t".repeat(250).into())).collect();
    let callback = json!({"url": URL, "headers": large_headers(64)});
    let task = with(once(URL, FAR_MS), json!({"tags": tags, "callback": callback}));
    let mut ids = client.create_all(&vec![task.clone(); 60]).await;
    ids.extend(client.create_all(&vec![task; 60]).await);
    let (mut found, mut parts, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let (status, _, text) = client.plain(&format!("/xcron/listTasks?limit=1000{cursor}")).await;
        assert!(status == 200 && text.len() <= 4 << 20, "{status}, {} bytes", text.len());
        let answer: Value = serde_json::from_str(&text).unwrap();
        found.extend(
            answer["data"]["tasks"].as_array().unwrap().iter().map(|t| t["task_id"].as_str().unwrap().to_owned()),
        );
        parts += 1;
        match answer["data"]["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    ids.sort();
    found.sort();
    assert_eq!((found, parts), (ids, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_takes_are_bounded_together_and_given_up() {
    use tokio::io::AsyncReadExt;
    let change = |c: &mut xcron::config::Config| {
        (c.limits.buffered_bytes_max, c.limits.answer_timeout_ms) = (16 << 20, 2000);
    };
    let (_dir, node) = node_with(change).await;
    let client = &node.client;
    let callback = json!({"url": URL, "headers": large_headers(64)});
    let ids = client.create_all(&vec![with(once(URL, FAR_MS), json!({"callback": callback})); 63]).await;
    let mut untaken = Vec::new();
    for _ in 0..8 {
        untaken.push(connect(&node, b"GET /xcron/listTasks?limit=1000 HTTP/1.1\r\nhost: localhost\r\n\r\n").await);
    }
    until("an answer that finds no room", || async {
        let answer = client.get("/xcron/listTasks?limit=1000").await;
        (answer.code != 0).then(|| answer.is(1070, 429, "limits.buffered_bytes_max"))
    })
    .await;
    client.post("/xcron/pauseTask", &json!({"task_id": ids[0]})).await.ok();
    // Nobody reads them, and there is room again.
    until("room again", || async { (client.get("/xcron/listTasks?limit=1000").await.code == 0).then_some(()) }).await;
    let mut cut = 0;
    for mut stream in untaken {
        let mut rest = Vec::new();
        // By a reset where something was left unread.
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it is closed");
        // Some the system has taken as a whole, or they found no room.
        cut += usize::from(rest.last() != Some(&b'}'));
    }
    assert!(cut > 0, "none was cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_answers_that_nobody_takes_posts_are_refused_before_anything_is_written() {
    use tokio::io::AsyncReadExt;
    let change = |c: &mut xcron::config::Config| {
        (c.limits.buffered_bytes_max, c.limits.answer_timeout_ms) = (16 << 20, 60_000);
    };
    let (_dir, node) = node_with(change).await;
    let client = &node.client;
    let callback = json!({"url": URL, "headers": large_headers(64)});
    client.create_all(&vec![with(once(URL, FAR_MS), json!({"callback": callback})); 61]).await;
    // Four pages leave little: each ends within the size of a small task of what a page may have.
    client.create_all(&vec![once(URL, FAR_MS); 900]).await;
    let preview = json!({"type": 1, "format": "* * * * *", "count": 1000});
    client.post("/xcron/previewSchedule", &preview).await.ok();
    let (full, mut untaken) = ("the answers that wait", Vec::new());
    loop {
        let mut stream = connect(&node, b"GET /xcron/listTasks?limit=1000 HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        // From now on it waits to be taken.
        stream.read_u8().await.expect("an answer begins");
        untaken.push(stream);
        let answer = client.post("/xcron/previewSchedule", &preview).await;
        if answer.code != 0 {
            answer.is(1070, 429, full);
            break;
        }
        assert!(untaken.len() < 30, "{} answers found room", untaken.len());
    }
    let batch = |count: usize| -> Value {
        let id = |n: usize| json!({"task_id": format!("{count}-{n}")});
        json!({"tasks": (0..count).map(|n| with(once(URL, FAR_MS), id(n))).collect::<Vec<_>>()})
    };
    client.post("/xcron/createTasks", &batch(100)).await.is(1070, 429, full);
    client.get("/xcron/queryTask?task_id=100-0").await.is(1040, 404, "no such task");
    // What is answered in few words needs no room.
    client.post("/xcron/createTasks", &batch(3)).await.ok();
    client.get("/xcron/queryTask?task_id=3-0").await.ok();
    drop(untaken);
    until("room again", || async { (client.post("/xcron/createTasks", &batch(100)).await.code == 0).then_some(()) })
        .await;
    client.post("/xcron/previewSchedule", &preview).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_calls_compute_is_bounded_and_holds_up_no_other_call() {
    let (_dir, node) = node_with(|c| c.limits.request_timeout_ms = 60_000).await;
    let client = &node.client;
    let id = client.create(&once(URL, FAR_MS)).await;
    let rare = json!({"type": 1, "format": "0 0 29 2 *", "timezone": "America/New_York", "count": 1000, "after": 0});
    let previews = futures::future::join_all((0..700).map(|_| client.post("/xcron/previewSchedule", &rare)));
    let others = async {
        for _ in 0..20 {
            client.task(&id).await;
        }
    };
    let (previews, ()) = tokio::join!(previews, others);
    let refused: Vec<_> = previews.iter().filter(|answer| answer.code != 0).collect();
    assert!(!refused.is_empty() && refused.len() < 700, "{} were refused", refused.len());
    refused.iter().for_each(|answer| answer.is(1070, 429, "too many calls"));
    client.post("/xcron/previewSchedule", &rare).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_takes_no_longer_than_a_call_may() {
    let (_dir, node) = node_with(|c| c.limits.request_timeout_ms = 2000).await;
    let client = &node.client;
    let id = client.create(&once(URL, FAR_MS)).await;
    let machine = node.server().node().machine().clone();
    machine.hold(true);
    let other = client.clone();
    let first = tokio::spawn(async move { other.post("/xcron/createTask", &once(URL, FAR_MS)).await });
    // What it reads must hold the task that is just being created.
    pass(100).await;
    let began = monotonic();
    let (own, named) = (client.clone(), json!({"task_id": id, "name": "x"}));
    let update = tokio::spawn(async move { own.post("/xcron/updateTask", &named).await });
    pass(1500).await;
    machine.hold(false);
    first.await.unwrap().ok();
    machine.hold(true);
    let answer = update.await.unwrap();
    let took = began.elapsed().as_millis();
    machine.hold(false);
    assert!(took < 3000, "{took} ms: {}", answer.json);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_connections_waits_and_none_is_turned_away() {
    let (_dir, node) = node_with(|c| c.limits.connections_max = 1).await;
    let mut waiting = Vec::new();
    for _ in 0..600 {
        let connected = tokio::time::timeout(std::time::Duration::from_millis(900), connect(&node, b"")).await;
        waiting.push(connected.unwrap_or_else(|_| panic!("only {} of them wait", waiting.len())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_task_too_many_is_1070() {
    let (_dir, node) = node_with(|c| c.limits.tasks_max = 3).await;
    let client = &node.client;
    for i in 0..3 {
        client.create(&with(once(URL, FAR_MS), json!({"task_id": format!("t{i}")}))).await;
    }
    let answer = client.post("/xcron/createTask", &once(URL, FAR_MS)).await;
    answer.is(1070, 429, "3");
    assert!(answer.headers.contains_key("retry-after"));
    client.delete("t1").await.ok();
    client.create(&once(URL, FAR_MS)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_writes_than_may_wait_are_1070_and_not_written() {
    let (_dir, node) = node_with(|c| c.limits.queue_max = 1).await;
    let client = &node.client;
    let tasks: Vec<Value> = (0..500).map(|_| once(URL, FAR_MS)).collect();
    let data = client.post("/xcron/createTasks", &json!({"tasks": tasks})).await.ok();
    let results = data["results"].as_array().unwrap();
    let taken = results.iter().filter(|r| r["code"] == 0).count();
    assert!(results.iter().all(|r| r["code"] == 0 || r["code"] == 1070), "{results:?}");
    assert!((1..500).contains(&taken), "{taken} of 500");
    assert_eq!(client.pages("/xcron/listTasks?limit=1000", "tasks").await.len(), taken);
    client.create(&once(URL, FAR_MS)).await;
}

/// The first of three nodes, without the others: no write that it takes can be sent anywhere.
async fn without_a_leader(change: impl Fn(&mut xcron::config::Config)) -> Cluster {
    let mut cluster = Cluster::new(3, change);
    cluster.start(0).await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_wait_for_a_leader_hold_no_more_bytes_than_writes_may() {
    let room = 64 << 20;
    let cluster = without_a_leader(|c| {
        (c.limits.queue_bytes_max, c.limits.request_timeout_ms) = (room, 10_000);
    })
    .await;
    let client = cluster.client(0);
    let large = with(once(URL, FAR_MS), json!({"callback": {"url": URL, "body": "x".repeat(1_000_000)}})).to_string();
    let mut calls: futures::stream::FuturesUnordered<_> =
        (0..90).map(|_| client.send("POST", "/xcron/createTask", large.clone())).collect();
    let (mut waited, mut refused) = (0, 0);
    while let Some(answer) = futures::StreamExt::next(&mut calls).await {
        if answer.code == 1050 {
            waited += 1;
            continue;
        }
        answer.is(1070, 429, "too many writes wait");
        assert!(answer.headers.contains_key("retry-after"));
        assert_eq!(waited, 0, "it was not refused at once");
        refused += 1;
    }
    assert_eq!((waited, refused), (room / 1_000_000, 90 - room / 1_000_000));
    // They have given it back.
    client.send("POST", "/xcron/createTask", large).await.is(1050, 503, "no leader");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_writes_wait_for_a_leader_than_may_wait() {
    let cluster = without_a_leader(|c| (c.limits.queue_max, c.limits.request_timeout_ms) = (10, 5000)).await;
    let batch = |client: support::Client| async move {
        let data = client.post("/xcron/createTasks", &json!({"tasks": vec![once(URL, FAR_MS); 100]})).await.ok();
        let codes = data["results"].as_array().unwrap().iter().map(|result| result["code"].as_u64().unwrap());
        let (waited, refused): (Vec<_>, Vec<_>) = codes.partition(|code| *code == 1050);
        assert!(refused.iter().all(|code| *code == 1070), "{refused:?}");
        waited.len()
    };
    let first = tokio::spawn(batch(cluster.client(0).clone()));
    // By then none of them is in the queue: they wait for the next try.
    pass(1000).await;
    assert_eq!(batch(cluster.client(0).clone()).await, 0);
    assert_eq!(first.await.unwrap(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_waits_for_a_leader_holds_its_body() {
    let cluster = without_a_leader(|c| {
        (c.limits.buffered_bytes_max, c.limits.request_timeout_ms) = (16 << 20, 10_000);
    })
    .await;
    let change = json!({"task_id": "any", "callback": {"body": "x".repeat(7 << 20)}}).to_string();
    let mut calls = Vec::new();
    for _ in 0..3 {
        let (client, change) = (cluster.client(0).clone(), change.clone());
        calls.push(tokio::spawn(async move { client.send("POST", "/xcron/updateTask", change).await }));
        // By then it has arrived.
        pass(1500).await;
    }
    let mut codes = Vec::new();
    for call in calls {
        codes.push(call.await.unwrap().code);
    }
    codes.sort_unstable();
    assert_eq!(codes, [1050, 1050, 1070]);
}

/// A log that cannot grow because its directory has gone: what a file system that fails looks like to a writer.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_disk_is_1071_and_the_node_is_not_ready() {
    let (dir, mut node) = node().await;
    std::fs::rename(dir.path().join("log"), dir.path().join("gone")).unwrap();
    let big = with(once(URL, FAR_MS), json!({"callback": {"url": URL, "body": "x".repeat(200_000)}}));
    let mut kept = Vec::new();
    let refused = loop {
        let answer = node.client.post("/xcron/createTask", &big).await;
        match answer.code {
            0 => kept.push(answer.ok()["task_id"].as_str().unwrap().to_owned()),
            // The write that meets the failure: nobody knows.
            1051 => answer.is(1051, 504, "unknown"),
            _ => break answer,
        }
        assert!(kept.len() < 100, "it goes on without a log");
    };
    refused.is(1071, 507, "storage");
    assert!(!refused.message().contains(dir.path().to_str().unwrap()), "the message tells no path");
    assert_eq!(node.monitor.plain("/readyz").await.0, 503);
    for id in &kept {
        assert_eq!(node.client.get(&format!("/xcron/queryTask?task_id={id}&consistency=local")).await.code, 0);
    }
    let failure = node.failed().await.to_string();
    assert!(failure.contains("log"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_1071_and_what_was_acknowledged_is_there_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let mount =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(dir.path()).output();
    if !mount.as_ref().is_ok_and(|m| m.status.success()) {
        return support::skip::skipped("mounts", format!("{mount:?}"));
    }
    let _mounted = Unmount(dir.path());
    let mut settings = config(dir.path());
    settings.storage.reserve_mb = 2;
    settings.storage.log_segment_bytes = 1 << 20;
    let node = TestNode::start(settings).await.ready().await;
    let big = with(once(URL, FAR_MS), json!({"callback": {"url": URL, "body": "x".repeat(300_000)}}));
    let mut kept = Vec::new();
    let refused = loop {
        let answer = node.client.post("/xcron/createTask", &big).await;
        match answer.code {
            0 => kept.push(answer.ok()["task_id"].as_str().unwrap().to_owned()),
            1051 => {}
            _ => break answer,
        }
        assert!(kept.len() < 100, "more than fits");
    };
    refused.is(1071, 507, "storage");
    assert!(!kept.is_empty());
    let mut config = node.crash().await;
    // Where there is room it starts again, and has all of it.
    let roomy = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp").arg("-r").arg(dir.path().join(".")).arg(roomy.path()).status();
    assert!(copied.unwrap().success());
    config.raft_dir = roomy.path().to_owned();
    let node = TestNode::start(config).await.ready().await;
    for id in &kept {
        node.client.task(id).await;
    }
    node.client.create(&big).await;
    node.stop().await;
}

struct Unmount<'a>(&'a std::path::Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        // Lazily: a node may still be closing its files.
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// A node with a nearly full disk is never ready, not even right after its start.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_on_a_nearly_full_disk_is_not_ready_for_a_moment() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.storage.reserve_mb = 1 << 20;
    let node = TestNode::start(config).await;
    let leads = until("its election", || async {
        let ready = node.server().node().ready();
        assert!(ready.is_err(), "it is ready");
        node.server().node().may_fire().map(|_| ready)
    });
    let reason = leads.await.unwrap_err();
    assert!(reason.contains("are kept in reserve"), "{reason}");
}
