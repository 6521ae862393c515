//! Send windows: how much a peer that speaks of windows will take. Pure; the connection waits where nothing is left.
//!
//! Counted from the first byte, binding from the moment the peer sends SETTINGS with a window size or a WINDOW_UPDATE.

use std::collections::BTreeMap;

/// Of each stream and of the connection, until the peer says otherwise (SPDY/3.1, 2.6.8).
const INITIAL_BYTES: i64 = 64 << 10;

/// What the peer takes, on each stream and in all.
#[derive(Debug)]
pub struct Windows {
    binding: bool,
    initial: i64,
    connection: i64,
    streams: BTreeMap<u32, i64>,
}

impl Default for Windows {
    fn default() -> Self {
        Self { binding: false, initial: INITIAL_BYTES, connection: INITIAL_BYTES, streams: BTreeMap::new() }
    }
}

impl Windows {
    /// Begins to count for a stream.
    pub fn open(&mut self, id: u32) {
        self.streams.insert(id, self.initial);
    }

    /// Ends to count for a stream.
    pub fn close(&mut self, id: u32) {
        self.streams.remove(&id);
    }

    /// Takes up to `wanted` bytes out of the windows; returns how many may be sent now, None for a stream that is closed.
    pub fn take(&mut self, id: u32, wanted: usize) -> Option<usize> {
        let stream = self.streams.get_mut(&id)?;
        let wanted_bytes = i64::try_from(wanted).unwrap_or(i64::MAX);
        let taken = if self.binding { wanted_bytes.min(*stream).min(self.connection).max(0) } else { wanted_bytes };
        *stream -= taken;
        self.connection -= taken;
        Some(usize::try_from(taken).unwrap_or(wanted))
    }

    /// The peer takes more: on a stream, or with 0 on the connection.
    pub fn grant(&mut self, id: u32, bytes: u32) {
        self.binding = true;
        let window = if id == 0 { Some(&mut self.connection) } else { self.streams.get_mut(&id) };
        if let Some(window) = window {
            *window = window.saturating_add(bytes.into());
        }
    }

    /// The peer's streams take so much at first, those that are open included.
    pub fn set_initial(&mut self, bytes: u32) {
        self.binding = true;
        let change = i64::from(bytes) - self.initial;
        self.initial = bytes.into();
        self.streams.values_mut().for_each(|window| *window = window.saturating_add(change));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_never_speaks_of_windows_is_sent_everything() {
        let mut windows = Windows::default();
        windows.open(1);
        assert_eq!(windows.take(1, 10 << 20), Some(10 << 20));
    }

    #[test]
    fn both_windows_bind_and_are_granted_apart() {
        let mut windows = Windows::default();
        windows.open(1);
        windows.open(3);
        windows.set_initial(100);
        assert_eq!(windows.take(1, 150), Some(100));
        assert_eq!(windows.take(1, 50), Some(0));
        windows.grant(1, 30);
        assert_eq!(windows.take(1, 50), Some(30));
        windows.set_initial(1 << 20);
        let left = 65536 - 130;
        assert_eq!(windows.take(3, 1 << 20), Some(left), "the connection's window binds");
        assert_eq!(windows.take(1, 1), Some(0));
        windows.grant(0, 1);
        assert_eq!(windows.take(1, 5), Some(1));
    }

    #[test]
    fn what_was_sent_before_counts() {
        let mut windows = Windows::default();
        windows.open(1);
        assert_eq!(windows.take(1, 70_000), Some(70_000));
        windows.grant(1, 10);
        windows.grant(0, 1 << 20);
        assert_eq!(windows.take(1, 1), Some(0), "still overdrawn");
        windows.grant(1, 4455);
        assert_eq!(windows.take(1, 2), Some(1));
    }

    #[test]
    fn a_closed_stream_takes_nothing_and_is_not_waited_for() {
        let mut windows = Windows::default();
        windows.open(1);
        windows.set_initial(0);
        assert_eq!(windows.take(1, 5), Some(0));
        windows.close(1);
        assert_eq!(windows.take(1, 5), None);
    }
}
