//! Clients that listen to a running process: copies of its output, as long as they keep up.
//!
//! A client is a pair of fifos it reads. What it has not read yet waits in the fifo itself, enlarged to [`FIFO_SIZE`]: memory
//! that exists only while it is filled. When the fifo is full the process waits up to [`PATIENCE`] for the client to take the
//! batch - so `kubectl attach` loses nothing on a network slower than the container - and then the client is dropped, not the
//! process. A client that went away is noticed at once, without any output, by the error the kernel reports on its fifo.

use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags, open},
    pipe::fcntl_setpipe_size,
};
use tokio::{
    io::Interest,
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::{
    error::{Error, Result},
    sink::is_fifo,
    transfer::{Watched, watch, write_some, write_whole},
};

/// How long a full client may hold up the process before it is dropped: with a batch of 64 KiB it must take 64 KiB/s.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// How far a client may lag behind without anybody waiting, in bytes.
const FIFO_SIZE: usize = 1024 * 1024;

/// What the taps of one client have in common.
#[derive(Debug, Default)]
pub struct Client {
    changed: Notify,
    dropped: AtomicBool,
}

impl Client {
    /// Waits until one of the client's taps was closed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether the client did not keep up, or has gone: what is left of it is to be closed.
    pub fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Relaxed)
    }

    fn drop_it(&self) {
        self.dropped.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }
}

/// One stream of one client.
#[derive(Debug)]
struct Tap {
    client: Arc<Client>,
    fifo: Arc<Watched>,
    /// The end of the last batch, until the fifo takes it: at most one batch, and empty for a client that keeps up.
    behind: Vec<u8>,
}

/// Everyone who listens to one stream; `None` when the stream has ended, or never was.
#[derive(Debug)]
pub struct Taps(Mutex<Option<Vec<Tap>>>);

impl Taps {
    /// Of a stream nobody listens to yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(Vec::new()))))
    }

    /// Adds the fifo at `path`, which its reader must have opened already. When the stream has ended the reader sees that.
    pub fn add(&self, client: &Arc<Client>, path: &Path) -> Result<()> {
        let what = || format!("open {} for writing", path.display());
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let fifo = open(path, flags, Mode::empty()).map_err(|error| Error::io(what(), error))?;
        if !is_fifo(&fifo) {
            return Err(Error::Invalid(format!("attach to {}: not a fifo", path.display())));
        }
        // A limit on pipe memory may refuse it; then the client has its 64 KiB.
        let _ = fcntl_setpipe_size(&fifo, FIFO_SIZE);
        let fifo = Arc::new(watch(fifo, Interest::WRITABLE | Interest::ERROR, &path.display().to_string())?);
        self.with(|taps| taps.push(Tap { client: client.clone(), fifo, behind: Vec::new() }));
        Ok(())
    }

    /// Whether nobody listens.
    pub fn is_empty(&self) -> bool {
        self.with(|taps| taps.is_empty()).unwrap_or(true)
    }

    /// The fifo of `client`, to watch it; whoever keeps it keeps it open.
    pub fn fifo_of(&self, client: &Arc<Client>) -> Option<Arc<Watched>> {
        let find =
            |taps: &mut Vec<Tap>| taps.iter().find(|tap| Arc::ptr_eq(&tap.client, client)).map(|tap| tap.fifo.clone());
        self.with(find).flatten()
    }

    /// Closes the fifo of `client`.
    pub fn remove(&self, client: &Arc<Client>) {
        self.with(|taps| taps.retain(|tap| !Arc::ptr_eq(&tap.client, client)));
    }

    /// Closes all fifos, for good: the stream has ended.
    pub fn close(&self) {
        for tap in self.lock().take().into_iter().flatten() {
            tap.client.changed.notify_one();
        }
    }

    /// Copies a batch to everyone; what a fifo does not take now waits for [`Taps::settle`], which must come before the next.
    pub fn offer(&self, bytes: &[u8]) {
        let offer = |tap: &mut Tap| match write_some(&tap.fifo, bytes) {
            Ok(n) => {
                tap.behind.extend_from_slice(&bytes[n..]);
                true
            }
            Err(_) => {
                tap.client.drop_it();
                false
            }
        };
        self.with(|taps| taps.retain_mut(offer));
    }

    /// Waits until everyone has taken the last batch, at most [`PATIENCE`], and drops those who have not.
    pub async fn settle(&self) {
        let mut deadline = None;
        while let Some((fifo, behind)) = self.take_behind() {
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
            // Those who come after a stalled one have had the time, too: the write is tried before the clock is looked at.
            let outcome = timeout_at(deadline, write_whole(&fifo, &behind)).await;
            if !matches!(outcome, Ok(Ok(()))) {
                self.drop_fifo(&fifo);
            }
        }
    }

    fn take_behind(&self) -> Option<(Arc<Watched>, Vec<u8>)> {
        let take = |taps: &mut Vec<Tap>| {
            let tap = taps.iter_mut().find(|tap| !tap.behind.is_empty())?;
            Some((tap.fifo.clone(), std::mem::take(&mut tap.behind)))
        };
        self.with(take).flatten()
    }

    fn drop_fifo(&self, fifo: &Arc<Watched>) {
        self.with(|taps| {
            for tap in taps.extract_if(.., |tap| Arc::ptr_eq(&tap.fifo, fifo)) {
                tap.client.drop_it();
            }
        });
    }

    fn with<T>(&self, run: impl FnOnce(&mut Vec<Tap>) -> T) -> Option<T> {
        self.lock().as_mut().map(run)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<Tap>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns when the reader of `fifo` has gone.
pub async fn vanished(fifo: &Watched) -> io::Result<()> {
    fifo.ready(Interest::ERROR).await.map(drop)
}
