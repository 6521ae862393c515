//! Reading a container's log as kubelet does.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// One line of a CRI log: `TIME STREAM TAG TEXT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// RFC 3339 with nanoseconds, as it stands.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// `F` ends a line, `P` is a part of one.
    pub tag: String,
    /// What the container wrote, without the line's end.
    pub text: String,
}

/// All lines of a log. Blocks.
///
/// # Errors
/// When the file cannot be read, or holds anything that is no such line.
pub fn read_log(path: &Path) -> Result<Vec<Line>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    text.lines().map(|line| parse(line).with_context(|| format!("{}: {line:?}", path.display()))).collect()
}

fn parse(line: &str) -> Result<Line> {
    let mut fields = line.splitn(4, ' ').map(str::to_string);
    let mut field = |what: &str| fields.next().with_context(|| format!("no {what}"));
    let line = Line { time: field("time")?, stream: field("stream")?, tag: field("tag")?, text: field("text")? };
    ensure!(is_time(&line.time), "no RFC 3339 time: {}", line.time);
    ensure!(["stdout", "stderr"].contains(&line.stream.as_str()), "no stream: {}", line.stream);
    ensure!(["F", "P"].contains(&line.tag.as_str()), "no tag: {}", line.tag);
    Ok(line)
}

/// `2026-01-02T03:04:05.678901234Z`, or with an offset in the place of the Z; zeros may be missing at the end of the
/// fraction, as Go's RFC3339Nano leaves them out.
fn is_time(text: &str) -> bool {
    let pattern = b"dddd-dd-ddTdd:dd:dd";
    let fits = |(p, c): (&u8, u8)| if *p == b'd' { c.is_ascii_digit() } else { *p == c };
    let Some((stamp, rest)) = text.split_at_checked(pattern.len()) else { return false };
    let digits = rest.strip_prefix('.').map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
    let zone = if digits == 0 { rest } else { &rest[digits + 1..] };
    let zone_fits = zone == "Z" || (zone.len() == 6 && zone.starts_with(['+', '-']));
    digits <= 9 && zone_fits && pattern.iter().zip(stamp.bytes()).all(fits)
}

/// Waits up to ten seconds for a line with this text and returns all lines then.
///
/// # Errors
/// When it does not come; with what is there.
pub async fn wait_for_line(path: &Path, text: &str) -> Result<Vec<Line>> {
    let start = Instant::now();
    loop {
        let lines = if path.exists() { read_log(path)? } else { Vec::new() };
        if lines.iter().any(|line| line.text == text) {
            return Ok(lines);
        }
        if start.elapsed() > Duration::from_secs(10) {
            bail!("{}: no line {text:?} after 10 s, but {lines:?}", path.display());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_from_what_is_none() {
        let good = "2026-01-02T03:04:05.678901234Z stdout F two words ";
        assert_eq!(parse(good).expect("a line").text, "two words ");
        for good in ["2026-01-02T03:04:05.678901234+01:00 stderr P ", "2026-01-02T03:04:05.67Z stdout F x"] {
            assert!(parse(good).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            "2026-01-02T03:04Z stdout F no seconds",
            "2026-01-02T03:04:05.1234567890Z stdout F too fine",
            "2026-01-02T03:04:05.Z stdout F no fraction",
            "2026-01-02T03:04:05.678901234Z stdin F no stream",
            "2026-01-02T03:04:05.678901234Z stdout X no tag",
            "2026-01-02T03:04:05.678901234Z stdout F",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
