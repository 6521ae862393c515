//! How a session ended, as the error stream tells it: a `metav1.Status` in JSON from v4 on, a text before.

use serde_json::json;

use super::handshake::Version;
use crate::{Error, Result};

/// What is written to the error stream; nothing for a success before v4.
pub fn text(outcome: &Result<i32>, version: Version) -> String {
    match outcome {
        Ok(0) if version < Version::V4 => String::new(),
        Ok(0) => json!({"metadata": {}, "status": "Success"}).to_string(),
        Ok(code) if version < Version::V4 => ended_with(*code),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "message": ended_with(*code),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        })
        .to_string(),
        Err(e) if version < Version::V4 => failed(e),
        Err(e) => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "message": failed(e), "code": 500,
        })
        .to_string(),
    }
}

fn ended_with(code: i32) -> String {
    format!("command terminated with non-zero exit code: exit status {code}")
}

fn failed(e: &Error) -> String {
    format!("Internal error occurred: {e}")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_exit_code_is_in_the_causes() {
        let status: Value = serde_json::from_str(&text(&Ok(7), Version::V4)).expect("json");
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "7"}));
        let status: Value = serde_json::from_str(&text(&Ok(0), Version::V5)).expect("json");
        assert_eq!(status["status"], "Success");
        let status: Value = serde_json::from_str(&text(&Err(Error::failed("exec", "no")), Version::V4)).expect("json");
        assert_eq!((&status["status"], &status["code"]), (&json!("Failure"), &json!(500)));
    }

    #[test]
    fn before_v4_it_is_text() {
        assert_eq!(text(&Ok(0), Version::V3), "");
        assert!(text(&Ok(7), Version::V1).ends_with("exit status 7"));
        assert!(text(&Err(Error::failed("exec", "no")), Version::V2).contains("exec: no"));
    }
}
