//! What the machine and the libraries can do at best, measured in the same run as what is held against it.

use std::io::{Seek, Write};
use std::path::Path;
use std::time::Duration;

use super::client::{drive, Client, Tasks};
use super::sink::Sink;
use crate::clock::monotonic;

const TIME: Duration = Duration::from_secs(2);
const FILE_BYTES: usize = 16 << 20;
const WRITE_BYTES: usize = 4096;

/// Answers per second of a JSON echo, to the client and with the bodies of the load.
pub(super) async fn echo(client: &Client, sink: &Sink, tasks: &Tasks) -> Result<f64, String> {
    let (url, tasks) = (sink.url("/echo"), tasks.clone());
    let driven = drive(client, tasks.connections, Some(TIME), move |client, worker| {
        let (url, body) = (url.clone(), tasks.one(worker));
        async move { client.post(&url, body).await.map(|_| 1) }
    });
    let (done, took, _) = driven.await?;
    Ok(done as f64 / took.as_secs_f64())
}

/// Requests per second to the sink by a bare client of the library that sends callbacks.
pub(super) async fn callbacks(client: &Client, sink: &Sink, body_bytes: usize) -> Result<f64, String> {
    // Another one in the process may have installed it; it is the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let bare = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build().map_err(|e| e.to_string())?;
    let (url, body) = (sink.url("/"), "x".repeat(body_bytes));
    let driven = drive(client, 64, Some(TIME), move |_, _| {
        let request = bare.post(&url).header("content-type", "application/json").body(body.clone());
        async move {
            let answer = request.send().await.map_err(|e| e.to_string())?;
            answer.bytes().await.map(|_| 1).map_err(|e| e.to_string())
        }
    });
    let (done, took, _) = driven.await?;
    Ok(done as f64 / took.as_secs_f64())
}

/// Synced writes of a page per second, one after the other, into a file that has its size already.
pub(super) fn syncs(dir: &Path) -> Result<f64, String> {
    let path = dir.join(format!("xcron-bench-{}.sync", std::process::id()));
    let measured = sync_file(&path).map_err(|e| format!("{}: {e}", path.display()));
    let _ = std::fs::remove_file(&path);
    measured
}

fn sync_file(path: &Path) -> std::io::Result<f64> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(&vec![0; FILE_BYTES])?;
    file.sync_all()?;
    file.rewind()?;
    let (began, page) = (monotonic(), vec![1; WRITE_BYTES]);
    let mut done = 0;
    while began.elapsed() < TIME / 2 {
        if done % (FILE_BYTES / WRITE_BYTES) == 0 {
            file.rewind()?;
        }
        file.write_all(&page)?;
        file.sync_data()?;
        done += 1;
    }
    Ok(done as f64 / began.elapsed().as_secs_f64())
}
