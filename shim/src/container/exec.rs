//! Exec: describe a further process; Start runs it.

use std::{collections::hash_map::Entry, fs, sync::Arc};

use containerd_shim_protos::{api::ExecProcessRequest, events::task::TaskExecAdded};
use serde_json::Value;

use super::{Container, life::Life, process::Process};
use crate::{
    bundle::check_id,
    error::{At as _, Error, Result},
    io::Stdio,
    shim::Shim,
};

/// Adds an exec to a container that runs.
pub fn exec(shim: &Shim, container: &Container, request: &ExecProcessRequest) -> Result<()> {
    let id = &request.exec_id;
    check_id("exec id", id)?;
    container.init.life().running("exec in", &container.id)?;
    let stdio = Stdio {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    };
    let process = described(&request.spec.value, request.terminal)?;
    let file = container.bundle.exec_file(id);
    match container.table().entry(id.clone()) {
        Entry::Occupied(_) => return Err(Error::AlreadyExists { what: "exec", id: id.clone() }),
        Entry::Vacant(place) => {
            fs::write(&file, process).at("write", &file)?;
            place.insert(Arc::new(Process::new(id, stdio, Life::Added, None)));
        }
    }
    let mut event = TaskExecAdded::new();
    event.container_id = container.id.clone();
    event.exec_id = id.clone();
    shim.events.publish(event);
    Ok(())
}

/// The process as the runtime reads it: with the terminal the request asks for, whatever the spec says.
fn described(spec: &[u8], terminal: bool) -> Result<Vec<u8>> {
    let wrong = |e: serde_json::Error| Error::Invalid(format!("process of an exec: {e}"));
    let mut process: serde_json::Map<String, Value> = serde_json::from_slice(spec).map_err(wrong)?;
    process.insert("terminal".into(), terminal.into());
    serde_json::to_vec(&process).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_decides_about_the_terminal() {
        let spec = br#"{"terminal":true,"args":["sh"],"user":{"uid":1}}"#;
        let process: Value = serde_json::from_slice(&described(spec, false).unwrap()).unwrap();
        assert_eq!(process["terminal"], false);
        assert_eq!((&process["args"][0], &process["user"]["uid"]), (&"sh".into(), &1.into()));
        assert!(described(b"", false).is_err());
        assert!(described(b"[]", false).is_err());
    }
}
