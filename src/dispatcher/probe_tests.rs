use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::*;
use crate::dispatcher::transport::{Http, Transport};

/// What a machine with 1,024 descriptors leaves for callbacks, or less.
fn small() -> Callback {
    Callback { in_flight_max: 150, idle_connections_max: 50, ..Callback::default() }
}

/// A port at which all loopback addresses are silent: nobody accepts, and what waits to be accepted fills its line.
async fn silent_port() -> (tokio::net::TcpListener, Vec<TcpStream>, u16) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut line = Vec::new();
    let full = Duration::from_millis(300);
    while let Ok(connected) = tokio::time::timeout(full, TcpStream::connect((Ipv4Addr::LOCALHOST, port))).await {
        line.push(connected.unwrap());
    }
    (listener, line, port)
}

#[tokio::test]
async fn hosts_that_do_not_answer_do_not_delay_the_probe_of_one_that_does() {
    const SILENT: u8 = 200;
    let settings = Callback { connect_timeout_ms: 120_000, ..small() };
    let probes = Arc::new(Probes::new(&settings));
    let http = Http::new(&settings, Arc::default()).unwrap();
    let (_listener, _line, port) = silent_port().await;
    let answers = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();

    let (told, ended) = std::sync::mpsc::channel();
    for n in 1..=SILENT {
        let (probes, told) = (probes.clone(), told.clone());
        let silent = http.reach(&SocketAddr::from(([127, 0, 1, n], port)).to_string());
        tokio::spawn(async move { told.send(probes.make(|| true, silent).await).unwrap() });
    }
    // All of them are in front of it.
    while probes.soon.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let healthy = http.reach(&answers.local_addr().unwrap().to_string());
    let reached = tokio::time::timeout(Duration::from_secs(20), probes.make(|| true, healthy)).await;
    assert!(matches!(reached, Ok(Some(Ok(())))), "{reached:?}");
    // None of the others was reached, so that they did stand in its way.
    let given_way: Vec<_> = ended.try_iter().collect();
    assert!(given_way.iter().all(|probe| matches!(probe, Some(Err(Failure::Connect(_))))), "{given_way:?}");
    let long = probes.long.lock().unwrap().iter().filter(|probe| !probe.is_closed()).count();
    assert!(long <= probes.long_max, "{long} of {} take long", probes.long_max);
}

#[tokio::test]
async fn a_host_that_takes_long_is_waited_for_even_where_others_never_answer() {
    let probes = Arc::new(Probes::new(&small()));
    let _others: Vec<_> = (0..probes.long_max).map(|_| probes.takes_long()).collect();
    let slow = async {
        tokio::time::sleep(2 * SOON).await;
        Ok(())
    };
    assert!(matches!(probes.make(|| true, slow).await, Some(Ok(()))));
    assert!(probes.make(|| false, std::future::ready(Ok(()))).await.is_none(), "nobody wants it any more");
}

#[test]
fn probes_take_no_connection_from_attempts() {
    for idle_connections_max in [1, 2, 16, 17, 50, 255, 256, 3072] {
        let probes = Probes::new(&Callback { idle_connections_max, ..small() });
        let soon = probes.soon.available_permits();
        assert!(soon > 0 && probes.long_max > 0, "{idle_connections_max}");
        let many = soon + probes.long_max;
        assert!(many <= idle_connections_max.max(2) && many <= 256, "{idle_connections_max}: {many}");
    }
}
