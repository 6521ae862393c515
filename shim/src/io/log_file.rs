//! A container's log file: whole records only, whatever the disk does.
//!
//! Both streams of a process share one [`LogFile`]. A batch is one `write` to a file opened for appending, so records of the
//! two streams never mix. When the disk is full, or the file was deleted under us, the process must not notice: the batch is
//! counted and dropped, a record the kernel cut in half is taken back, and once writing works again a line in the log says how
//! many records are missing. Deliberately absent: fsync, and a retry of lost records - that would need memory without bound.
//! Writes block, as there is no other way to write a file from one thread: a throttled disk slows this pod's shim only.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::{
    fd::OwnedFd,
    fs::{FileType, Mode, OFlags, fstat, ftruncate, open},
    io::{Errno, write},
};

use super::{
    cri_log::{Page, Splitter, Stream},
    error::{Error, Result},
    stamp::Stamp,
};

/// The log file, shared by the streams that write to it and the request that reopens it.
#[derive(Clone, Debug)]
pub struct LogFile(Arc<Mutex<Writer>>);

impl LogFile {
    /// Opens `path` for appending and creates it (0640) if missing; its directory must exist.
    pub fn open(path: &Path) -> Result<Self> {
        let writer = Writer { file: open_regular(path)?, path: path.to_owned(), lost: None };
        Ok(Self(Arc::new(Mutex::new(writer))))
    }

    /// Whether this is the log at `path`.
    pub fn is_at(&self, path: &Path) -> bool {
        self.lock().path == path
    }

