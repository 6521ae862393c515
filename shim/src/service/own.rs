//! `cleat.shim.v1.Io` and `cleat.shim.v1.Oom`: what shim v2 has no words for.

use std::sync::Arc;

use async_trait::async_trait;
use cleat_proto::shim::{
    AttachRequest, AttachResponse, Io, KilledRequest, KilledResponse, Oom, ReopenRequest, ReopenResponse,
};
use ttrpc::r#async::TtrpcContext;

use crate::{
    error::{Error, Result},
    io::{self, Stdio},
    shim::Shim,
};

/// Both services of a shim.
#[derive(Debug)]
pub struct OwnService(pub Arc<Shim>);

impl OwnService {
    /// The streams of a container that has not ended.
    fn io(&self, id: &str) -> Result<Arc<io::Io>> {
        let container = self.0.container(id)?;
        let ended = || Error::WrongState { verb: "reach the streams of", id: id.into(), state: "stopped" };
        container.init.io().ok_or_else(ended)
    }
}

#[async_trait]
impl Io for OwnService {
    async fn reopen(&self, _: &TtrpcContext, request: ReopenRequest) -> ttrpc::Result<ReopenResponse> {
        self.io(&request.container_id)?.reopen_log().map_err(Error::from)?;
        Ok(ReopenResponse::new())
    }

    async fn attach(&self, _: &TtrpcContext, request: AttachRequest) -> ttrpc::Result<AttachResponse> {
        let id = &request.container_id;
        let terminal = self.0.container(id)?.init.stdio().terminal;
        if terminal != request.terminal {
            let has = if terminal { "has a terminal" } else { "has no terminal" };
            return Err(Error::Invalid(format!("container {id:?} {has}")).into());
        }
        let AttachRequest { stdin, stdout, stderr, .. } = request.clone();
        self.io(id)?.attach(&Stdio { stdin, stdout, stderr, terminal }).map_err(Error::from)?;
        Ok(AttachResponse::new())
    }
}

#[async_trait]
impl Oom for OwnService {
    async fn killed(&self, _: &TtrpcContext, request: KilledRequest) -> ttrpc::Result<KilledResponse> {
        let mut response = KilledResponse::new();
        response.killed = self.0.container(&request.container_id)?.kills.any();
        Ok(response)
    }
}
