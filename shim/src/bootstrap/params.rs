//! What the daemon says on stdin of `start`, and what it wants to hear on stdout.
//!
//! containerd 2.3 and later send a protobuf `BootstrapParams` and take a protobuf `BootstrapResult`; everything older
//! sends a bare options Any or nothing, and takes a plain address. An Any happens to decode as `BootstrapParams` too (its
//! two fields land in `instance_id` and `namespace`), so the message counts only if those two repeat the flags.

use containerd_shim_protos::{
    TASK_API_VERSION,
    bootstrap_api::{BootstrapParams, BootstrapResult},
};
use protobuf::{Message as _, well_known_types::any::Any};

use crate::{
    args::Args,
    error::{Error, Result},
    options::Options,
};

/// Where shims' sockets live unless the daemon says otherwise.
const SOCKET_DIR: &str = "/run/containerd/s";

/// The dialect the daemon spoke, in which it gets its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Plain address.
    Plain,
    /// Protobuf.
    Protobuf,
}

/// What `start` needs to know about the daemon's wishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    /// How to reply.
    pub dialect: Dialect,
    /// The daemon's gRPC address; part of the socket's name.
    pub grpc_address: String,
    /// Where events go; empty publishes nothing.
    pub events_address: String,
    /// The directory of shim sockets.
    pub socket_dir: String,
    /// The runtime options of the shim as a whole.
    pub options: Options,
}

impl Params {
    /// Reads stdin's bytes. `ttrpc_env` is `TTRPC_ADDRESS`, which only an old daemon says the events' address with: the
    /// environment of a new one may hold somebody else's.
    pub fn parse(stdin: &[u8], args: &Args, ttrpc_env: Option<String>) -> Result<Self> {
        match BootstrapParams::parse_from_bytes(stdin) {
            Ok(p) if p.instance_id == args.id && p.namespace == args.namespace => Self::modern(&p, args),
            _ => Self::legacy(stdin, args, ttrpc_env),
        }
    }

    fn modern(params: &BootstrapParams, args: &Args) -> Result<Self> {
        let mut options = None;
        for extension in &params.extensions {
            // Extensions are open-ended: those of other types are for other shims.
            if Options::are_in(&extension.value) {
                options = Options::from_any(&extension.value)?;
            }
        }
        let or = |first: &str, second: String| if first.is_empty() { second } else { first.to_string() };
        Ok(Self {
            dialect: Dialect::Protobuf,
            grpc_address: or(&params.containerd_grpc_address, args.address.clone()),
            events_address: params.containerd_ttrpc_address.clone(),
            socket_dir: or(params.socket_dir(), SOCKET_DIR.into()),
            options: options.unwrap_or_default(),
        })
    }

    fn legacy(stdin: &[u8], args: &Args, ttrpc_env: Option<String>) -> Result<Self> {
        let any = Any::parse_from_bytes(stdin).map_err(|e| Error::Invalid(format!("options on stdin: {e}")))?;
        Ok(Self {
            dialect: Dialect::Plain,
            grpc_address: args.address.clone(),
            events_address: ttrpc_env.unwrap_or_default(),
            socket_dir: SOCKET_DIR.into(),
            options: Options::from_any(&any)?.unwrap_or_default(),
        })
    }
}

/// The bytes `start` prints.
pub fn reply(dialect: Dialect, address: &str) -> Result<Vec<u8>> {
    match dialect {
        Dialect::Plain => Ok(address.as_bytes().to_vec()),
        Dialect::Protobuf => {
            let mut result = BootstrapResult::new();
            result.version = TASK_API_VERSION;
            result.address = address.into();
            result.protocol = "ttrpc".into();
            result
                .write_to_bytes()
                .map_err(|e| Error::Corrupt { what: "bootstrap result".into(), problem: e.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::bootstrap_api::Extension;
    use protobuf::MessageField;

    use super::*;

    fn args() -> Args {
        let line = "-namespace k8s.io -id p1 -address /run/c.sock start";
        Args::parse(line.split(' ').map(String::from)).unwrap()
    }

    fn options_any() -> Any {
        let mut options = containerd_shim_protos::shim::oci::Options::new();
        options.shim_cgroup = "/cleat-shims/p1".into();
        let mut any = Any::new();
        any.type_url = Options::TYPE_NAME.into();
        any.value = options.write_to_bytes().unwrap();
        any
    }

    fn params() -> BootstrapParams {
        let mut extension = Extension::new();
        extension.value = MessageField::some(options_any());
        let mut foreign = Extension::new();
        foreign.value = MessageField::some(Any { type_url: "x.y/Z".into(), ..Any::new() });
        let mut params = BootstrapParams::new();
        params.instance_id = "p1".into();
        params.namespace = "k8s.io".into();
        params.containerd_ttrpc_address = "/run/c.sock.ttrpc".into();
        params.extensions = vec![foreign, extension];
        params.socket_dir = Some("/run/cleat/s".into());
        params
    }

    #[test]
    fn matching_protobuf_is_answered_in_protobuf() {
        let bytes = params().write_to_bytes().unwrap();
        let got = Params::parse(&bytes, &args(), Some("/env".into())).unwrap();
        assert_eq!(got.dialect, Dialect::Protobuf);
        assert_eq!(got.events_address, "/run/c.sock.ttrpc");
        assert_eq!(got.socket_dir, "/run/cleat/s");
        assert_eq!(got.grpc_address, "/run/c.sock");
        assert_eq!(got.options.shim_cgroup, "/cleat-shims/p1");
        let reply = BootstrapResult::parse_from_bytes(&reply(got.dialect, "unix:///s").unwrap()).unwrap();
        assert_eq!((reply.version, reply.address.as_str(), reply.protocol.as_str()), (3, "unix:///s", "ttrpc"));
    }

    #[test]
    fn a_daemon_that_names_no_address_takes_no_events() {
        let silent = BootstrapParams { containerd_ttrpc_address: String::new(), ..params() };
        let got = Params::parse(&silent.write_to_bytes().unwrap(), &args(), Some("/env".into())).unwrap();
        assert_eq!(got.events_address, "");
    }

    #[test]
    fn anything_else_gets_a_plain_address() {
        let any = options_any().write_to_bytes().unwrap();
        for stdin in [&any[..], b""] {
            let got = Params::parse(stdin, &args(), Some("/env".into())).unwrap();
            assert_eq!((got.dialect, got.events_address.as_str()), (Dialect::Plain, "/env"));
            assert_eq!(got.socket_dir, SOCKET_DIR);
        }
        assert_eq!(Params::parse(&any, &args(), None).unwrap().options.shim_cgroup, "/cleat-shims/p1");
        assert_eq!(reply(Dialect::Plain, "unix:///s").unwrap(), b"unix:///s");
    }

    #[test]
    fn garbage_is_refused() {
        assert!(Params::parse(b"\xff\xff\xff", &args(), None).is_err());
    }

    #[test]
    fn parameters_for_another_shim_are_not_taken() {
        let mut other = params();
        other.instance_id = "p2".into();
        let bytes = other.write_to_bytes().unwrap();
        assert!(Params::parse(&bytes, &args(), None).is_err_and(|e| e.to_string().contains("\"p2\"")));
    }
}
