//! A file whose reads and writes are done at once, in the thread that asks.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf};

use super::damage;

/// The file.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    file: std::fs::File,
    position: u64,
}

impl File {
    /// Opens a file to be read.
    ///
    /// # Errors
    /// What the file system gives.
    #[expect(clippy::unused_async, reason = "as tokio's, which stands here in production")]
    pub async fn open(path: &Path) -> io::Result<File> {
        Ok(File { path: path.to_owned(), file: std::fs::File::open(path)?, position: 0 })
    }

    pub(crate) fn create_new(path: &Path) -> io::Result<File> {
        let file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(File { path: path.to_owned(), file, position: 0 })
    }
}

impl AsyncRead for File {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = self.file.read(buf.initialize_unfilled())?;
        damage::passes(&self.path, &mut buf.initialize_unfilled()[..read]);
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for File {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut bytes = bytes.to_vec();
        damage::passes(&self.path, &mut bytes);
        Poll::Ready(self.file.write(&bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.file.flush())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl AsyncSeek for File {
    fn start_seek(mut self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
        self.position = self.file.seek(to)?;
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(self.position))
    }
}
