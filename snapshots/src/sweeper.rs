//! The thread behind a store: deletes what was removed, writes the WAL back, keeps the reserve.
//!
//! None of this is anybody's way to a running pod: a big tree takes seconds to delete and a checkpoint syncs. What is
//! left when the process ends is found by the next one that opens the store.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use rustix::fs::{FallocateFlags, fallocate};

use crate::error::{Error, Result};
use crate::metadata::checkpoint;
use crate::tree::{delete, open_folder};

/// Statements between two checkpoints; each writes a few pages of 4 KiB to the WAL.
const STATEMENTS_PER_CHECKPOINT: u64 = 512;

/// What is set aside so that a remove can be recorded on a full disk.
const RESERVE_BYTES: u64 = 1 << 20;

/// The folders and files of a store the sweeper works on.
pub(crate) struct Paths {
    /// What is in here is deleted.
    pub trash: PathBuf,
    /// The database.
    pub metadata: PathBuf,
    /// A file that takes space, so that it can be freed.
    pub reserve: PathBuf,
}

enum Job {
    Delete(CString),
    Checkpoint,
    End,
}

/// The thread, and how to reach it. Dropping it ends the thread before the tree at hand is deleted.
pub(crate) struct Sweeper {
    jobs: Sender<Job>,
    stop: Arc<AtomicBool>,
    statements: AtomicU64,
    thread: Option<JoinHandle<()>>,
}

impl Sweeper {
    /// Starts the thread, and deletes what lies in the trash already.
    pub fn start(paths: Paths) -> Result<Self> {
        let trash = open_folder(&paths.trash)?;
        let (jobs, queue) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        for entry in std::fs::read_dir(&paths.trash).map_err(|e| Error::io("read folder", &paths.trash, e))? {
            let name = entry.map_err(|e| Error::io("read folder", &paths.trash, e))?.file_name();
            if let Ok(name) = CString::new(name.into_encoded_bytes()) {
                let _ = jobs.send(Job::Delete(name));
            }
        }
        let worker = Worker { trash, paths, stop: Arc::clone(&stop) };
        worker.keep_reserve();
        let thread = std::thread::Builder::new()
            .name("snapshot-sweeper".into())
            .spawn(move || worker.run(&queue))
            .map_err(|e| Error::io("start a thread for", "trash", e))?;
        Ok(Sweeper { jobs, stop, statements: AtomicU64::new(0), thread: Some(thread) })
    }

    /// Deletes `name` in the trash, later.
    pub fn delete(&self, name: CString) {
        // The thread ends only with the store: a send cannot fail while somebody can call this.
        let _ = self.jobs.send(Job::Delete(name));
    }

    /// Counts statements written, and has the WAL written back once they are many.
    pub fn wrote(&self, statements: u64) {
        let before = self.statements.fetch_add(statements, Ordering::Relaxed);
        if before / STATEMENTS_PER_CHECKPOINT != (before + statements) / STATEMENTS_PER_CHECKPOINT {
            let _ = self.jobs.send(Job::Checkpoint);
        }
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.jobs.send(Job::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker {
    trash: OwnedFd,
    paths: Paths,
    stop: Arc<AtomicBool>,
}

impl Worker {
    fn run(&self, queue: &Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            match job {
                // What cannot be deleted (an immutable file, a mount still in it) stays in the trash, and is tried
                // again when the store is opened next.
                Job::Delete(name) => {
                    let _ = delete::delete(self.trash.as_fd(), &name, &self.stop);
                    self.keep_reserve();
                }
                // A checkpoint that fails leaves a longer WAL; the next one takes it along.
                Job::Checkpoint => {
                    let _ = checkpoint(&self.paths.metadata);
                }
                Job::End => return,
            }
        }
    }

    /// Makes the reserve if it is not there: it was spent when the disk was full.
    fn keep_reserve(&self) {
        if !self.paths.reserve.exists() && take_space(&self.paths.reserve).is_err() {
            let _ = std::fs::remove_file(&self.paths.reserve);
        }
    }
}

fn take_space(path: &Path) -> std::io::Result<()> {
    let file = File::create_new(path)?;
    Ok(fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES)?)
}
