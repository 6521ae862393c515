//! Keeps the present network up to date: inotify on the configuration folder, reading it again where that fails.
//!
//! The folder may appear later (a network's installer makes it) or vanish: then its nearest ancestor is watched. Every
//! change leads to a new watch before the folder is read again, so nothing between the two is missed. What inotify
//! cannot see (a mount over the folder, a link on its way) shows at the next round at the latest.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::time::Duration;

use futures_util::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchMask};
use tokio::time::sleep;

use super::{Cni, folder};

/// The folder is read at least this often.
const ROUND: Duration = Duration::from_secs(30);
/// The same, while it cannot be watched (`fs.inotify.max_user_instances` is often used up on a node) or a plugin says that
/// it is not ready.
const SHORT_ROUND: Duration = Duration::from_secs(5);
/// An installer writes several files: one reading after the last of them.
const SETTLE: Duration = Duration::from_millis(20);

/// Runs until the network is dropped.
pub(super) async fn run(cni: Weak<Cni>, dir: PathBuf) {
    loop {
        let watch = Watch::arm(&dir);
        let from = dir.clone();
        let loaded = tokio::task::spawn_blocking(move || folder::load(&from)).await;
        match (cni.upgrade(), loaded) {
            (Some(cni), Ok(loaded)) => cni.replace(loaded),
            (None, _) => return,
            (_, Err(error)) => tracing::error!(%error, "reading the CNI configuration"),
        }
        match watch {
            Ok(mut watch) => {
                // A change of the configuration also ends a plugin that takes its time to tell its status.
                tokio::select! {
                    () = watch.changed() => {}
                    () = round(&cni, ROUND) => {}
                }
            }
            Err(error) => {
                tracing::debug!(dir = %dir.display(), %error, "the CNI configuration is read without a watch");
                round(&cni, SHORT_ROUND).await;
            }
        }
    }
}

/// Asks the plugins for their status and waits for the next time to ask.
async fn round(cni: &Weak<Cni>, pause: Duration) {
    let ready = match cni.upgrade() {
        Some(cni) => cni.probe().await,
        None => return,
    };
    sleep(if ready { pause } else { SHORT_ROUND }).await;
}

/// An armed watch; used for one change.
struct Watch {
    events: EventStream<Vec<u8>>,
    target: Target,
}

/// What is watched.
enum Target {
    /// The folder itself.
    Folder(PathBuf),
    /// An ancestor, for the entry on the way to the folder.
    Ancestor { awaited: std::ffi::OsString },
}

impl Watch {
    fn arm(dir: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let target = aim(&inotify, dir)?;
        Ok(Self { events: inotify.into_event_stream(vec![0; 4096])?, target })
    }

    /// Returns after a change that may matter and the quiet after it.
    async fn changed(&mut self) {
        while let Some(Ok(event)) = self.events.next().await {
            if self.target.concerns(event.mask, event.name.as_deref()) {
                return sleep(SETTLE).await;
            }
        }
        sleep(SHORT_ROUND).await;
    }
}

impl Target {
    fn concerns(&self, mask: EventMask, name: Option<&std::ffi::OsStr>) -> bool {
        match (self, name) {
            // A file that was just made is empty: its writer closes it in a moment. Links come whole.
            (Self::Folder(dir), Some(name)) if mask.contains(EventMask::CREATE) => is_link(&dir.join(name)),
            (Self::Ancestor { awaited }, Some(name)) => name == awaited,
            _ => true,
        }
    }
}

fn is_link(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink() || meta.nlink() > 1)
}

/// Watches the folder, or the nearest ancestor that is there.
fn aim(inotify: &Inotify, dir: &Path) -> io::Result<Target> {
    let gone = WatchMask::DELETE_SELF | WatchMask::MOVE_SELF | WatchMask::ONLYDIR;
    let entries = WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::MOVED_FROM | WatchMask::DELETE;
    loop {
        match inotify.watches().add(dir, gone | entries | WatchMask::CLOSE_WRITE) {
            Ok(_) => return Ok(Target::Folder(dir.to_path_buf())),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Err(_) => {}
        }
        let missing = dir.ancestors().take_while(|path| !path.exists()).last().unwrap_or(dir);
        let (Some(ancestor), Some(awaited)) = (missing.parent(), missing.file_name()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let watched = inotify.watches().add(ancestor, gone | entries);
        // Made in between: its event may have come before the watch.
        match watched {
            Ok(_) if missing.exists() => {}
            Ok(_) => return Ok(Target::Ancestor { awaited: awaited.to_owned() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
}
