//! A client that attaches to a running process: its listening fifos, its stdin, and the task that owns them.
//!
//! The task ends, and with it every descriptor of the client, when the client's reader goes, when the client is dropped for
//! not keeping up, or when all streams it listens to have ended.

use std::{
    future::pending,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
};

use super::{
    error::{Error, Result},
    stdin::{Stdin, Target, client_fifo},
    tap::{Client, Taps, vanished},
    transfer::Watched,
    url::{Endpoint, Stdio},
};

/// The streams of a process, as far as clients can share them.
#[derive(Debug)]
pub struct Streams {
    /// Who listens to stdout; of a terminal, to all output.
    pub stdout: Arc<Taps>,
    /// Who listens to stderr.
    pub stderr: Arc<Taps>,
    /// What is written to the process.
    pub stdin: Stdin,
}

/// A client on its way in.
#[derive(Debug)]
pub struct Attachment {
    streams: Arc<Streams>,
    client: Arc<Client>,
    listens: bool,
    feed: Option<(Watched, Arc<Target>)>,
}

impl Attachment {
    /// Opens a client's fifos; a listening fifo must have its reader already. On an error nothing stays open.
    ///
    /// A stdin that the process does not have, or no longer, is left alone, as kubelet asks for it without knowing.
    pub fn open(streams: &Arc<Streams>, stdio: &Stdio) -> Result<Self> {
        let (stdin, stdout, stderr) = (path(&stdio.stdin)?, path(&stdio.stdout)?, path(&stdio.stderr)?);
        let feed = match (&stdin, streams.stdin.target()) {
            (Some(stdin), Some(target)) => Some((client_fifo(stdin)?, target)),
            _ => None,
        };
        let listens = stdout.is_some() || stderr.is_some();
        if !listens && feed.is_none() {
            return Err(Error::Invalid("attach: there is no stream to attach to".into()));
        }
        let attachment = Self { streams: streams.clone(), client: Arc::default(), listens, feed };
        attachment.listen(&streams.stdout, stdout.as_deref())?;
        attachment.listen(&streams.stderr, stderr.as_deref())?;
        Ok(attachment)
    }

    fn listen(&self, taps: &Taps, path: Option<&Path>) -> Result<()> {
        path.map_or(Ok(()), |path| taps.add(&self.client, path))
    }

    /// Serves the client until it goes.
    pub async fn serve(mut self) {
        let (streams, feed) = (self.streams.clone(), self.feed.take());
        let mut feeding = feed.is_some();
        let mut feed = pin!(async move {
            if let Some((source, target)) = feed {
                streams.stdin.feed_from_client(source, target).await;
            }
        });
        while !self.client.is_dropped() {
            // Held no longer than this turn: whoever holds a fifo keeps it open.
            let fifos = [self.streams.stdout.fifo_of(&self.client), self.streams.stderr.fifo_of(&self.client)];
            let over = if self.listens { fifos.iter().all(Option::is_none) } else { !feeding };
            if over {
                return;
            }
            tokio::select! {
                () = gone(&fifos[0]) => return,
                () = gone(&fifos[1]) => return,
                () = self.client.changed() => {}
                () = &mut feed, if feeding => feeding = false,
            }
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.streams.stdout.remove(&self.client);
        self.streams.stderr.remove(&self.client);
    }
}

async fn gone(fifo: &Option<Arc<Watched>>) {
    match fifo {
        // An error of the watch itself is as good as a reader that went.
        Some(fifo) => drop(vanished(fifo).await),
        None => pending().await,
    }
}

fn path(text: &str) -> Result<Option<PathBuf>> {
    match Endpoint::of_output(text)? {
        Endpoint::Null => Ok(None),
        Endpoint::Fifo(path) => Ok(Some(path)),
        _ => Err(Error::Invalid(format!("attach to {text:?}: only a fifo can be attached to"))),
    }
}
