//! The services between daemon and shim, served and called over a real socket.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cleat_proto::shim::{
    AttachRequest, AttachResponse, Io, IoClient, KilledRequest, KilledResponse, Oom, OomClient, ReopenRequest,
    ReopenResponse, create_io, create_oom,
};
use ttrpc::r#async::{Client, Server, TtrpcContext};
use ttrpc::context::{self, Context};

struct Shim;

fn not_found(id: &str) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::NOT_FOUND, format!("container {id}")))
}

#[async_trait]
impl Io for Shim {
    async fn reopen(&self, _: &TtrpcContext, request: ReopenRequest) -> ttrpc::Result<ReopenResponse> {
        if request.container_id == "c1" { Ok(ReopenResponse::new()) } else { Err(not_found(&request.container_id)) }
    }

    async fn attach(&self, _: &TtrpcContext, request: AttachRequest) -> ttrpc::Result<AttachResponse> {
        let expected = ("c1", "", "/run/o", "", true);
        let AttachRequest { container_id, stdin, stdout, stderr, terminal, .. } = &request;
        assert_eq!((&**container_id, &**stdin, &**stdout, &**stderr, *terminal), expected);
        Ok(AttachResponse::new())
    }
}

#[async_trait]
impl Oom for Shim {
    async fn killed(&self, _: &TtrpcContext, request: KilledRequest) -> ttrpc::Result<KilledResponse> {
        Ok(KilledResponse { killed: request.container_id == "c1", ..Default::default() })
    }
}

fn deadline() -> Context {
    context::with_duration(Duration::from_secs(10))
}

#[tokio::test]
async fn both_services_answer_on_one_socket() {
    let dir = tempfile::tempdir().unwrap();
    let address = format!("unix://{}", dir.path().join("s").display());
    let mut server = Server::new()
        .bind(&address)
        .unwrap()
        .register_service(create_io(Arc::new(Shim)))
        .register_service(create_oom(Arc::new(Shim)));
    server.start().await.unwrap();
    let client = Client::connect(&address).await.unwrap();
    let (io, oom) = (IoClient::new(client.clone()), OomClient::new(client));

    io.reopen(deadline(), &ReopenRequest { container_id: "c1".into(), ..Default::default() }).await.unwrap();
    let error = io.reopen(deadline(), &ReopenRequest::new()).await.unwrap_err();
    assert!(matches!(&error, ttrpc::Error::RpcStatus(status) if status.code() == ttrpc::Code::NOT_FOUND), "{error}");
    let attach =
        AttachRequest { container_id: "c1".into(), stdout: "/run/o".into(), terminal: true, ..Default::default() };
    io.attach(deadline(), &attach).await.unwrap();
    for (id, killed) in [("c1", true), ("c2", false)] {
        let request = KilledRequest { container_id: id.into(), ..Default::default() };
        assert_eq!(oom.killed(deadline(), &request).await.unwrap().killed, killed);
    }
    server.shutdown().await.unwrap();
}
