//! The TCP connection under a session: shared, so that somebody can look whether the client is still there while nobody reads.
//!
//! A session that waits for a process to take its stdin does not read, and so would not see its client go. The kernel knows:
//! `hung_up` asks it. Whether anything moved at all is noted here too, for the idle timeout.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How often the kernel is asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A client's connection.
#[derive(Debug, Clone)]
pub struct Line(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tcp: TcpStream,
    opened: Instant,
    /// Milliseconds after `opened`.
    moved: AtomicU64,
}

impl Line {
    /// Takes a connection; silent peers are probed by the kernel, so that a client whose machine is gone is noticed.
    pub fn new(tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        rustix::net::sockopt::set_socket_keepalive(&tcp, true)?;
        rustix::net::sockopt::set_tcp_keepidle(&tcp, Duration::from_secs(60))?;
        Ok(Self(Arc::new(Inner { tcp, opened: Instant::now(), moved: AtomicU64::new(0) })))
    }

    /// Returns when the client has hung up, read or not; never at once, so that what it sent last can still be taken.
    pub async fn hung_up(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.is_hung_up() {
                return;
            }
        }
    }

    fn is_hung_up(&self) -> bool {
        let end = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut fds = [PollFd::new(&self.0.tcp, PollFlags::RDHUP)];
        match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(_) => fds[0].revents().intersects(end),
            Err(_) => false,
        }
    }

    /// Returns when nothing has moved in either direction for `limit`.
    pub async fn idle(&self, limit: Duration) {
        loop {
            let moved = self.0.opened + Duration::from_millis(self.0.moved.load(Ordering::Relaxed));
            if moved.elapsed() >= limit {
                return;
            }
            tokio::time::sleep_until(moved + limit).await;
        }
    }

    fn touch(&self) {
        let now = u64::try_from(self.0.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.moved.store(now, Ordering::Relaxed);
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.tcp.poll_read_ready(cx))?;
            match self.0.tcp.try_read(buf.initialize_unfilled()) {
                Ok(read) => {
                    buf.advance(read);
                    self.touch();
                    return Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.tcp.poll_write_ready(cx))?;
            match self.0.tcp.try_write(buf) {
                Ok(written) => {
                    self.touch();
                    return Poll::Ready(Ok(written));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(rustix::net::shutdown(&self.0.tcp, Shutdown::Write).map_err(Into::into))
    }
}
