//! The log an OCI runtime writes with `--log FILE --log-format json`: one JSON object a line.
//!
//! Its last error is what the caller of a failed RPC wants to read. Lines that are not JSON (a crash, a wrapper's chatter)
//! are passed over.

use serde::Deserialize;

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
}

/// The message of the last line of level `error`; of the last line of any level if none is.
pub fn last_error(log: &str) -> Option<String> {
    let lines = || log.lines().rev().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    lines()
        .find(|line| line.level == "error" && !line.msg.is_empty())
        .or_else(|| lines().find(|line| !line.msg.is_empty()))
        .map(|line| line.msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_the_answer() {
        let log = r#"{"level":"error","msg":"first","time":"t"}
{"level":"error","msg":"exec: \"nosuch\": executable file not found in $PATH","time":"t"}
{"level":"warning","msg":"lstat: no such file","time":"t"}
panic: not json
"#;
        assert_eq!(last_error(log).unwrap(), "exec: \"nosuch\": executable file not found in $PATH");
        assert_eq!(last_error(r#"{"level":"warning","msg":"only this"}"#).unwrap(), "only this");
        assert_eq!(last_error("garbage\n"), None);
        assert_eq!(last_error(""), None);
    }
}
