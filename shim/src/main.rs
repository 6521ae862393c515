//! `containerd-shim-cleat-v2`: see `cleat_shim`.

use std::{io::Write as _, process::ExitCode};

use cleat_shim::{
    Error, Result,
    args::{Args, Command},
    bootstrap, close_inherited, delete, info, pause, serve,
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("containerd-shim-cleat-v2: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    close_inherited().map_err(|e| Error::io("close inherited descriptors", e))?;
    let args = Args::parse(std::env::args().skip(1))?;
    match args.command {
        Command::Start => serve::run(bootstrap::start(&args)?),
        Command::Delete => print(&delete::run(&args)?),
        Command::Info => print(&info::run()?),
        Command::Version => print(format!("containerd-shim-cleat-v2 {}\n", env!("CARGO_PKG_VERSION")).as_bytes()),
        Command::Pause => pause::run(),
    }
}

fn print(bytes: &[u8]) -> Result<()> {
    std::io::stdout().write_all(bytes).map_err(|e| Error::io("write stdout", e))
}
