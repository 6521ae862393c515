//! A daemon's end of the events: a socket that records what shims forward.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use containerd_shim_protos::{
    api::Empty,
    events::task::TaskExit,
    protobuf::Message as _,
    shim::events::ForwardRequest,
    shim_async::{Events, create_events},
};
use ttrpc::r#async::{Server, TtrpcContext};

/// Topic and value.
type Recorded = (String, Vec<u8>);

/// The recorded events.
#[derive(Clone, Default)]
pub struct Record(Arc<Mutex<Vec<Recorded>>>);

impl Record {
    /// Serves at `path`.
    pub async fn listen(path: &Path) -> (Self, Server) {
        let record = Self::default();
        let server = Server::new().bind(&format!("unix://{}", path.display())).unwrap();
        let mut server = server.register_service(create_events(Arc::new(record.clone())));
        server.start().await.unwrap();
        (record, server)
    }

    /// The topics so far, exits with the id of who ended.
    pub fn topics(&self) -> Vec<String> {
        let name = |(topic, value): &(String, Vec<u8>)| match topic.as_str() {
            "/tasks/exit" => format!("exit {}", TaskExit::parse_from_bytes(value).unwrap().id),
            other => other.trim_start_matches("/tasks/").to_string(),
        };
        self.0.lock().unwrap().iter().map(name).collect()
    }

    /// Waits for that many events.
    pub async fn until(&self, count: usize) -> Vec<String> {
        for _ in 0..1000 {
            if self.topics().len() >= count {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        self.topics()
    }
}

#[async_trait]
impl Events for Record {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let event = &request.envelope.event;
        self.0.lock().unwrap().push((request.envelope.topic.clone(), event.value.clone()));
        Ok(Empty::new())
    }
}
