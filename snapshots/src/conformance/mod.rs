//! The suite every snapshotter passes: what the daemon relies on, whoever implements it.
//!
//! Call [`suite`] from a test, as root, with a function that opens the snapshotter at a folder. Each case gets a folder
//! of its own and checks through real mounts what a container would see.

pub mod layer;
mod tests;

use std::path::Path;

use crate::error::Result;
use crate::snapshotter::Snapshotter;

/// Opens a snapshotter at a folder; called again on the same folder once the first is dropped.
pub type Factory<'a> = &'a (dyn Fn(&Path) -> Result<Box<dyn Snapshotter>> + Sync);

/// Runs every case on snapshotters of `factory`, in folders below `scratch`, which has to be empty.
///
/// # Panics
/// When a case fails, after naming it.
pub fn suite(scratch: &Path, factory: Factory<'_>) {
    if !rustix::process::geteuid().is_root() {
        println!("SKIP conformance: not root");
        return;
    }
    for (name, case) in tests::ALL {
        println!("case {name}");
        let mut bench = tests::bench::Bench::new(scratch.join(name), factory);
        case(&mut bench);
        bench.finish(name);
    }
}
