//! The timestamp of a log line: RFC 3339, UTC, always nine digits of nanoseconds, so always [`LEN`] bytes.
//!
//! UTC and a fixed width because kubelet parses either and a batch is then stamped by copying bytes. No calendar crate: the
//! shim needs this one direction of one calendar.

use std::time::{SystemTime, UNIX_EPOCH};

/// The length of a stamp, in bytes.
pub const LEN: usize = 30;

/// A formatted moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp([u8; LEN]);

impl Stamp {
    /// The present, by the system's clock. One reading serves a whole batch of lines.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::of(since.as_secs(), since.subsec_nanos())
    }

    /// The moment `secs` and `nanos` after 1970.
    pub fn of(secs: u64, nanos: u32) -> Self {
        let (year, month, day) = date(secs / 86_400);
        let of_day = secs % 86_400;
        let mut text = *b"0000-00-00T00:00:00.000000000Z";
        digits(&mut text[0..4], year);
        digits(&mut text[5..7], month);
        digits(&mut text[8..10], day);
        digits(&mut text[11..13], of_day / 3600);
        digits(&mut text[14..16], of_day / 60 % 60);
        digits(&mut text[17..19], of_day % 60);
        digits(&mut text[20..29], u64::from(nanos));
        Self(text)
    }

    /// The stamp as it is written.
    pub fn as_bytes(&self) -> &[u8; LEN] {
        &self.0
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
///
/// Counted in years that begin in March, so that the leap day is the last one, and in eras of 400 such years, which all have
/// the same number of days.
fn date(days_since_1970: u64) -> (u64, u64, u64) {
    let days = days_since_1970 + 719_468; // since 0000-03-01
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

fn digits(place: &mut [u8], mut value: u64) {
    for byte in place.iter_mut().rev() {
        *byte = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_rfc_3339() {
        let table = [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399, 1, "2000-02-28T23:59:59.000000001Z"),
            (951_782_400, 999_999_999, "2000-02-29T00:00:00.999999999Z"),
            (1_709_251_199, 5_000, "2024-02-29T23:59:59.000005000Z"),
            (1_735_689_600, 0, "2025-01-01T00:00:00.000000000Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000000Z"),
        ];
        for (secs, nanos, expected) in table {
            assert_eq!(std::str::from_utf8(Stamp::of(secs, nanos).as_bytes()).unwrap(), expected);
        }
    }

    #[test]
    fn days_follow_each_other_for_two_centuries() {
        let mut last = date(0);
        for day in 1..73_000 {
            let next = date(day);
            let follows = next == (last.0, last.1, last.2 + 1)
                || next == (last.0, last.1 + 1, 1)
                || (next == (last.0 + 1, 1, 1) && last.1 == 12 && last.2 == 31);
            assert!(follows, "{last:?} is followed by {next:?}");
            last = next;
        }
        assert_eq!(last, (2169, 11, 12));
    }
}
