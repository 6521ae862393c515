//! `cleatd`: the command line.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use cleatd::config::Config;
use cleatd::daemon::Daemon;
use futures_util::FutureExt;
use tokio::signal::unix::{SignalKind, signal};

/// How long calls in progress may take once the daemon was told to end: a kubelet that keeps a stream open must not
/// keep it alive.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// A container runtime for Kubernetes nodes.
#[derive(Parser)]
#[command(name = "cleatd", version)]
struct Cli {
    /// The configuration file; conf.d/*.toml beside it is merged over it.
    #[arg(long, default_value = "/etc/cleat/config.toml", global = true)]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Answer CRI (what happens without a command).
    Serve,
    /// Show or check the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print the configuration of a machine without a file.
    Default,
    /// Print the configuration as it is read.
    Dump,
    /// Say whether the file can be read.
    Check,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => serve(Config::load(&cli.config)?),
        Command::Config { command: ConfigCommand::Default } => print(&Config::default()),
        Command::Config { command: ConfigCommand::Dump } => print(&Config::load(&cli.config)?),
        Command::Config { command: ConfigCommand::Check } => {
            Config::load(&cli.config)?;
            println!("{} is valid", cli.config.display());
            Ok(())
        }
    }
}

fn print(config: &Config) -> anyhow::Result<()> {
    print!("{}", toml::to_string(config)?);
    Ok(())
}

fn serve(config: Config) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("CLEAT_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let socket = config.socket.clone();
        let daemon = tokio::task::spawn_blocking(|| Daemon::open(config)).await??;
        cleatd::recover::recover(&daemon).await?;
        tracing::info!(socket = %socket.display(), version = env!("CARGO_PKG_VERSION"), "serving");
        let end = until_told()?.shared();
        let deadline = end.clone().then(|()| tokio::time::sleep(LAST_CALLS));
        tokio::select! {
            served = cleatd::service::serve(daemon, end) => served?,
            () = deadline => tracing::warn!("ending although calls are still in progress"),
        }
        Ok(())
    })
}

/// Resolves on SIGTERM or SIGINT. The pods go on: their shims are not this process's children any more.
fn until_told() -> anyhow::Result<impl Future<Output = ()>> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}
