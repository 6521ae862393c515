//! Clients in other languages, fetched by those languages' own tools. `Err` says why one cannot run here.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use tokio::process::Command;

const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
const GRPCIO: &str = "1.85.1";
/// Compiling grpc-go on a slow machine takes minutes.
const PATIENCE: Duration = Duration::from_secs(500);

/// The Go program in `cri-alpha/`, for the socket.
pub async fn go(socket: &str) -> Result<Output, String> {
    must(&mut go_command(&["mod", "download"])).await?;
    run(&mut go_command(&["run", ".", socket])).await
}

fn go_command(args: &[&str]) -> Command {
    let mut command = Command::new("go");
    command.args(args).current_dir(Path::new(TESTS).join("cri-alpha"));
    command.env("GOFLAGS", "-mod=readonly").env("GOWORK", "off").env("CGO_ENABLED", "0");
    command
}

/// `version.py` for the socket and a call; prints the answer's bytes.
pub async fn python(socket: &str, call: &str) -> Result<Output, String> {
    let python = venv().await?.join("bin/python");
    run(Command::new(python).arg(Path::new(TESTS).join("clients/version.py")).args([socket, call])).await
}

/// A virtual environment with grpcio, kept from one run to the next. Made aside and renamed: runs may be side by side.
async fn venv() -> Result<PathBuf, String> {
    let cache = cache().ok_or("neither XDG_CACHE_HOME nor HOME is set")?;
    let venv = cache.join(format!("grpcio-{GRPCIO}"));
    if venv.is_dir() {
        return Ok(venv);
    }
    let aside = cache.join(format!("grpcio-{GRPCIO}.{}", std::process::id()));
    let made = make_venv(&aside).await;
    if made.is_ok() && std::fs::rename(&aside, &venv).is_ok() {
        return Ok(venv);
    }
    let _ = std::fs::remove_dir_all(&aside);
    made.map(|()| venv)
}

async fn make_venv(path: &Path) -> Result<(), String> {
    must(Command::new("python3").args(["-m", "venv"]).arg(path)).await?;
    let package = format!("grpcio=={GRPCIO}");
    let pip = ["-m", "pip", "install", "--quiet", "--only-binary", ":all:", &package];
    must(Command::new(path.join("bin/python")).args(pip)).await
}

fn cache() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    Some(set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?.join("cleat"))
}

async fn must(command: &mut Command) -> Result<(), String> {
    let output = run(command).await?;
    let program = command.as_std();
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}

async fn run(command: &mut Command) -> Result<Output, String> {
    let output = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await;
    let program = command.as_std().get_program().to_string_lossy();
    output.map_err(|_| format!("{program}: not done in {PATIENCE:?}"))?.map_err(|error| format!("{program}: {error}"))
}
