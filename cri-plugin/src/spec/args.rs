//! What is executed and where: the command against the image's ENTRYPOINT and CMD, and the working directory.
//!
//! Source: Kubernetes, "Define a Command and Arguments for a Container"; OCI image-spec `config.md`.

use std::path::{Component, Path, PathBuf};

use cleat_proto::cri::v1::ContainerConfig;
use oci_spec::image::ImageConfiguration;

use super::clean;
use crate::{Error, Result};

/// The process's argument vector.
///
/// | command | args | result           |
/// |---------|------|------------------|
/// | no      | no   | ENTRYPOINT + CMD |
/// | no      | yes  | ENTRYPOINT + args|
/// | yes     | no   | command          |
/// | yes     | yes  | command + args   |
///
/// # Errors
/// `Invalid` where nothing is left to execute, or where an argument holds a NUL byte.
pub fn args(config: &ContainerConfig, image: &ImageConfiguration) -> Result<Vec<String>> {
    let image = image.config().as_ref();
    let entrypoint = image.and_then(|c| c.entrypoint().as_deref()).unwrap_or_default();
    // `ENTRYPOINT [""]` is how a Dockerfile takes back the one of its base.
    let entrypoint = if matches!(entrypoint, [only] if only.is_empty()) { &[] } else { entrypoint };
    let cmd = image.and_then(|c| c.cmd().as_deref()).unwrap_or_default();
    let (head, tail) = match (config.command.is_empty(), config.args.is_empty()) {
        (true, true) => (entrypoint, cmd),
        (true, false) => (entrypoint, &config.args[..]),
        (false, _) => (&config.command[..], &config.args[..]),
    };
    let args: Vec<String> = head.iter().chain(tail).cloned().collect();
    match args.iter().position(|a| a.contains('\0')) {
        Some(i) => Err(Error::invalid(format!("argument {i} of the process"), "it holds a NUL byte")),
        None if args.first().is_none_or(String::is_empty) => Err(Error::invalid(
            "command",
            "neither the container's command and args nor the image's ENTRYPOINT and CMD name a program",
        )),
        None => Ok(args),
    }
}

/// The process's working directory: the container's, else the image's WORKDIR, else `/`.
///
/// # Errors
/// `Invalid` for a relative path, and for one that goes through a process's magic links: `/proc/self/fd/N` as WORKDIR
/// is a way out through a leaked descriptor (CVE-2024-21626).
pub fn cwd(config: &ContainerConfig, image: &ImageConfiguration) -> Result<PathBuf> {
    let workdir = image.config().as_ref().and_then(|c| c.working_dir().as_deref());
    let (field, given) = match (config.working_dir.as_str(), workdir) {
        ("", None | Some("")) => return Ok("/".into()),
        ("", Some(dir)) => ("the image's WorkingDir", dir),
        (dir, _) => ("working_dir", dir),
    };
    let wrong = |why: &str| Err(Error::invalid(field, format!("{given:?} {why}")));
    let Some(path) = clean(Path::new(given)) else { return wrong("is not absolute") };
    if given.contains('\0') {
        return wrong("holds a NUL byte");
    }
    if through_a_process(&path) || through_a_process(Path::new(given)) {
        return wrong("goes through a process's own directory in /proc");
    }
    Ok(path)
}

/// `/proc/self/...`, `/proc/thread-self/...`, `/proc/1/...`.
fn through_a_process(path: &Path) -> bool {
    let mut names = path.components().filter_map(|c| match c {
        Component::Normal(name) => Some(name.as_encoded_bytes()),
        _ => None,
    });
    names.next() == Some(b"proc")
        && names.next().is_some_and(|n| n == b"self" || n == b"thread-self" || n.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::fixture;

    #[test]
    fn the_four_cases_of_command_and_args() {
        let image = fixture::image(r#"{"Entrypoint":["/e","1"],"Cmd":["c"]}"#);
        let list = |words: &str| words.split_whitespace().map(String::from).collect::<Vec<_>>();
        for (command, args_given, wanted) in
            [("", "", "/e 1 c"), ("", "a b", "/e 1 a b"), ("/x y", "", "/x y"), ("/x", "a", "/x a")]
        {
            let config =
                ContainerConfig { command: list(command), args: list(args_given), ..ContainerConfig::default() };
            assert_eq!(args(&config, &image).expect("args"), list(wanted), "{command:?} {args_given:?}");
        }
    }

    #[test]
    fn an_entrypoint_can_be_taken_back() {
        let image = fixture::image(r#"{"Entrypoint":[""],"Cmd":["/c","1"]}"#);
        assert_eq!(args(&ContainerConfig::default(), &image).expect("args"), ["/c", "1"]);
    }

    #[test]
    fn nothing_to_run_is_refused() {
        let none = fixture::image("{}");
        let config = ContainerConfig::default();
        assert!(args(&config, &none).expect_err("nothing").to_string().contains("ENTRYPOINT"));
        let config = ContainerConfig { command: vec![String::new()], ..ContainerConfig::default() };
        args(&config, &none).expect_err("an empty program");
        let config = ContainerConfig { command: vec!["a\0b".into()], ..ContainerConfig::default() };
        args(&config, &none).expect_err("NUL");
    }

    #[test]
    fn working_directories() {
        for (given, image, wanted) in [
            ("", "{}", Ok("/")),
            ("", r#"{"WorkingDir":""}"#, Ok("/")),
            ("", r#"{"WorkingDir":"/srv/"}"#, Ok("/srv")),
            ("/own", r#"{"WorkingDir":"/srv"}"#, Ok("/own")),
            ("", r#"{"WorkingDir":"srv"}"#, Err("image's WorkingDir")),
            ("", r#"{"WorkingDir":"/proc/self/fd/7"}"#, Err("/proc")),
            ("", r#"{"WorkingDir":"/x/..//proc/./self/fd/7/../../.."}"#, Ok("/proc")),
            ("", r#"{"WorkingDir":"/proc/self/fd/7/../.."}"#, Err("/proc")),
            ("/proc/thread-self/cwd", "{}", Err("working_dir")),
            ("/proc/12/root", "{}", Err("/proc")),
            ("/proc/sys/net", "{}", Ok("/proc/sys/net")),
        ] {
            let config = ContainerConfig { working_dir: given.into(), ..ContainerConfig::default() };
            match (cwd(&config, &fixture::image(image)), wanted) {
                (Ok(path), Ok(wanted)) => assert_eq!(path, Path::new(wanted)),
                (Err(e), Err(words)) => assert!(e.to_string().contains(words), "{e}"),
                (got, wanted) => panic!("{given:?} {image}: {got:?}, wanted {wanted:?}"),
            }
        }
    }
}
