//! Update: new limits for a container.

use protobuf::well_known_types::any::Any;

use super::{Container, life::Life};
use crate::error::{Error, Result};

/// The JSON type under which limits travel (containerd's type URLs for OCI types).
const TYPE_NAME: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// Applies the limits to a container that has an init.
pub async fn update(container: &Container, resources: &Any) -> Result<()> {
    if resources.type_url != TYPE_NAME {
        return Err(Error::Invalid(format!("resources of type {:?} are not {TYPE_NAME}", resources.type_url)));
    }
    let init = &container.init;
    let _verb = init.claim().await;
    match &*init.life() {
        Life::Created(_) | Life::Running(_) | Life::Paused(_) => {}
        other => return Err(other.wrong("update", &container.id)),
    }
    container.runtime.update(&container.id, &container.bundle, &resources.value).await
}
