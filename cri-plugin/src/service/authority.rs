//! Clients that dial the socket by its path and say so: their `:authority` is `/run/cleat/cleat.sock` (grpc-go to 2021,
//! kubelet before 1.26, Java) or that path percent-encoded (C++, Python, grpcurl).
//!
//! Neither is an authority as RFC 3986 has it, and `h2` refuses the request with PROTOCOL_ERROR before tonic sees it
//! (h2 0.4; hyperium/h2 pull request 487 would let it through: this module can go when that is in). So each connection
//! is looked at until its first header block: if that has an authority the bytes pass by, uncopied; if not, every
//! header block of the connection is decoded and written anew with `localhost`.
//!
//! ```text
//! AuthorityIo   a connection, as tonic takes it      incoming   accepted connections
//!   scan        frames, and what becomes of them
//!     block     a header block: join, decode, encode
//!     frame     the head of a frame
//! ```
//!
//! Deliberately absent: the other direction, which has no authority, and any opinion on other headers.

mod block;
mod frame;
mod scan;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::server::Connected;

use scan::Scan;

/// How much is read at a time while a connection is looked at.
const CHUNK_BYTES: usize = 4096;
/// How long to wait when the process or the machine has no descriptor or memory left for another connection.
const BACKOFF: Duration = Duration::from_millis(100);

/// A connection whose requests have an authority, whatever the client sent.
#[derive(Debug)]
pub struct AuthorityIo<S> {
    io: S,
    /// Gone once the client has shown an authority.
    watch: Option<Box<Watch>>,
}

impl<S> AuthorityIo<S> {
    /// Around a connection of which nothing has been read.
    pub fn new(io: S) -> AuthorityIo<S> {
        let watch = Watch { scan: Scan::new(), chunk: [0; CHUNK_BYTES], used: 0, filled: 0 };
        AuthorityIo { io, watch: Some(Box::new(watch)) }
    }
}

/// A scan, and what it has not had of the last read.
struct Watch {
    scan: Scan,
    chunk: [u8; CHUNK_BYTES],
    used: usize,
    filled: usize,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Watch {
    /// Gives the reader what is ready; false if nothing is.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let ready = self.scan.ready();
        let count = ready.len().min(buf.remaining());
        buf.put_slice(&ready[..count]);
        self.scan.took(count);
        count > 0
    }

    /// Feeds the scan what is left of the last read; false if nothing is.
    fn feed(&mut self) -> io::Result<bool> {
        let input = &self.chunk[self.used..self.filled];
        if input.is_empty() {
            return Ok(false);
        }
        self.used += self.scan.push(input).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(true)
    }

    /// Reads more; false at the end of the stream.
    fn fill<S: AsyncRead + Unpin>(&mut self, io: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut buf = ReadBuf::new(&mut self.chunk);
        ready!(Pin::new(io).poll_read(cx, &mut buf))?;
        (self.used, self.filled) = (0, buf.filled().len());
        Poll::Ready(Ok(self.filled > 0))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AuthorityIo<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        while let Some(watch) = &mut this.watch {
            if watch.give(buf) {
                return Poll::Ready(Ok(()));
            }
            if watch.feed()? {
                continue;
            }
            if watch.scan.is_plain() {
                this.watch = None;
            } else if !ready!(watch.fill(&mut this.io, cx))? {
                return Poll::Ready(Ok(()));
            }
        }
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AuthorityIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<S: Connected> Connected for AuthorityIo<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.io.connect_info()
    }
}

/// Accepts connections for `tonic`'s `serve_with_incoming`, for ever.
///
/// It never yields an error: tonic would ask again at once and spin. A connection that died in the queue is passed
/// over; anything else, such as no free descriptor, is logged and waited out, while open connections go on.
pub fn incoming(listener: UnixListener) -> impl Stream<Item = io::Result<AuthorityIo<UnixStream>>> {
    stream::unfold(listener, |listener| async move {
        let io = accepted(|cx| listener.poll_accept(cx)).await.0;
        Some((Ok(AuthorityIo::new(io)), listener))
    })
}

async fn accepted<S>(mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<S>>) -> S {
    loop {
        match poll_fn(&mut accept).await {
            Ok(io) => return io,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!("cannot accept a CRI connection, trying again: {error}");
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn accepting_outlives_errors() {
        let mut answers = [
            Err(io::Error::from_raw_os_error(libc::ECONNABORTED)),
            Err(io::Error::from_raw_os_error(libc::EMFILE)),
            Err(io::Error::from_raw_os_error(libc::ENOMEM)),
            Ok(7),
        ]
        .into_iter();
        let accepted = accepted(|_| Poll::Ready(answers.next().unwrap()));
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), accepted).await.unwrap(), 7);
    }

    /// A connection, the client's end first.
    fn pair() -> (UnixStream, AuthorityIo<UnixStream>) {
        let (client, server) = UnixStream::pair().unwrap();
        (client, AuthorityIo::new(server))
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_the_end_is_seen() {
        let (mut client, mut server) = pair();
        client.write_all(b"no HTTP/2 at all").await.unwrap();
        client.shutdown().await.unwrap();
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"no HTTP/2 at all");
        assert!(server.watch.is_none(), "still watched");
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
    }

    #[tokio::test]
    async fn an_end_within_a_block_is_an_end() {
        let (mut client, mut server) = pair();
        let half = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x09\x01\x04\0\0\0\x01\x41";
        client.write_all(half).await.unwrap();
        drop(client);
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, half[..24]);
    }

    #[tokio::test]
    async fn small_reads_lose_nothing() {
        let (mut client, mut server) = pair();
        let input = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x04\x01\x04\0\0\0\x01\x41\x02/sDATA";
        client.write_all(input).await.unwrap();
        client.shutdown().await.unwrap();
        let mut all = Vec::new();
        while let Ok(byte) = server.read_u8().await {
            all.push(byte);
        }
        let block = b"\0\0\x16\x01\x04\0\0\0\x01\0\x0a:authority\x09localhost";
        assert_eq!(all, [&input[..24], block].concat());
    }
}
