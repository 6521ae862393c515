//! The wall clock, as CRI counts it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::container::UnixNanos;

/// Nanoseconds since 1970.
pub fn now() -> UnixNanos {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}
