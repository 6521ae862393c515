//! The shim's one copy buffer, shared by every stream of every process.
//!
//! The shim has one thread and a batch is read, cut and written without waiting in between, so one buffer is enough for all.
//! Its pages go back to the kernel when output pauses ([`cool`]): an idle container costs no buffer at all.

use std::{cell::RefCell, io};

use super::{cri_log::Page, sys::Mapping, url::LARGEST_MAX_LINE};

/// The most that is read from a stream at once, in bytes: what a pipe holds by default.
pub const BATCH: usize = 64 * 1024;
const SIZE: usize = BATCH + Page::needed(LARGEST_MAX_LINE);
/// A batch up to this size leaves the buffer as good as untouched: giving its page back would cost more than keeping it.
const SMALL: usize = 4096;

#[derive(Debug, Default)]
struct Scratch {
    mapping: Option<Mapping>,
    warm: bool,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Runs one batch with the two halves of the buffer: [`BATCH`] bytes to read into, and room for the records made of them.
///
/// The batch returns how many bytes it read. It must not call this function again: that is an error, not a deadlock.
pub fn batch(run: impl FnOnce(&mut [u8], &mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
    SCRATCH.with(|scratch| {
        let mut scratch = scratch.try_borrow_mut().map_err(io::Error::other)?;
        if scratch.mapping.is_none() {
            scratch.mapping = Some(Mapping::new(SIZE)?);
        }
        let Some(mapping) = scratch.mapping.as_mut() else { return Err(io::ErrorKind::OutOfMemory.into()) };
        let (input, output) = mapping.as_mut().split_at_mut(BATCH);
        let read = run(input, output)?;
        scratch.warm |= read > SMALL;
        Ok(read)
    })
}

/// Whether the buffer holds pages worth giving back.
pub fn is_warm() -> bool {
    SCRATCH.with(|scratch| scratch.try_borrow().is_ok_and(|scratch| scratch.warm))
}

/// Gives the buffer's pages back to the kernel.
pub fn cool() {
    SCRATCH.with(|scratch| {
        if let Ok(mut scratch) = scratch.try_borrow_mut() {
            scratch.warm = false;
            if let Some(mapping) = scratch.mapping.as_mut() {
                mapping.forget_contents();
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_warm_after_a_large_batch_and_empty_after_cooling() {
        let fill = |input: &mut [u8], output: &mut [u8]| {
            assert_eq!(input.len(), BATCH);
            assert!(output.len() >= Page::needed(LARGEST_MAX_LINE));
            input.fill(7);
            Ok(BATCH)
        };
        assert_eq!(batch(fill).unwrap(), BATCH);
        assert!(is_warm());
        cool();
        assert!(!is_warm());
        batch(|input, _| {
            assert!(input.iter().all(|&byte| byte == 0));
            Ok(1)
        })
        .unwrap();
        assert!(!is_warm(), "a small batch is not worth cooling");
    }

    #[test]
    fn a_batch_within_a_batch_is_an_error() {
        assert!(batch(|_, _| batch(|_, _| Ok(0))).is_err());
        assert_eq!(batch(|_, _| Ok(3)).unwrap(), 3);
    }
}
