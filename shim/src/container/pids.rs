//! Pids: every process of a container, as its cgroup lists them; execs are named.

use containerd_shim_protos::api::ProcessInfo;
use protobuf::{Message as _, well_known_types::any::Any};

use super::Container;
use crate::error::Result;

/// Lists the processes. A container that is over has none.
pub fn pids(container: &Container) -> Result<Vec<ProcessInfo>> {
    if container.init.life().handle().is_none() {
        return Ok(Vec::new());
    }
    let execs: Vec<(i32, String)> =
        container.execs().iter().map(|exec| (exec.life().pid(), exec.id().to_string())).collect();
    let info = |pid: i32| {
        let mut info = ProcessInfo::new();
        info.pid = pid.cast_unsigned();
        info.info = execs.iter().find(|(exec, _)| *exec == pid).and_then(|(_, id)| details(id)).into();
        info
    };
    Ok(container.kills.cgroups().processes()?.into_iter().map(info).collect())
}

/// containerd, `api/types/runc/options/oci.proto`, `ProcessDetails`.
fn details(exec: &str) -> Option<Any> {
    let mut details = containerd_shim_protos::shim::oci::ProcessDetails::new();
    details.exec_id = exec.into();
    let mut any = Any::new();
    any.type_url = "containerd.runc.v1.ProcessDetails".into();
    any.value = details.write_to_bytes().ok()?;
    Some(any)
}
