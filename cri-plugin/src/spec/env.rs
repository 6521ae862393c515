//! The process's environment: defaults, then the image's, then the container's; the last one to set a name wins.

use cleat_proto::cri::v1::{ContainerConfig, KeyValue};
use oci_spec::image::ImageConfiguration;

use crate::{Error, Result};

/// Where programs are looked for when neither image nor container says.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `NAME=value` lines in order of first appearance.
///
/// `hostname` becomes HOSTNAME. An image's entry without `=` unsets that name, as docker and containerd have it.
///
/// # Errors
/// `Invalid` for a name that is empty or holds `=`, for NUL bytes, and for a value that is not UTF-8: an OCI spec is
/// JSON and cannot carry it.
pub fn env(config: &ContainerConfig, image: &ImageConfiguration, hostname: &str) -> Result<Vec<String>> {
    let mut lines = vec![DEFAULT_PATH.to_owned()];
    if config.tty {
        lines.push("TERM=xterm".into());
    }
    if !hostname.is_empty() {
        lines.push(format!("HOSTNAME={hostname}"));
    }
    for line in image.config().as_ref().and_then(|c| c.env().as_deref()).unwrap_or_default() {
        if line.contains('\0') {
            return Err(Error::invalid("the image's Env", format!("{line:?} holds a NUL byte")));
        }
        set(&mut lines, line.clone());
    }
    for (i, entry) in config.envs.iter().enumerate() {
        set(&mut lines, line(entry).map_err(|why| Error::invalid(format!("envs[{i}]"), why))?);
    }
    Ok(lines)
}

/// One variable of the container as a line.
pub(super) fn line(entry: &KeyValue) -> Result<String, String> {
    let key = &entry.key;
    if key.is_empty() || key.contains(['=', '\0']) {
        return Err(format!("the name {key:?} is empty or holds = or NUL"));
    }
    let value = std::str::from_utf8(&entry.value)
        .map_err(|e| format!("the value of {key} is not UTF-8 ({e}), which an OCI spec cannot carry"))?;
    if value.contains('\0') {
        return Err(format!("the value of {key} holds a NUL byte"));
    }
    Ok(format!("{key}={value}"))
}

fn name(line: &str) -> &str {
    line.split_once('=').map_or(line, |(name, _)| name)
}

/// Replaces the line of the same name, or appends; a line without `=` removes.
fn set(lines: &mut Vec<String>, line: String) {
    let found = lines.iter().position(|l| name(l) == name(&line));
    match (found, line.contains('=')) {
        (Some(i), true) => lines[i] = line,
        (Some(i), false) => drop(lines.remove(i)),
        (None, true) if !name(&line).is_empty() => lines.push(line),
        (None, _) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::fixture;
    use proptest::prelude::*;

    fn config(pairs: &[(&str, &[u8])]) -> ContainerConfig {
        let envs = pairs.iter().map(|(k, v)| KeyValue { key: (*k).into(), value: v.to_vec() }).collect();
        ContainerConfig { envs, ..ContainerConfig::default() }
    }

    #[test]
    fn the_last_one_wins_in_its_first_place() {
        let image = fixture::image(r#"{"Env":["PATH=/i","A=1","B=x=y","B=2"]}"#);
        let got = env(&config(&[("A", b"3"), ("C", b"")]), &image, "pod").expect("env");
        assert_eq!(got, ["PATH=/i", "HOSTNAME=pod", "A=3", "B=2", "C="]);
    }

    #[test]
    fn defaults_and_unsetting() {
        let mut with_tty = config(&[]);
        with_tty.tty = true;
        assert_eq!(env(&with_tty, &fixture::image("{}"), "").expect("env"), [DEFAULT_PATH, "TERM=xterm"]);
        let unset = fixture::image(r#"{"Env":["PATH","=x",""]}"#);
        assert!(env(&config(&[]), &unset, "").expect("env").is_empty());
        assert_eq!(env(&config(&[("HOSTNAME", b"own")]), &unset, "pod").expect("env"), ["HOSTNAME=own"]);
    }

    #[test]
    fn what_no_spec_can_carry_is_refused_by_name() {
        for (key, value, words) in [
            ("", &b"x"[..], "empty"),
            ("A=B", b"x", "A=B"),
            ("A\0", b"x", "NUL"),
            ("A", b"\xff\xfe", "value of A is not UTF-8"),
            ("A", b"x\0y", "value of A holds a NUL"),
        ] {
            let e = env(&config(&[("OK", b"1"), (key, value)]), &fixture::image("{}"), "").expect_err("refused");
            let text = e.to_string();
            assert!(text.contains("envs[1]") && text.contains(words), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_name_comes_twice(image in prop::collection::vec("[A-C]{0,2}(=[a-z=]{0,3})?", 0..12),
                               own in prop::collection::vec(("[A-C]{1,2}", "[a-z]{0,3}"), 0..12)) {
            let image = fixture::image(&serde_json::json!({ "Env": image }).to_string());
            let pairs: Vec<(&str, &[u8])> = own.iter().map(|(k, v)| (k.as_str(), v.as_bytes())).collect();
            let lines = env(&config(&pairs), &image, "h").expect("env");
            let mut names: Vec<&str> = lines.iter().map(|l| name(l)).collect();
            names.sort_unstable();
            let all = names.len();
            names.dedup();
            prop_assert_eq!(all, names.len());
            for (k, v) in own.iter().rev().take(1) {
                let line = format!("{k}={v}");
                prop_assert!(lines.contains(&line));
            }
        }
    }
}
