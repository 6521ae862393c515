//! Credentials: all forms, token servers, and who must never see them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cleatd::Error;
use cleatd::images::{Auth, Images};
use serde_json::json;

use crate::build::{Compression, Flavour, Image, image, layer};
use crate::fixture::{Fixture, serve};
use crate::server::{Answer, Request, Server};

fn small() -> Image {
    image(Flavour::Oci, &[layer(&[("a", b"a")], Compression::Gzip)], json!({}))
}

fn user(name: &str, password: &str) -> Auth {
    Auth { username: name.into(), password: password.into(), ..Auth::default() }
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

/// A registry that wants the current token, and the token server beside it.
async fn with_tokens(image: Image, refresh_at: usize) -> (Server, Server, Arc<AtomicUsize>) {
    let issued = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&issued);
    let tokens = Server::start(move |request: &Request| {
        let password = request.header("authorization") == Some(&basic("me", "secret"));
        let refreshed = request.method == "POST" && request.body.contains("refresh_token=ident");
        if !password && !refreshed {
            return Answer::new(401, r#"{"errors":[{"code":"DENIED","message":"who are you"}]}"#);
        }
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        Answer::new(200, json!({"token": format!("t{number}"), "expires_in": 300}).to_string())
    })
    .await;
    let realm = format!("http://{}/token", tokens.address);
    let (current, seen) = (Arc::clone(&issued), AtomicUsize::new(0));
    let registry = Server::start(move |request: &Request| {
        // From one request on, the first token has expired.
        let late = seen.fetch_add(1, Ordering::SeqCst) >= refresh_at;
        let wanted = if late { 2 } else { 1 };
        let good = request.header("authorization") == Some(&format!("Bearer t{wanted}"));
        if good && current.load(Ordering::SeqCst) >= wanted {
            return serve(&image, "latest", request);
        }
        Answer::new(401, "")
            .header("WWW-Authenticate", format!(r#"Bearer realm="{realm}",service="reg",scope="repository:app:pull""#))
    })
    .await;
    (registry, tokens, issued)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_fetched_once_and_renewed_once() {
    let Some(fixture) = Fixture::new("a_token_is_fetched_once") else { return };
    let (registry, tokens, issued) = with_tokens(small(), usize::MAX).await;
    fixture.served_by("r.test", &[&registry.address]);
    fixture.pull_as("r.test/app", Some(user("me", "secret"))).await.expect("pull");
    assert_eq!(issued.load(Ordering::SeqCst), 1, "one token for all requests");
    let asked = &tokens.requests()[0].target;
    assert!(asked.contains("service=reg") && asked.contains("scope=repository%3Aapp%3Apull"), "{asked}");
    assert!(asked.contains("account=me"), "{asked}");

    let Some(fixture) = Fixture::new("a_token_is_renewed_once") else { return };
    let (registry, _tokens, issued) = with_tokens(small(), 3).await;
    fixture.served_by("r.test", &[&registry.address]);
    fixture.pull_as("r.test/app", Some(user("me", "secret"))).await.expect("pull");
    assert_eq!(issued.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_token_is_traded_by_post_and_seen_by_the_token_server_alone() {
    let Some(fixture) = Fixture::new("an_identity_token") else { return };
    let (registry, tokens, _) = with_tokens(small(), usize::MAX).await;
    fixture.served_by("r.test", &[&registry.address]);
    let auth = Auth { identity_token: "ident".into(), ..Auth::default() };
    fixture.pull_as("r.test/app", Some(auth)).await.expect("pull");
    assert!(tokens.requests()[0].body.contains("grant_type=refresh_token"));
    assert!(!tokens.requests()[0].target.contains("ident"), "secrets are not put into URLs");
    assert!(!format!("{:?}", registry.requests()).contains("ident"));
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_come_back_with_the_registrys_words() {
    let Some(fixture) = Fixture::new("refused_credentials") else { return };
    let (registry, _tokens, _) = with_tokens(small(), usize::MAX).await;
    fixture.served_by("r.test", &[&registry.address]);
    for auth in [None, Some(user("me", "wrong"))] {
        let e = fixture.pull_as("r.test/app", auth).await.expect_err("refused");
        assert!(matches!(&e, Error::Unauthorized { .. }), "{e}");
        assert!(e.to_string().contains("who are you"), "{e}");
        assert!(!e.to_string().contains("wrong"), "{e}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_and_registry_tokens_are_shown_to_the_registry() {
    let Some(fixture) = Fixture::new("basic_and_registry_tokens") else { return };
    let pulled = small();
    let wanted = Arc::new(Mutex::new(String::new()));
    let expected = Arc::clone(&wanted);
    let registry = Server::start(move |request: &Request| {
        if request.header("authorization") == Some(expected.lock().expect("lock").as_str()) {
            return serve(&pulled, "latest", request);
        }
        Answer::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#)
            .header("WWW-Authenticate", "Basic realm=\"r\"")
    })
    .await;
    fixture.served_by("r.test", &[&registry.address]);
    let encoded = Auth { auth: STANDARD.encode("u:p"), ..Auth::default() };
    let token = Auth { registry_token: "tok".into(), ..Auth::default() };
    for (auth, header) in [(user("u", "p"), basic("u", "p")), (encoded, basic("u", "p")), (token, "Bearer tok".into())]
    {
        *wanted.lock().expect("lock") = header;
        fixture.pull_as("r.test/app", Some(auth)).await.expect("pull");
        fixture.images.remove("r.test/app").await.expect("remove");
    }
    let e = fixture.pull("r.test/app").await.expect_err("anonymous");
    assert!(matches!(&e, Error::Unauthorized { why, .. } if why.contains("authentication required")), "{e}");
    let elsewhere = Auth { server_address: "other.test".into(), ..user("u", "p") };
    assert!(fixture.pull_as("r.test/app", Some(elsewhere)).await.is_err(), "they are another registry's");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_follows_a_redirect_to_another_host() {
    let Some(fixture) = Fixture::new("nothing_secret_follows_a_redirect") else { return };
    let pulled = small();
    let stored = pulled.clone();
    let storage = Server::start_on("127.0.0.2", move |request: &Request| {
        if request.header("authorization").is_some() {
            return Answer::new(400, "no credentials, please");
        }
        serve(&stored, "latest", request)
    })
    .await;
    let elsewhere = storage.address.clone();
    let registry = Server::start(move |request: &Request| {
        if request.header("authorization") != Some(&basic("u", "p")) {
            return Answer::new(401, "").header("WWW-Authenticate", "Basic realm=\"r\"");
        }
        if request.target.contains("/blobs/") {
            let path = request.target.split('?').next().unwrap_or_default();
            return Answer::new(307, "").header("Location", format!("http://{elsewhere}{path}"));
        }
        serve(&pulled, "latest", request)
    })
    .await;
    let header = format!(
        "server = \"http://{0}\"\n[host.\"http://{0}\"]\n[host.\"http://{0}\".header]\nx-secret = \"s\"\n",
        registry.address
    );
    fixture.hosts("r.test", &header);
    fixture.pull_as("r.test/app", Some(user("u", "p"))).await.expect("pull");
    let seen = storage.requests();
    assert!(!seen.is_empty());
    for request in &seen {
        assert_eq!((request.header("authorization"), request.header("x-secret")), (None, None), "{request:?}");
    }
    assert!(registry.requests().iter().all(|r| r.header("x-secret") == Some("s")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_of_a_host_that_a_redirect_led_to_is_not_answered() {
    let Some(fixture) = Fixture::new("a_challenge_after_a_redirect") else { return };
    let thief = Server::start_on("127.0.0.3", |_: &Request| {
        Answer::new(401, "give me all").header("WWW-Authenticate", "Basic realm=\"r\"")
    })
    .await;
    let (pulled, elsewhere) = (small(), thief.address.clone());
    let registry = Server::start(move |request: &Request| match request.target.contains("/blobs/") {
        true => Answer::new(302, "").header("Location", format!("http://{elsewhere}/x")),
        false => serve(&pulled, "latest", request),
    })
    .await;
    fixture.served_by("r.test", &[&registry.address]);
    let e = fixture.pull_as("r.test/app", Some(user("u", "p"))).await.expect_err("401");
    assert!(!e.to_string().contains("give me all"), "a stranger's words: {e}");
    assert!(!thief.requests().is_empty());
    assert!(thief.requests().iter().all(|r| r.header("authorization").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_with_other_credentials_are_other_pulls() {
    let Some(fixture) = Fixture::new("pulls_with_other_credentials") else { return };
    let (registry, _tokens, _) = with_tokens(small(), usize::MAX).await;
    fixture.served_by("r.test", &[&registry.address]);
    let (good, bad, none) = tokio::join!(
        fixture.pull_as("r.test/app", Some(user("me", "secret"))),
        fixture.pull_as("r.test/app", Some(user("me", "wrong"))),
        fixture.pull("r.test/app"),
    );
    assert!(good.is_ok() && bad.is_err() && none.is_err());
    assert!(fixture.pull("r.test/app").await.is_err(), "that it is here does not make it everybody's");
    assert!(fixture.pull(&format!("r.test/app@{}", small().digest())).await.is_err());
}
