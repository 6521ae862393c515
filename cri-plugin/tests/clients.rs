//! Clients that name the socket's path as authority, and clients of `runtime.v1alpha2`, against a real tonic server:
//! hand-made frames, grpc-go 1.38 with the CRI of Kubernetes 1.22, and gRPC for Python.
//!
//! The server knows one call, Version. Without the two layers each of these clients fails; where the frames are ours
//! the tests show that too.

#![allow(clippy::unwrap_used, reason = "a test's own helpers")]

mod clients {
    pub mod foreign;
    pub mod raw;
    pub mod server;
}

use clients::foreign;
use clients::raw::{Answer, Raw};
use clients::server::{self, Layers};

const V1: &str = "/runtime.v1.RuntimeService/Version";
const ALPHA: &str = "/runtime.v1alpha2.RuntimeService/Version";

#[tokio::test]
async fn every_spelling_of_the_socket_is_served() {
    let server = server::start(Layers::Both).await;
    let path = server.socket().to_owned();
    let encoded = path.replace('/', "%2F");
    for authority in ["localhost", "127.0.0.1:80", &path, &encoded, "unix:///run/x.sock", ""] {
        let mut client = Raw::connect(&path).await;
        client.request(1, V1, authority).await;
        assert_eq!(client.answer().await, Answer::version("v1"), "{authority:?}");
    }
}

#[tokio::test]
async fn a_connection_goes_on_with_its_table() {
    let server = server::start(Layers::Both).await;
    let mut client = Raw::connect(server.socket()).await;
    for stream in [1, 3, 5] {
        client.request(stream, V1, server.socket()).await;
        assert_eq!(client.answer().await, Answer::version("v1"), "stream {stream}");
    }
    client.request_in_pieces(7, ALPHA, server.socket()).await;
    assert_eq!(client.answer().await, Answer::version("v1alpha2"));
}

#[tokio::test]
async fn the_old_version_is_answered_and_what_it_never_had_is_not() {
    let server = server::start(Layers::Both).await;
    let mut client = Raw::connect(server.socket()).await;
    let unimplemented = Answer::Status(tonic::Code::Unimplemented as i32);
    for (stream, path, expected) in [
        (1, ALPHA, Answer::version("v1alpha2")),
        (3, V1, Answer::version("v1")),
        (5, "/runtime.v1alpha2.RuntimeService/RuntimeConfig", unimplemented.clone()),
        (7, "/runtime.v1alpha2.RuntimeService/Nonsense", unimplemented.clone()),
        (9, "/runtime.v1alpha2.ImageService/StreamImages", unimplemented),
    ] {
        client.request(stream, path, "localhost").await;
        assert_eq!(client.answer().await, expected, "{path}");
    }
}

/// Why `authority` exists. When this fails, h2 has learnt to take a path, and the module can go.
#[tokio::test]
async fn h2_alone_refuses_a_path() {
    let server = server::start(Layers::None).await;
    let mut client = Raw::connect(server.socket()).await;
    client.request(1, V1, "localhost").await;
    assert_eq!(client.answer().await, Answer::version("v1"));
    client.request(3, V1, server.socket()).await;
    const PROTOCOL_ERROR: u32 = 1;
    assert_eq!(client.answer().await, Answer::Reset(PROTOCOL_ERROR));
}

#[tokio::test]
async fn nonsense_after_a_path_ends_that_connection_alone() {
    let server = server::start(Layers::Both).await;
    let mut bad = Raw::connect(server.socket()).await;
    bad.request(1, V1, server.socket()).await;
    assert_eq!(bad.answer().await, Answer::version("v1"));
    bad.headers(3, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).await;
    assert_eq!(bad.answer().await, Answer::Closed);
    let mut good = Raw::connect(server.socket()).await;
    good.request(1, V1, server.socket()).await;
    assert_eq!(good.answer().await, Answer::version("v1"));
}

#[tokio::test]
async fn kubelet_of_1_22_is_answered() {
    let server = server::start(Layers::Both).await;
    let output = match foreign::go(server.socket()).await {
        Ok(output) => output,
        Err(reason) => return println!("SKIP kubelet_of_1_22_is_answered: {reason}"),
    };
    assert!(output.status.success(), "{output:?}");
    let lines = format!("0.1.0\ncleat\n{}\nv1alpha2\n", server::VERSION);
    assert_eq!(String::from_utf8_lossy(&output.stdout), lines);
}

#[tokio::test]
async fn grpc_for_python_is_answered() {
    let server = server::start(Layers::Both).await;
    let output = match foreign::python(server.socket(), V1).await {
        Ok(output) => output,
        Err(reason) => return println!("SKIP grpc_for_python_is_answered: {reason}"),
    };
    assert!(output.status.success(), "{output:?}");
    assert_eq!(Answer::Message(output.stdout), Answer::version("v1"));
}
