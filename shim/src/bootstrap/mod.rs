//! `start`: bind, fork, reply, exit. The child serves.
//!
//! The daemon reads stdout and stderr of `start` together until both close, so not one stray byte may appear there and the
//! child must let go of both at once. There is no second exec: the child goes on with the listener it inherited, which is
//! bound before the reply, so that a daemon that connects at once simply waits in the backlog.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    os::{fd::AsFd as _, unix::net::UnixListener},
    path::{Path, PathBuf},
};

use nix::unistd;

use crate::{
    args::Args,
    bundle::Bundle,
    error::{At as _, Error, Result},
    options::Options,
    report::Report,
    sys::{self, Side},
};

mod params;
mod socket;

use params::Params;
use socket::Bound;

/// Options on stdin are a few hundred bytes; more than this is no shim protocol.
const STDIN_MAX_BYTES: u64 = 4 << 20;

/// Everything the serving process has to know.
#[derive(Debug)]
pub struct Launch {
    /// The containerd namespace.
    pub namespace: String,
    /// The id of the sandbox or container the shim was started for.
    pub id: String,
    /// Where the shim reports what is no request's error.
    pub report: Report,
    /// The socket to serve on and to remove at the end.
    pub socket: PathBuf,
    /// The listener, bound.
    pub listener: UnixListener,
    /// Where events go; empty publishes nothing.
    pub events_address: String,
    /// The options of the shim as a whole.
    pub options: Options,
}

/// Runs `start`. Returns only in the process that is to serve; the caller's process prints its reply and exits in here.
pub fn start(args: &Args) -> Result<Launch> {
    let bundle = bundle(args)?;
    let params = Params::parse(&stdin()?, args, env::var("TTRPC_ADDRESS").ok())?;
    let config = bundle.config()?;
    let group = config.group().unwrap_or(&args.id);
    let path = socket::path(&params.socket_dir, &params.grpc_address, &args.namespace, group)?;
    let address = format!("unix://{}", path.display());
    let reply = params::reply(params.dialect, &address)?;
    let listener = match socket::bind(&path)? {
        Bound::New(listener) => listener,
        Bound::Serving => {
            bundle.save_address(&address)?;
            finish(&reply);
        }
    };
    let noted = bundle.save_address(&address).and_then(|()| bundle.save_shim_options(&params.options));
    let launched = noted.and_then(|()| sys::split());
    match launched {
        Ok(Side::Parent(_)) => finish(&reply),
        Ok(Side::Child) => daemonise()?,
        Err(e) => {
            // Without a child the socket would answer nobody.
            let _ = fs::remove_file(&path);
            return Err(e);
        }
    }
    Ok(Launch {
        namespace: args.namespace.clone(),
        id: args.id.clone(),
        report: Report::to(bundle.path()),
        socket: path,
        listener,
        events_address: params.events_address,
        options: params.options,
    })
}

/// The bundle of this call: `-bundle`, else the working directory.
pub fn bundle(args: &Args) -> Result<Bundle> {
    let here = || env::current_dir().at("find", "the working directory");
    Bundle::new(args.bundle.clone().map_or_else(here, Ok)?)
}

fn stdin() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // Not std's stdin, whose buffer would stay in memory for as long as the shim.
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().at("open", "stdin")?;
    fs::File::from(stdin).take(STDIN_MAX_BYTES).read_to_end(&mut bytes).at("read", "stdin")?;
    Ok(bytes)
}

/// Prints the reply and ends the process the daemon waits for.
fn finish(reply: &[u8]) -> ! {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(reply).and_then(|()| out.flush());
    std::process::exit(i32::from(written.is_err()))
}

/// Leaves the daemon's session, its streams and the bundle, which could not be removed while it is somebody's directory.
fn daemonise() -> Result<()> {
    unistd::setsid().map_err(|e| Error::io("setsid", e))?;
    let null = fs::File::options().read(true).write(true).open("/dev/null").at("open", "/dev/null")?;
    unistd::dup2_stdin(&null).map_err(|e| Error::io("dup2 stdin", e))?;
    unistd::dup2_stdout(&null).map_err(|e| Error::io("dup2 stdout", e))?;
    unistd::dup2_stderr(&null).map_err(|e| Error::io("dup2 stderr", e))?;
    unistd::chdir(Path::new("/")).map_err(|e| Error::io("chdir /", e))
}
