//! `-info`: what this runtime is, as `containerd.types.RuntimeInfo`. The options on stdin change nothing of it.

use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::{Message as _, MessageField};

use crate::error::{Error, Result};

/// The bytes to print.
pub fn run() -> Result<Vec<u8>> {
    let mut version = RuntimeVersion::new();
    version.version = env!("CARGO_PKG_VERSION").into();
    let mut info = RuntimeInfo::new();
    info.name = "io.containerd.cleat.v2".into();
    info.version = MessageField::some(version);
    info.write_to_bytes().map_err(|e| Error::Corrupt { what: "runtime info".into(), problem: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_names_itself() {
        let info = RuntimeInfo::parse_from_bytes(&run().unwrap()).unwrap();
        assert_eq!(info.name, "io.containerd.cleat.v2");
        assert_eq!(info.version.version, env!("CARGO_PKG_VERSION"));
    }
}
