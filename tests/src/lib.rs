//! Fixtures for the suites that drive the built binaries over their sockets.
//!
//! A [`Node`] is a daemon of its own made by `hack/up` and taken down by `hack/down` when it is dropped, whereupon
//! anything left on the machine fails the test. [`Cri`] is a client that speaks what kubelet speaks. Deliberately absent:
//! any code of the daemon or the shim; the suites know no more than a client can.

mod cri;
mod log;
mod node;
mod registry;
mod residue;
mod script;

pub use cri::{Cri, Reply, container, pod};
pub use log::{Line, read_log, wait_for_line};
pub use node::Node;
pub use registry::Registry;
pub use script::{hack, repository};

/// The messages of CRI.
pub use cleat_proto::cri::v1;

/// Why nodes cannot be made on this machine, if they cannot.
pub fn unready() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".into());
    }
    let missing: Vec<&str> = ["runc", "ip", "docker-registry", "findmnt"]
        .into_iter()
        .filter(|program| script::find_program(program).is_none())
        .collect();
    (!missing.is_empty()).then(|| format!("run hack/install, missing: {}", missing.join(" ")))
}

/// Prints the line by which a test is counted as skipped. `function` is the type name of an item inside the test.
pub fn skip(function: &str, reason: &str) {
    let name = function.trim_end_matches("::here").replace("::{{closure}}", "");
    println!("SKIP {name}: {reason}");
}

/// Ends the surrounding test, as skipped, with a reason.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        fn here() {}
        $crate::skip(std::any::type_name_of_val(&here), &format!($($reason)*));
        return Ok(());
    }};
}

/// Starts a [`Node`], or ends the surrounding test as skipped where the machine cannot have one.
#[macro_export]
macro_rules! node {
    () => {
        $crate::node!("")
    };
    ($config:expr) => {{
        if let Some(reason) = $crate::unready() {
            $crate::skip!("{reason}");
        }
        $crate::Node::start($config)?
    }};
}
