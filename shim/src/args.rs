//! The command line of a shim: single-dash flags in any order, then one command.
//!
//! The form is containerd's (`-namespace NS -address A -publish-binary B -id ID [-bundle DIR] [-debug] start|delete`,
//! `-v`, `-info`) and Go's flag rules apply: `-flag value` and `-flag=value`, one dash or two. clap cannot read single-dash
//! long flags, hence this table. Unknown flags are errors.

use std::path::PathBuf;

use crate::error::{Error, Result};

/// What the shim was asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Start serving in the background, or name the shim that already serves this pod.
    Start,
    /// Clean up after a shim that is gone.
    Delete,
    /// Print the version as text.
    Version,
    /// Print the runtime's description as protobuf.
    Info,
    /// Be the process that holds a pod's namespaces.
    Pause,
}

/// The parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    /// What to do.
    pub command: Command,
    /// `-namespace`: the containerd namespace.
    pub namespace: String,
    /// `-id`: the container or sandbox this call is about.
    pub id: String,
    /// `-address`: the daemon's gRPC address; part of the socket's name.
    pub address: String,
    /// `-publish-binary`: kept for form; events go over ttrpc.
    pub publish_binary: String,
    /// `-bundle`: the bundle's directory, when it is not the working directory.
    pub bundle: Option<PathBuf>,
    /// `-debug`: say more in the bundle's log.
    pub debug: bool,
}

impl Args {
    /// Reads the arguments that follow the program's name.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut args = Self {
            command: Command::Start,
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            publish_binary: String::new(),
            bundle: None,
            debug: false,
        };
        let mut command = None;
        let mut rest = arguments.into_iter();
        while let Some(word) = rest.next() {
            match word.strip_prefix('-').map(|w| w.strip_prefix('-').unwrap_or(w)) {
                Some(flag) => args.flag(flag, &mut command, &mut rest)?,
                None if command.is_none() => command = Some(Self::command(&word)?),
                None => return Err(Error::Invalid(format!("unexpected argument {word:?}"))),
            }
        }
        args.command = command.ok_or_else(|| Error::Invalid("no command: start, delete, -v or -info".into()))?;
        args.check()
    }

    fn command(word: &str) -> Result<Command> {
        match word {
            "start" => Ok(Command::Start),
            "delete" => Ok(Command::Delete),
            "pause" => Ok(Command::Pause),
            other => Err(Error::Invalid(format!("unknown command {other:?}"))),
        }
    }

    fn flag(
        &mut self,
        flag: &str,
        command: &mut Option<Command>,
        rest: &mut impl Iterator<Item = String>,
    ) -> Result<()> {
        let (name, inline) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_string())),
            None => (flag, None),
        };
        match name {
            "v" | "version" => *command = Some(Command::Version),
            "info" => *command = Some(Command::Info),
            "debug" => self.debug = inline.as_deref() != Some("false"),
            "namespace" | "id" | "address" | "publish-binary" | "bundle" | "socket" => {
                let value = inline.or_else(|| rest.next());
                let value = value.ok_or_else(|| Error::Invalid(format!("flag -{name} needs a value")))?;
                self.set(name, value);
            }
            _ => return Err(Error::Invalid(format!("unknown flag -{name}"))),
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: String) {
        match name {
            "namespace" => self.namespace = value,
            "id" => self.id = value,
            "address" => self.address = value,
            "publish-binary" => self.publish_binary = value,
            "bundle" => self.bundle = Some(PathBuf::from(value)),
            // `-socket` is what older shims pass to themselves: the name is accepted, the value is not needed.
            _ => {}
        }
    }

    fn check(self) -> Result<Self> {
        if matches!(self.command, Command::Start | Command::Delete) {
            crate::bundle::check_id("id", &self.id)?;
            crate::bundle::check_id("namespace", &self.namespace)?;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args> {
        Args::parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn flags_may_come_in_any_order_and_form() {
        for line in [
            "-namespace k8s.io -address /run/a.sock -publish-binary /bin/c -id p1 start",
            "start -id=p1 --namespace=k8s.io --address /run/a.sock -publish-binary /bin/c",
        ] {
            let args = parse(line).unwrap();
            assert_eq!(args.command, Command::Start, "{line}");
            assert_eq!((args.namespace.as_str(), args.id.as_str()), ("k8s.io", "p1"));
            assert_eq!(args.address, "/run/a.sock");
        }
        let args = parse("-namespace n -id i -bundle /b -debug delete").unwrap();
        assert_eq!((args.command, args.debug), (Command::Delete, true));
        assert_eq!(args.bundle.as_deref(), Some(std::path::Path::new("/b")));
    }

    #[test]
    fn version_and_info_need_no_id() {
        assert_eq!(parse("-v").unwrap().command, Command::Version);
        assert_eq!(parse("-info").unwrap().command, Command::Info);
    }

    #[test]
    fn bad_lines_are_errors() {
        for line in ["", "start", "-id ../x -namespace n start", "-id a -namespace n stop", "-nosuch start", "-id"] {
            assert!(parse(line).is_err(), "{line:?} was accepted");
        }
    }
}
