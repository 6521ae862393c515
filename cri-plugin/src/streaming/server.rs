//! The HTTP side: takes connections, finds what a URL stands for, agrees on a protocol, and lets the session run.

use std::convert::Infallible;
use std::io::Cursor;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::forward::{self, Forwarder};
use super::handshake::{self, Agreed, Forward, Refusal, Remote};
use super::line::Line;
use super::remote::{self, Command};
use super::requests::Asked;
use super::websocket::{self, tunnel::Tunnel};
use super::{Streaming, Workloads, origin, spdy};
use crate::{Error, Result};

/// How long a client may take to send its request's headers.
const HEADERS_WITHIN: Duration = Duration::from_secs(30);
/// How long to wait when a connection cannot be taken, for want of descriptors above all.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every connection needs.
struct Server {
    streaming: Arc<Streaming>,
    workloads: Arc<dyn Workloads>,
    sessions: Mutex<JoinSet<()>>,
}

/// Serves until it is dropped, which ends every session.
///
/// # Errors
/// `Failed` where the socket cannot be used at all.
pub async fn serve(streaming: Arc<Streaming>, workloads: Arc<dyn Workloads>) -> Result<()> {
    let listener = streaming.listener.try_clone().and_then(tokio::net::TcpListener::from_std);
    let listener = listener.map_err(|e| Error::failed("serve streams", e))?;
    let server = Arc::new(Server { streaming, workloads, sessions: Mutex::default() });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => drop(connections.spawn(server.clone().connection(tcp))),
                Err(e) => {
                    tracing::warn!(error = %e, "a streaming client's connection is not taken");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

type Answer = Response<Full<Bytes>>;

impl Server {
    /// One HTTP connection: one request, for a URL works once.
    async fn connection(self: Arc<Self>, tcp: TcpStream) {
        let line = match Line::new(tcp) {
            Ok(line) => line,
            Err(e) => return tracing::debug!(error = %e, "a streaming client's socket is of no use"),
        };
        let service = service_fn(|request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.answer(request).unwrap_or_else(refuse)) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_WITHIN)
            .serve_connection(TokioIo::new(line), service)
            .with_upgrades();
        if let Err(e) = served.await {
            tracing::debug!(error = %e, "a streaming client's connection");
        }
    }

    fn answer(self: Arc<Self>, mut request: Request<Incoming>) -> Result<Answer, Refusal> {
        let refusal = |status, why: &str| Refusal { status, why: why.into(), accepted: Vec::new() };
        if !matches!(*request.method(), Method::GET | Method::POST) {
            return Err(refusal(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST"));
        }
        if !origin::is_allowed(request.headers(), &self.streaming.address.to_string()) {
            return Err(refusal(StatusCode::FORBIDDEN, "this origin is not allowed"));
        }
        let path = request.uri().path().to_string();
        let asked = self.streaming.requests.take(&path);
        let asked = asked
            .ok_or_else(|| refusal(StatusCode::NOT_FOUND, "no such request, or its URL was used or is too old"))?;
        let upgrade = hyper::upgrade::on(&mut request);
        match asked {
            Asked::Exec(exec) => self.remote(request.headers(), upgrade, Command::Exec(exec)),
            Asked::Attach(attach) => self.remote(request.headers(), upgrade, Command::Attach(attach)),
            Asked::PortForward(request_) => {
                let ports = ports(&request_.port).map_err(|why| refusal(StatusCode::BAD_REQUEST, &why))?;
                self.forward(request.headers(), upgrade, (request_.pod_sandbox_id, ports))
            }
        }
    }

    fn remote(self: Arc<Self>, headers: &HeaderMap, upgrade: OnUpgrade, command: Command) -> Result<Answer, Refusal> {
        let agreed = handshake::remote(headers)?;
        let (answer, carrier, server) = (switch(&agreed)?, agreed.carrier, self.clone());
        self.spawn(async move {
            let Some((io, line)) = upgraded(upgrade).await else { return };
            let config = &server.streaming.config;
            match carrier {
                Remote::Spdy(version) => {
                    let (connection, carried) = spdy::connect(io, line, config.idle());
                    let with = (version, config.stream_creation());
                    tokio::join!(carried, remote::over_spdy(server.workloads.clone(), command, connection, with));
                }
                Remote::WebSocket(version, codec) => {
                    let (socket, uses) = (websocket::upgraded(io).await, remote::channels(&command));
                    let (connection, carried) = websocket::connect(socket, line, (codec, &uses), config.idle());
                    tokio::join!(
                        carried,
                        remote::over_websocket(server.workloads.clone(), command, connection, version)
                    );
                }
            }
        });
        Ok(answer)
    }

    fn forward(
        self: Arc<Self>,
        headers: &HeaderMap,
        upgrade: OnUpgrade,
        (sandbox, ports): (String, Vec<u16>),
    ) -> Result<Answer, Refusal> {
        let agreed = handshake::forward(headers)?;
        let (answer, carrier, server) = (switch(&agreed)?, agreed.carrier, self.clone());
        self.spawn(async move {
            let Some((io, line)) = upgraded(upgrade).await else { return };
            let forwarder = Forwarder { workloads: server.workloads.clone(), sandbox };
            let (idle, patience) = (server.streaming.config.idle(), server.streaming.config.stream_creation());
            match carrier {
                Forward::Spdy => {
                    let (connection, carried) = spdy::connect(io, line, idle);
                    tokio::join!(carried, forward::over_spdy(forwarder, connection, patience));
                }
                Forward::Tunnel => {
                    let tunnel = Tunnel::new(websocket::upgraded(io).await);
                    let (connection, carried) = spdy::connect(tunnel, line, idle);
                    tokio::join!(carried, forward::over_spdy(forwarder, connection, patience));
                }
                Forward::WebSocket(codec) => {
                    let (socket, uses) = (websocket::upgraded(io).await, forward::channels(&ports));
                    let (connection, carried) = websocket::connect(socket, line, (codec, &uses), idle);
                    tokio::join!(carried, forward::over_websocket(forwarder, connection, ports));
                }
            }
        });
        Ok(answer)
    }

    fn spawn(&self, session: impl Future<Output = ()> + Send + 'static) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        while sessions.try_join_next().is_some() {}
        sessions.spawn(session);
    }
}

/// The connection after the upgrade: what was read too far comes first.
async fn upgraded(upgrade: OnUpgrade) -> Option<(impl AsyncRead + AsyncWrite + Unpin + Send + 'static, Line)> {
    let upgraded = tokio::time::timeout(HEADERS_WITHIN, upgrade).await.ok()?;
    let parts = upgraded.map(|u: Upgraded| u.downcast::<TokioIo<Line>>());
    let Ok(Ok(parts)) = parts else {
        tracing::debug!("a streaming client went before its upgrade");
        return None;
    };
    let line = parts.io.into_inner();
    let io = tokio::io::join(Cursor::new(parts.read_buf).chain(line.clone()), line.clone());
    Some((io, line))
}

fn ports(of: &[i32]) -> Result<Vec<u16>, String> {
    let port = |port: &i32| u16::try_from(*port).ok().filter(|port| *port > 0).ok_or(format!("{port} is no port"));
    of.iter().map(port).collect()
}

/// 101, with what was agreed on.
fn switch<T>(agreed: &Agreed<T>) -> Result<Answer, Refusal> {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let (upgrade, protocol): (_, HeaderName) = match &agreed.key {
        Some(key) => {
            headers.insert(SEC_WEBSOCKET_ACCEPT, value(&derive_accept_key(key.as_bytes()))?);
            ("websocket", SEC_WEBSOCKET_PROTOCOL)
        }
        None => ("SPDY/3.1", handshake::STREAM_PROTOCOL),
    };
    headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
    if !agreed.protocol.is_empty() {
        headers.insert(protocol, HeaderValue::from_static(agreed.protocol));
    }
    Ok(answer)
}

fn refuse(refusal: Refusal) -> Answer {
    let mut answer = Response::new(Full::from(format!("{}\n", refusal.why)));
    *answer.status_mut() = refusal.status;
    if refusal.status == StatusCode::METHOD_NOT_ALLOWED {
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
    }
    for protocol in refusal.accepted {
        answer.headers_mut().append(handshake::ACCEPTED_PROTOCOLS, HeaderValue::from_static(protocol));
    }
    answer
}

fn value(text: &str) -> Result<HeaderValue, Refusal> {
    let unfit =
        |_| Refusal { status: StatusCode::BAD_REQUEST, why: "a key that fits no header".into(), accepted: Vec::new() };
    HeaderValue::from_str(text).map_err(unfit)
}
