//! Task events, forwarded to the daemon's ttrpc address (`containerd.services.events.ttrpc.v1.Events/Forward`).
//!
//! Events are hints: a daemon that cannot be reached loses them after a few attempts, and a queue that is full drops the
//! newest. Nothing in the shim ever waits for an event to be delivered, and order is that of [`Events::publish`] because
//! one task sends them one by one. Without an address nothing is queued at all.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use containerd_shim_protos::{
    events::task,
    shim::{event::Envelope, events::ForwardRequest},
    shim_async::{Client, EventsClient},
    topics,
};
use protobuf::{Message, MessageField, well_known_types::any::Any};
use tokio::{
    net::UnixStream,
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use ttrpc::{asynchronous::transport::Socket, context::with_duration};

/// Events that wait while the daemon is away. An event is about 300 bytes.
const QUEUE_MAX: usize = 512;
/// How often one event is tried.
const ATTEMPTS: u32 = 4;
/// The pause before the second attempt; it doubles.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How long connecting or one answer may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Where events go. Clones share the queue.
#[derive(Debug, Clone)]
pub struct Events {
    namespace: Arc<str>,
    queue: Option<mpsc::Sender<Envelope>>,
    pending: Arc<watch::Sender<usize>>,
}

impl Events {
    /// A publisher to `address`, a path or `unix://` URL; with an empty one nothing is published. Must be called within
    /// the runtime.
    pub fn new(address: &str, namespace: &str) -> Self {
        let pending = Arc::new(watch::Sender::new(0));
        let queue = (!address.is_empty()).then(|| {
            let (queue, events) = mpsc::channel(QUEUE_MAX);
            let path = address.strip_prefix("unix://").unwrap_or(address).to_string();
            tokio::spawn(forward(path, events, pending.clone()));
            queue
        });
        Self { namespace: namespace.into(), queue, pending }
    }

    /// Whether anybody takes events.
    pub fn wanted(&self) -> bool {
        self.queue.is_some()
    }

    /// Queues an event; drops it if the queue is full.
    pub fn publish(&self, event: impl Event) {
        let Some(queue) = &self.queue else { return };
        let Ok(value) = event.write_to_bytes() else { return };
        let mut any = Any::new();
        any.type_url = event.type_name();
        any.value = value;
        let mut envelope = Envelope::new();
        envelope.timestamp = MessageField::some(SystemTime::now().into());
        envelope.namespace = self.namespace.to_string();
        envelope.topic = event.topic().to_string();
        envelope.event = MessageField::some(any);
        self.pending.send_modify(|n| *n += 1);
        if queue.try_send(envelope).is_err() {
            self.pending.send_modify(|n| *n -= 1);
        }
    }

    /// Waits until every queued event was sent or given up, at most for `limit`.
    pub async fn flush(&self, limit: Duration) {
        let mut pending = self.pending.subscribe();
        let _ = timeout(limit, pending.wait_for(|n| *n == 0)).await;
    }
}

async fn forward(path: String, mut events: mpsc::Receiver<Envelope>, pending: Arc<watch::Sender<usize>>) {
    let mut client = None;
    while let Some(envelope) = events.recv().await {
        let mut request = ForwardRequest::new();
        request.envelope = MessageField::some(envelope);
        send(&path, &mut client, &request).await;
        pending.send_modify(|n| *n -= 1);
    }
}

async fn send(path: &str, client: &mut Option<EventsClient>, request: &ForwardRequest) {
    let mut pause = RETRY_AFTER;
    for attempt in 1..=ATTEMPTS {
        if client.is_none() {
            *client = connect(path).await;
        }
        if let Some(connected) = &client {
            if connected.forward(with_duration(DEADLINE), request).await.is_ok() {
                return;
            }
            *client = None;
        }
        if attempt < ATTEMPTS {
            sleep(pause).await;
            pause *= 2;
        }
    }
}

/// Connects without blocking the shim: the crate's own connect does while the daemon's backlog is full.
async fn connect(path: &str) -> Option<EventsClient> {
    let stream = timeout(DEADLINE, UnixStream::connect(path)).await.ok()?.ok()?;
    Some(EventsClient::new(Client::new(Socket::new(stream))))
}

/// A message that is an event: its topic and the type it travels as.
pub trait Event: Message {
    /// The topic (containerd, `api/events`, `runtime/events.go`).
    fn topic(&self) -> &'static str;
    /// The name in the Any.
    fn type_name(&self) -> String;
}

macro_rules! events {
    ($($message:ident => $topic:ident),* $(,)?) => {$(
        impl Event for task::$message {
            fn topic(&self) -> &'static str {
                topics::$topic
            }

            fn type_name(&self) -> String {
                concat!("containerd.events.", stringify!($message)).into()
            }
        }
    )*};
}

events! {
    TaskCreate => TASK_CREATE_EVENT_TOPIC,
    TaskStart => TASK_START_EVENT_TOPIC,
    TaskOOM => TASK_OOM_EVENT_TOPIC,
    TaskExit => TASK_EXIT_EVENT_TOPIC,
    TaskDelete => TASK_DELETE_EVENT_TOPIC,
    TaskExecAdded => TASK_EXEC_ADDED_EVENT_TOPIC,
    TaskExecStarted => TASK_EXEC_STARTED_EVENT_TOPIC,
    TaskPaused => TASK_PAUSED_EVENT_TOPIC,
    TaskResumed => TASK_RESUMED_EVENT_TOPIC,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_and_types_are_containerd_s() {
        let exit = task::TaskExit::new();
        assert_eq!((exit.topic(), exit.type_name().as_str()), ("/tasks/exit", "containerd.events.TaskExit"));
        let oom = task::TaskOOM::new();
        assert_eq!((oom.topic(), oom.type_name().as_str()), ("/tasks/oom", "containerd.events.TaskOOM"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_daemon_neither_blocks_nor_grows_the_queue() {
        let events = Events::new("/nonexistent/ttrpc.sock", "ns");
        for _ in 0..2 * QUEUE_MAX {
            events.publish(task::TaskStart::new());
        }
        assert!(*events.pending.borrow() <= QUEUE_MAX);
        events.flush(Duration::from_secs(3600)).await;
        assert_eq!(*events.pending.borrow(), 0);
    }

    #[tokio::test]
    async fn without_an_address_nothing_is_queued() {
        let events = Events::new("", "ns");
        events.publish(task::TaskStart::new());
        assert_eq!(*events.pending.borrow(), 0);
    }
}
