//! The ttrpc server: generated services and the ttrpc crate's frames, under a dispatcher of our own.
//!
//! The crate's own server answers an unknown service with INVALID_ARGUMENT, where a daemon needs UNIMPLEMENTED to fall
//! back on, and it cancels every running request when its connection closes, which would cut a Create in half when the
//! daemon is killed. Here a request runs to its end whatever becomes of its caller; only the calls that merely wait
//! ([`WAITS`]) end with their connection. Streams are deliberately absent: no shim service has one.

use std::{
    collections::HashMap,
    io,
    os::unix::net::UnixListener as StdListener,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt as _,
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use ttrpc::{
    Code,
    r#async::{Service, TtrpcContext},
    context::from_pb,
    get_status,
    proto::{
        Codec as _, GenMessage, GenMessageError, MESSAGE_LENGTH_MAX, MESSAGE_TYPE_REQUEST, MessageHeader, Request,
        Response, Status,
    },
};

use crate::sys;

/// Methods that change nothing and may last forever.
const WAITS: [&str; 2] = ["Wait", "WaitSandbox"];

/// Methods after which the process idles with memory it has just used: it goes back to the kernel.
const TRIMS: [&str; 4] = ["Create", "Start", "Delete", "StartSandbox"];

/// Replies that may queue up for a caller that does not read.
const REPLIES_MAX: usize = 64;

/// The pause after a failed accept, when the process is out of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The services of one shim, by their full names.
pub struct Router {
    services: HashMap<String, Service>,
    aliases: HashMap<&'static str, &'static str>,
}

impl Router {
    /// A router over generated services.
    pub fn new(services: impl IntoIterator<Item = HashMap<String, Service>>) -> Self {
        Self { services: services.into_iter().flatten().collect(), aliases: HashMap::new() }
    }

    /// Serves `name` with the methods of `target`: two versions of one interface that differ in nothing but their package.
    pub fn alias(mut self, name: &'static str, target: &'static str) -> Self {
        self.aliases.insert(name, target);
        self
    }

    async fn call(&self, header: MessageHeader, request: Request) -> Response {
        let name = self.aliases.get(request.service.as_str()).copied().unwrap_or(&request.service);
        let method = self.services.get(name).and_then(|service| service.methods.get(&request.method));
        let Some(method) = method else {
            let what = format!("{}/{} is not served by this shim", request.service, request.method);
            return failed(get_status(Code::UNIMPLEMENTED, what));
        };
        let context = TtrpcContext {
            mh: header,
            metadata: from_pb(&request.metadata),
            timeout_nano: request.timeout_nano,
            ..TtrpcContext::default()
        };
        method.handler(context, request).await.unwrap_or_else(|e| failed(get_status(Code::UNKNOWN, e)))
    }
}

/// The requests that were read and whose answers were not written yet.
#[derive(Debug, Clone, Default)]
pub struct Replies(Arc<watch::Sender<usize>>);

/// One of them; it counts until it is dropped.
#[derive(Debug)]
struct Pending(Arc<watch::Sender<usize>>);

impl Replies {
    fn pending(&self) -> Pending {
        self.0.send_modify(|n| *n += 1);
        Pending(self.0.clone())
    }

    /// Waits until every answer was written, at most for `limit`.
    pub async fn flush(&self, limit: Duration) {
        let mut pending = self.0.subscribe();
        let _ = timeout(limit, pending.wait_for(|n| *n == 0)).await;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

/// A router at a socket.
pub struct Server {
    router: Arc<Router>,
    replies: Replies,
    connections: Arc<()>,
}

/// Counts the connections of a server.
#[derive(Debug)]
pub struct Connections(Weak<()>);

impl Connections {
    /// Whether nobody is connected.
    pub fn none(&self) -> bool {
        // One is the server's own.
        self.0.strong_count() <= 1
    }
}

impl Server {
    /// A server that has not begun.
    pub fn new(router: Router) -> Self {
        Self { router: Arc::new(router), replies: Replies::default(), connections: Arc::default() }
    }

    /// The answers it owes.
    pub fn replies(&self) -> Replies {
        self.replies.clone()
    }

    /// Its connections.
    pub fn connections(&self) -> Connections {
        Connections(Arc::downgrade(&self.connections))
    }

    /// Accepts connections until the process ends. Only root and the shim's own user get in.
    pub async fn serve(self, listener: StdListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) if allowed(&stream) => {
                    let (router, replies, open) = (self.router.clone(), self.replies.clone(), self.connections.clone());
                    tokio::spawn(async move {
                        connection(stream, router, replies).await;
                        drop(open);
                    });
                }
                Ok(_) => {}
                Err(_) => sleep(ACCEPT_RETRY).await,
            }
        }
    }
}

