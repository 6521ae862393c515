//! What differs between OCI command lines, as data.
//!
//! The verbs and most flags are runc's and the same everywhere; a row says where a binary departs from them. A binary is
//! looked up by its base name. Wrappers under other names (vendors' runtimes call runc underneath) get the last row, which
//! assumes runc's command line and nothing of its insides.

use std::path::Path;

/// How a created container is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The shim reads `ROOT/ID/exec.fifo`, on which the init blocks, and removes it: all that `runc start` does, for the
    /// price of an open instead of an exec.
    ExecFifo,
    /// By the runtime's own `start`.
    Command,
}

/// Whether a runtime may see `/sys/fs/cgroup/unified` on a hybrid host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unified {
    /// It copes.
    Seen,
    /// It takes it for something it is not: hidden in a mount namespace of the runtime's own.
    Hidden,
}

/// One row of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Flavour {
    /// The binary's base name; `*` for the row that takes the rest.
    pub name: &'static str,
    /// How a created container is let go.
    pub start: Start,
    /// What it sees of a hybrid hierarchy.
    pub unified: Unified,
}

/// The table. The last row takes every name that has none of its own.
static FLAVOURS: [Flavour; 3] = [
    // Start: libcontainer's init writes one byte into exec.fifo once somebody reads (1.1.5 to 1.5.1 alike).
    Flavour { name: "runc", start: Start::ExecFifo, unified: Unified::Seen },
    // Start: the fifo works the other way round and poststart hooks run in `start`. Unified: 1.8.1 refuses a hybrid
    // hierarchy as a whole.
    Flavour { name: "crun", start: Start::Command, unified: Unified::Hidden },
    Flavour { name: "*", start: Start::Command, unified: Unified::Seen },
];

/// The binary that runs containers when the options name none.
pub const DEFAULT_BINARY: &str = "runc";

impl Flavour {
    /// The row of a binary, by its base name.
    pub fn of(binary: &Path) -> &'static Self {
        let name = binary.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let rest = &FLAVOURS[FLAVOURS.len() - 1];
        FLAVOURS.iter().find(|f| f.name == name).unwrap_or(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_is_known_by_its_base_name() {
        for (binary, name) in [
            ("runc", "runc"),
            ("/usr/sbin/runc", "runc"),
            ("/opt/crun", "crun"),
            ("/usr/bin/nvidia-container-runtime", "*"),
            ("", "*"),
        ] {
            assert_eq!(Flavour::of(Path::new(binary)).name, name, "{binary:?}");
        }
    }

    #[test]
    fn only_a_known_runtime_has_its_insides_touched() {
        assert_eq!(Flavour::of(Path::new("unknown")).start, Start::Command);
    }
}