    /// Goes on in a new file at the same path, after the old one was renamed (CRI, ReopenContainerLog).
    ///
    /// No record is split or lost between the two. On an error no file was created and the old one stays in use.
    pub fn reopen(&self) -> Result<()> {
        let mut writer = self.lock();
        writer.file = open_regular(&writer.path)?;
        writer.confess(&Stamp::now());
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream of a process on its way into a log file.
#[derive(Debug)]
pub struct LogStream {
    splitter: Splitter,
    file: LogFile,
}

impl LogStream {
    /// The beginning of `stream`.
    pub fn new(stream: Stream, max_line: usize, file: LogFile) -> Self {
        Self { splitter: Splitter::new(stream, max_line), file }
    }

    /// Writes the records that `input` completes, all with the present as their time. `memory` is scratch space.
    pub fn write(&mut self, input: &[u8], memory: &mut [u8]) {
        let stamp = Stamp::now();
        let mut rest = input;
        while !rest.is_empty() {
            let mut page = Page::new(memory);
            let used = self.splitter.push(rest, &stamp, &mut page);
            self.append(page.records(), &stamp);
            rest = &rest[used..];
        }
    }

    /// The stream has ended: writes its unfinished line.
    pub fn finish(&mut self, memory: &mut [u8]) {
        let stamp = Stamp::now();
        let mut page = Page::new(memory);
        self.splitter.finish(&stamp, &mut page);
        self.append(page.records(), &stamp);
        self.file.lock().confess(&stamp);
    }

    fn append(&self, records: &[u8], stamp: &Stamp) {
        if !records.is_empty() {
            self.file.lock().append(self.splitter.stream(), records, stamp);
        }
    }
}

/// Records that could not be written and have not been owned up to yet.
#[derive(Debug)]
struct Lost {
    records: usize,
    stream: Stream,
    why: Errno,
}

#[derive(Debug)]
struct Writer {
    path: PathBuf,
    file: OwnedFd,
    lost: Option<Lost>,
}

impl Writer {
    fn append(&mut self, stream: Stream, records: &[u8], stamp: &Stamp) {
        self.confess(stamp);
        let outcome = match &self.lost {
            Some(lost) => Err((count(records), lost.why)),
            None => self.write(records),
        };
        if let Err((records, why)) = outcome {
            let before = self.lost.as_ref().map_or(0, |lost| lost.records);
            self.lost = Some(Lost { records: before + records, stream, why });
        }
    }

    /// Writes a line about lost records, if there are any. While that fails, all further records are lost too: a hole in a
    /// log is announced before anything that follows it.
    fn confess(&mut self, stamp: &Stamp) {
        if let Some(lost) = &self.lost {
            let text = format!("cleat: {} log lines were dropped here: {}", lost.records, reason(lost.why));
            let note = Splitter::note(lost.stream, stamp, &text);
            if self.write(&note).is_ok() {
                self.lost = None;
            }
        }
    }

    /// Writes whole records, or as many of them as possible; then the error says how many are missing.
    fn write(&self, records: &[u8]) -> Result<(), (usize, Errno)> {
        match fstat(&self.file) {
            Ok(stat) if stat.st_nlink == 0 => return Err((count(records), Errno::NOENT)),
            _ => {}
        }
        let mut written = 0;
        while written < records.len() {
            match write(&self.file, &records[written..]) {
                Ok(0) => return Err((self.take_back(records, written), Errno::NOSPC)),
                Ok(n) => written += n,
                Err(Errno::INTR) => {}
                Err(why) => return Err((self.take_back(records, written), why)),
            }
        }
        Ok(())
    }

    /// Removes the half record at the end of `records[..written]` from the file; returns how many records are missing.
    fn take_back(&self, records: &[u8], written: usize) -> usize {
        let whole = memchr::memrchr(b'\n', &records[..written]).map_or(0, |end| end + 1);
        if whole < written
            && let Ok(stat) = fstat(&self.file)
            && let Some(size) =
                u64::try_from(stat.st_size).ok().and_then(|size| size.checked_sub((written - whole) as u64))
        {
            // Where even this fails a torn line stays, which readers of CRI logs skip.
            let _ = ftruncate(&self.file, size);
        }
        count(&records[whole..])
    }
}

fn count(records: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', records).count()
}

fn reason(why: Errno) -> String {
    match why {
        Errno::NOENT => "the log file was deleted".into(),
        other => std::io::Error::from(other).to_string(),
    }
}

/// Opens a log file. Neither a symbolic link nor a fifo or a device is one: whoever can put them there must not choose what
/// the shim writes to, or make it wait.
fn open_regular(path: &Path) -> Result<OwnedFd> {
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
    let what = || format!("open the log {}", path.display());
    let file = open(path, flags, mode).map_err(|error| Error::io(what(), error))?;
    let stat = fstat(&file).map_err(|error| Error::io(what(), error))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(file),
        other => Err(Error::Invalid(format!("{}: not a regular file but {other:?}", what()))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::io::cri_log::Record;

    fn contents(path: &Path) -> Vec<String> {
        let text = fs::read(path).unwrap();
        let lines =
            text.strip_suffix(b"\n").map_or(vec![], |text| text.split(|&byte| byte == b'\n').collect::<Vec<_>>());
        lines.iter().map(|line| String::from_utf8(Record::parse(line).unwrap().content.to_vec()).unwrap()).collect()
    }

    fn stream(file: &LogFile) -> LogStream {
        LogStream::new(Stream::Stdout, 100, file.clone())
    }

    #[test]
    fn an_unfinished_line_goes_to_the_file_it_ends_in() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("0.log"), dir.path().join("0.log.1"));
        let mut memory = vec![0; Page::needed(100)];
        let file = LogFile::open(&path).unwrap();
        let mut out = stream(&file);
        out.write(b"one\ntw", &mut memory);
        fs::rename(&path, &old).unwrap();
        out.write(b"o", &mut memory);
        file.reopen().unwrap();
        out.write(b"!\nthree", &mut memory);
        out.finish(&mut memory);
        assert_eq!(contents(&old), ["one"]);
        assert_eq!(contents(&path), ["two!", "three"]);
    }

    #[test]
    fn a_failed_reopen_creates_nothing_and_logging_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let (logs, moved) = (dir.path().join("logs"), dir.path().join("moved"));
        fs::create_dir(&logs).unwrap();
        let mut memory = vec![0; Page::needed(100)];
        let file = LogFile::open(&logs.join("0.log")).unwrap();
        let mut out = stream(&file);
        fs::rename(&logs, &moved).unwrap();
        let error = file.reopen().unwrap_err().to_string();
        assert!(error.contains("0.log"), "{error}");
        out.write(b"still here\n", &mut memory);
        assert!(!logs.exists());
        assert_eq!(contents(&moved.join("0.log")), ["still here"]);
    }

    #[test]
    fn records_for_a_deleted_file_are_counted_and_confessed_on_reopen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut memory = vec![0; Page::needed(100)];
        let file = LogFile::open(&path).unwrap();
        let mut out = stream(&file);
        fs::remove_file(&path).unwrap();
        out.write(b"a\nb\n", &mut memory);
        out.write(b"c\n", &mut memory);
        file.reopen().unwrap();
        out.write(b"d\n", &mut memory);
        assert_eq!(contents(&path), ["cleat: 3 log lines were dropped here: the log file was deleted", "d"]);
    }

    #[test]
    fn a_log_is_a_regular_file() {
        let dir = tempfile::tempdir().unwrap();
        let (link, fifo) = (dir.path().join("link"), dir.path().join("fifo"));
        std::os::unix::fs::symlink("/tmp/elsewhere", &link).unwrap();
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(LogFile::open(&link).is_err());
        assert!(LogFile::open(&fifo).is_err());
        assert!(LogFile::open(dir.path()).is_err());
    }
}