fn allowed(stream: &UnixStream) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
}

/// An answer on its way to the writer.
struct Outgoing {
    message: GenMessage,
    trim: bool,
    _pending: Pending,
}

async fn connection(stream: UnixStream, router: Arc<Router>, counter: Replies) {
    let (mut reader, writer) = stream.into_split();
    let (replies, queue) = mpsc::channel(REPLIES_MAX);
    tokio::spawn(write_replies(writer, queue));
    // Dropped with this task: the waiting calls of this connection end with it.
    let (_open, hangup) = watch::channel(());
    loop {
        match GenMessage::read_from(&mut reader).await {
            Ok(message) if message.header.type_ == MESSAGE_TYPE_REQUEST => {
                let (router, replies, hangup, pending) =
                    (router.clone(), replies.clone(), hangup.clone(), counter.pending());
                tokio::spawn(async move {
                    let header = message.header;
                    let (response, trim) = answer(message, router, hangup).await;
                    let message = frame(header.stream_id, response);
                    let _ = replies.send(Outgoing { message, trim, _pending: pending }).await;
                });
            }
            // The data and close frames of streams, of which there are none.
            Ok(_) => {}
            Err(GenMessageError::ReturnError(header, e)) => {
                let response = failed(get_status(Code::INVALID_ARGUMENT, e));
                let message = frame(header.stream_id, response);
                let _ = replies.send(Outgoing { message, trim: false, _pending: counter.pending() }).await;
            }
            Err(GenMessageError::InternalError(_)) => return,
        }
    }
}

async fn write_replies(mut writer: OwnedWriteHalf, mut queue: mpsc::Receiver<Outgoing>) {
    while let Some(Outgoing { message, trim, _pending }) = queue.recv().await {
        let mut bytes: Vec<u8> = message.header.into();
        bytes.extend_from_slice(&message.payload);
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
        if trim {
            drop((message, bytes));
            // The request's own task ends before this one goes on.
            tokio::task::yield_now().await;
            sys::trim_heap();
        }
    }
}

async fn answer(message: GenMessage, router: Arc<Router>, mut hangup: watch::Receiver<()>) -> (Response, bool) {
    let header = message.header;
    let request = match Request::decode(&message.payload) {
        Ok(request) if header.stream_id % 2 == 1 => request,
        Ok(_) => return (failed(get_status(Code::INVALID_ARGUMENT, "even stream id")), false),
        Err(e) => return (failed(get_status(Code::INVALID_ARGUMENT, e)), false),
    };
    let deadline = u64::try_from(request.timeout_nano).ok().filter(|n| *n > 0).map(Duration::from_nanos);
    let waits = WAITS.contains(&request.method.as_str());
    let trim = TRIMS.contains(&request.method.as_str());
    // On a task of its own: a caller's deadline answers the caller and does not stop half-way what it began.
    let mut task = tokio::spawn(async move { router.call(header, request).await });
    let response = async {
        tokio::select! {
            response = &mut task => response.unwrap_or_else(|e| failed(get_status(Code::INTERNAL, e))),
            _ = hangup.changed(), if waits => Response::new(),
        }
    };
    let response = match deadline {
        Some(after) => timeout(after, response)
            .await
            .unwrap_or_else(|_| failed(get_status(Code::DEADLINE_EXCEEDED, format!("no result within {after:?}")))),
        None => response.await,
    };
    if waits {
        task.abort();
    }
    (response, trim)
}

fn failed(status: Status) -> Response {
    let mut response = Response::new();
    response.set_status(status);
    response
}

fn frame(stream_id: u32, response: Response) -> GenMessage {
    let payload = match response.encode() {
        Ok(payload) if payload.len() <= MESSAGE_LENGTH_MAX => payload,
        Ok(payload) => {
            let what = format!("the answer has {} bytes, more than ttrpc carries", payload.len());
            failed(get_status(Code::INTERNAL, what)).encode().unwrap_or_default()
        }
        Err(e) => failed(get_status(Code::INTERNAL, e)).encode().unwrap_or_default(),
    };
    let length = u32::try_from(payload.len()).unwrap_or_default();
    GenMessage { header: MessageHeader::new_response(stream_id, length), payload }
}
