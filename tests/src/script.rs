//! Running the scripts of `hack/`, so that the suites and a person get the same nodes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// The checkout this crate was built from.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs `hack/NAME` and returns what it printed. Blocks.
///
/// # Errors
/// When it fails; with all it said.
pub fn hack(name: &str, args: &[&str]) -> Result<String> {
    let mut command = Command::new(repository().join("hack").join(name));
    command.args(args).stdin(Stdio::null());
    if let Some(dir) = binaries() {
        command.env("CLEAT_BIN", dir);
    }
    run(&mut command)
}

/// Runs a command and returns its stdout. Blocks.
///
/// # Errors
/// When it does not succeed; with the command, its status, stdout and stderr.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    Ok(out.into_owned())
}

/// A program in PATH.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.exists())
}

/// Where the binaries under test lie: `CLEAT_BIN`, or the build directory this test was built into; none leaves the
/// choice to `hack/up`.
fn binaries() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("CLEAT_BIN") {
        return Some(dir.into());
    }
    let test = std::env::current_exe().ok()?;
    test.ancestors().skip(1).find(|dir| dir.join("cleatd").exists()).map(Path::to_path_buf)
}
