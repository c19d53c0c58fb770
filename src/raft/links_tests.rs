//! Names that lead elsewhere than to the peer, or nowhere.

#![cfg(not(feature = "sim"))]

use std::net::IpAddr;

use axum::http::header::CONNECTION;
use axum::response::IntoResponse;
use axum::Router;
use tokio::net::TcpListener;

use super::*;

const NAME: &str = "peer.example";
const TIMEOUT: Duration = Duration::from_secs(2);

/// Who answers at an address, and closes the connection or keeps it.
#[derive(Clone, Copy)]
enum Who {
    /// The peer, with this number.
    Peer(u32),
    /// Another node.
    Other,
    /// Another program.
    Stranger,
}

/// Has somebody listen at `ip`, at a port of their own where there is none yet.
async fn at(ip: &str, port: &mut u16, who: Who, closes: bool) {
    let listener = TcpListener::bind((ip, *port)).await.unwrap();
    *port = listener.local_addr().unwrap().port();
    let answer = move || async move {
        let clock = [(HEADER_CLOCK, "1")];
        let mut answer = match who {
            Who::Peer(number) => (clock, postcard::to_stdvec(&number).unwrap()).into_response(),
            Who::Other => (StatusCode::MISDIRECTED_REQUEST, clock, "this is node 3").into_response(),
            Who::Stranger => (StatusCode::NOT_FOUND, "no such page").into_response(),
        };
        if closes {
            answer.headers_mut().insert(CONNECTION, "close".parse().unwrap());
        }
        answer
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
}

/// What the name server says: addresses, or nothing at all where there are none.
#[derive(Clone, Default)]
struct Says(Arc<Mutex<Vec<IpAddr>>>);

impl Says {
    fn say(&self, ips: &[&str]) {
        *self.0.lock().unwrap() = ips.iter().map(|ip| ip.parse().unwrap()).collect();
    }

    fn links(&self) -> Links {
        let says = self.clone();
        let lookup: names::Lookup = Arc::new(move |_| {
            let ips = says.0.lock().unwrap().clone();
            Box::pin(async move {
                if ips.is_empty() {
                    std::future::pending::<()>().await;
                }
                Ok(ips)
            })
        });
        Links::over(Clock::system(), Duration::from_secs(1), Names::of_peers(lookup))
    }
}

async fn call(links: &Links, port: u16) -> Result<u32, CallError> {
    links.call(&format!("{NAME}:{port}"), "status", &(), TIMEOUT).await
}

/// An address below 127.0.0.0/8 that no other test uses, for each of two.
const HERE: &str = "127.0.41.1";
const THERE: &str = "127.0.41.2";

#[tokio::test]
async fn a_name_that_leads_to_somebody_else_is_resolved_anew() {
    for who in [Who::Other, Who::Stranger] {
        let (says, mut port) = (Says::default(), 0);
        at(THERE, &mut port, who, false).await;
        at(HERE, &mut port, Who::Peer(7), false).await;
        says.say(&[THERE]);
        let links = says.links();
        for _ in 0..3 {
            assert!(matches!(call(&links, port).await, Err(CallError::NotSent(_))));
        }
        // No connection to there is kept.
        says.say(&[HERE]);
        assert_eq!(call(&links, port).await.unwrap(), 7);
    }
}

#[tokio::test]
async fn a_name_server_that_is_wrong_costs_one_call_where_the_peer_was_reached_before() {
    for who in [Who::Other, Who::Stranger] {
        let (says, mut port) = (Says::default(), 0);
        at(HERE, &mut port, Who::Peer(7), true).await;
        at(THERE, &mut port, who, true).await;
        says.say(&[HERE]);
        let links = says.links();
        assert_eq!(call(&links, port).await.unwrap(), 7);
        says.say(&[THERE]);
        assert!(call(&links, port).await.is_err());
        for _ in 0..3 {
            assert_eq!(call(&links, port).await.unwrap(), 7, "where it was before");
        }
    }
}

#[tokio::test]
async fn a_peer_is_called_where_it_was_while_the_name_server_is_silent() {
    let (says, mut port) = (Says::default(), 0);
    at(HERE, &mut port, Who::Peer(7), true).await;
    says.say(&[HERE]);
    let links = says.links();
    assert_eq!(call(&links, port).await.unwrap(), 7);
    says.say(&[]);
    let began = monotonic();
    for _ in 0..5 {
        assert_eq!(call(&links, port).await.unwrap(), 7);
    }
    assert!(began.elapsed() < TIMEOUT, "{:?}", began.elapsed());
    // Of a peer that was never reached the cause is told before the call's time is up.
    let error = says.links().call::<_, u32>("never.example:1", "status", &(), TIMEOUT).await.unwrap_err();
    assert!(matches!(&error, CallError::NotSent(text) if text.contains("dns error")), "{error}");
}

#[tokio::test]
async fn what_has_had_no_connection_when_its_time_is_up_was_not_sent() {
    let (says, mut port) = (Says::default(), 0);
    at(HERE, &mut port, Who::Peer(7), true).await;
    let links = says.links();
    let soon = Duration::from_millis(50);
    // The name server is silent.
    let error = links.call::<_, u32>(&format!("{NAME}:{port}"), "status", &(), soon).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent(_)), "{error}");

    // Somebody takes connections, and reads nothing.
    let silent = TcpListener::bind((THERE, 0)).await.unwrap();
    let sent = Sent::default();
    let address = silent.local_addr().unwrap().to_string();
    let error = links.call_noting::<_, u32>(&address, "status", &(), soon, &sent).await.unwrap_err();
    assert!(sent.may_have_left() && matches!(error, CallError::Unknown(_)), "{error}");
}

#[tokio::test]
async fn a_connection_that_comes_too_late_for_one_call_serves_the_next() {
    let mut port = 0;
    at(HERE, &mut port, Who::Peer(7), false).await;
    let (found, soon) = (Duration::from_millis(300), Duration::from_millis(20));
    let slow: names::Lookup = Arc::new(move |_| {
        Box::pin(async move {
            tokio::time::sleep(found).await;
            Ok(vec![HERE.parse().unwrap()])
        })
    });
    let links = Links::over(Clock::system(), TIMEOUT, Names::of_peers(slow));
    let address = format!("{NAME}:{port}");
    assert!(links.call::<_, u32>(&address, "status", &(), soon).await.is_err());
    let link = links.link(&address);
    let connected = async {
        while !link.connections.has_idle() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(TIMEOUT * 5, connected).await.expect("a connection is kept");
    assert_eq!(links.call::<_, u32>(&address, "status", &(), found).await.unwrap(), 7);
}
