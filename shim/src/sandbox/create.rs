//! CreateSandbox: make the namespaces, and accompany the pause process to its end.

use std::{
    path::Path,
    sync::{Arc, PoisonError},
    time::SystemTime,
};

use containerd_shim_protos::sandbox_api::CreateSandboxRequest;

use super::{
    Held, State,
    config::Config,
    pins::{Pins, Wanted},
};
use crate::{
    bundle::{Bundle, check_id},
    error::{Error, Result},
    shim::Shim,
};

/// Creates the shim's sandbox. Has no await: the shim must not do anything else while it is in the pod's namespaces.
pub fn create(shim: &Arc<Shim>, request: &CreateSandboxRequest) -> Result<()> {
    let id = &request.sandbox_id;
    check_id("sandbox id", id)?;
    let sandbox = &shim.sandbox;
    if !matches!(*sandbox.state(), State::None) {
        return Err(Error::AlreadyExists { what: "sandbox", id: sandbox.id().to_string() });
    }
    let wanted = Wanted {
        config: &Config::of(&request.options)?,
        netns: Path::new(&request.netns_path),
        // A daemon that takes events is a containerd: it looks for the namespaces under the sandbox's pid.
        process: shim.events.wanted(),
        bundle: &Bundle::new(&request.bundle_path)?,
    };
    let pinned = Pins::make(&wanted, &shim.reaper)?;
    let pause = pinned.pause.as_ref().map(|child| child.process.clone());
    *sandbox.id.lock().unwrap_or_else(PoisonError::into_inner) = id.as_str().into();
    let held = Held { _pins: pinned.pins, pause, created_at: SystemTime::now() };
    sandbox.step("create", |state| state.create(held))?;
    if let Some(child) = pinned.pause {
        if let Some(own) = &shim.place.own {
            // The shim may have been moved there only after it made this child, or not yet.
            own.join_behind(child.process.pid().cast_unsigned(), &shim.place.report)?;
        }
        let shim = shim.clone();
        tokio::spawn(async move {
            if let Ok(exit) = child.exit.await {
                shim.sandbox.end_by(exit);
            }
        });
    }
    Ok(())
}
