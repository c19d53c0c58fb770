use std::net::SocketAddr;

use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::*;

const SOON: Duration = Duration::from_millis(200);
const BOUND: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    /// Requests to `/slow` and to `/never` that are being answered.
    begun: mpsc::UnboundedReceiver<()>,
}

impl Server {
    /// Waits until the next request to `/slow` or to `/never` is being answered.
    async fn begins(&mut self) {
        timeout(BOUND, self.begun.recv()).await.expect("a request").expect("the server is there");
    }
}

async fn start(connections_max: usize, idle_timeout: Duration) -> Server {
    start_with(connections_max, idle_timeout, idle_timeout).await
}

async fn start_with(connections_max: usize, idle_timeout: Duration, answer_timeout: Duration) -> Server {
    let (begin, begun) = mpsc::unbounded_channel();
    let begin_never = begin.clone();
    let slow = || async move {
        begin.send(()).unwrap();
        sleep(SOON).await;
        "slow"
    };
    let never = || async move {
        begin_never.send(()).unwrap();
        std::future::pending::<String>().await
    };
    let router = Router::new()
        .route("/", get(|| async { "ok" }))
        .route("/slow", get(slow))
        .route("/never", get(never))
        .route("/large", get(|| async { vec![b'x'; 64 << 20] }))
        .route("/echo", post(|body: String| async { body }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let limits = ServeLimits { connections_max, idle_timeout, answer_timeout, drain_timeout: 5 * SOON };
    let task = tokio::spawn(serve(listener, router, limits, async {
        let _ = stopped.await;
    }));
    Server { address, stop, task, begun }
}

async fn send(server: &Server, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

async fn read_to_end(mut stream: TcpStream) -> String {
    let mut out = Vec::new();
    let _ = timeout(BOUND, stream.read_to_end(&mut out)).await.expect("the connection is closed");
    String::from_utf8_lossy(&out).into_owned()
}

const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test]
async fn a_connection_without_a_request_or_between_two_is_closed() {
    let server = start(10, SOON).await;
    assert_eq!(read_to_end(send(&server, "").await).await, "", "nothing sent");
    assert_eq!(read_to_end(send(&server, "GET / HT").await).await, "", "half a head sent");
    assert!(read_to_end(send(&server, GET).await).await.ends_with("ok"), "idle after an answer");
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_cut() {
    let server = start(1, SOON).await;
    let stalled = send(&server, "GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await;
    // The only slot is free again once the first connection is cut.
    let next = send(&server, GET).await;
    assert!(read_to_end(next).await.ends_with("ok"));
    drop(stalled);
}

#[tokio::test]
async fn a_client_that_takes_a_byte_now_and_then_is_cut_and_a_slow_one_is_not() {
    const LARGE: &str = "GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let server = start_with(1, BOUND, 3 * SOON).await;
    let mut trickle = send(&server, LARGE).await;
    let cut = async {
        loop {
            sleep(SOON / 4).await;
            if trickle.read_u8().await.is_err() {
                break;
            }
        }
    };
    let mut next = pin!(async { read_to_end(send(&server, &LARGE.replace("/large", "/")).await).await });
    // The only slot is free again once the first connection is cut; what its kernel has taken may be read for longer.
    tokio::select! {
        () = cut => {}
        answer = &mut next => assert!(answer.ends_with("ok")),
    }

    let mut slow = send(&server, LARGE).await;
    let mut taken = 0;
    let mut piece = vec![0; 4 << 20];
    loop {
        sleep(SOON / 4).await;
        match timeout(BOUND, slow.read(&mut piece)).await.expect("more of it").expect("it is not cut") {
            0 => break,
            n => taken += n,
        }
    }
    assert!(taken > 64 << 20, "{taken}");
}

#[tokio::test]
async fn where_each_connection_has_a_request_more_of_them_wait() {
    let mut server = start(1, BOUND).await;
    let first = send(&server, "GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await;
    server.begins().await;
    let mut second = send(&server, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(timeout(SOON, second.read_u8()).await.is_err(), "served beyond the limit");
    drop(first);
    assert!(read_to_end(second).await.ends_with("ok"));
}

#[tokio::test]
async fn a_stop_lets_requests_end_and_closes_idle_connections() {
    let mut server = start(10, BOUND).await;
    let mut idle = send(&server, GET).await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"ok") {
        answer.push(timeout(BOUND, idle.read_u8()).await.expect("an answer").expect("it is open"));
    }
    let slow = send(&server, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    server.begins().await;
    server.stop.send(()).unwrap();
    let (idle, slow) = tokio::join!(read_to_end(idle), read_to_end(slow));
    assert!(idle.is_empty() && slow.ends_with("slow"), "{idle} {slow}");
    timeout(BOUND, server.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn a_stop_cuts_what_does_not_end() {
    let mut server = start(10, BOUND).await;
    let never = send(&server, "GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await;
    server.begins().await;
    server.stop.send(()).unwrap();
    assert_eq!(read_to_end(never).await, "");
    timeout(BOUND, server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_body_is_served_and_a_connection_kept() {
    let server = start(10, BOUND).await;
    let post = "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi";
    let last = "POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 3\r\n\r\nbye";
    let answers = read_to_end(send(&server, &format!("{post}{last}")).await).await;
    assert!(answers.contains("hi") && answers.ends_with("bye"), "{answers}");
}

#[tokio::test]
async fn connections_that_send_nothing_make_room_for_those_that_ask() {
    const PLACES: usize = 8;
    let server = start(PLACES, BOUND * 10).await;
    let mut silent = Vec::new();
    for n in 0..PLACES * 20 {
        // Nothing, the beginning of a head, or a request that is over.
        silent.push(send(&server, ["", "GET / HT", GET][n % 3]).await);
    }
    for _ in 0..PLACES {
        let asked = send(&server, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(read_to_end(asked).await.ends_with("ok"));
    }
    drop(silent);
}

#[tokio::test]
async fn one_that_has_a_request_makes_room_for_none() {
    let server = start(2, BOUND * 10).await;
    let slow = send(&server, "GET /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let mut large = send(&server, "GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let mut first = [0; 1];
    large.read_exact(&mut first).await.unwrap();
    let next = send(&server, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(read_to_end(slow).await.ends_with("slow"));
    assert!(read_to_end(next).await.ends_with("ok"));
    assert!(read_to_end(large).await.len() > 64 << 20, "all of it");
}
