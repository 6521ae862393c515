//! Registries and networks that fail in every way that has been seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cleatd::Error;
use cleatd::error::Word;
use cleatd::images::Images;
use cleatd::images::digest::Digest;
use serde_json::json;

use crate::build::{self, Compression, Flavour, Image, image, layer, noise, of_tar};
use crate::fixture::{Fixture, range_start, serve};
use crate::server::{Answer, Request, Sending, Server};

const BIG: usize = 3 << 20;

/// One layer with three megabytes that do not compress.
fn big() -> Image {
    image(Flavour::Oci, &[layer(&[("big", &noise(BIG, 7))], Compression::Gzip)], json!({}))
}

fn is_layer(image: &Image, request: &Request) -> bool {
    request.target.contains(image.layers[0].as_str())
}

async fn assert_big(fixture: &Fixture, id: &cleatd::images::ImageId) {
    assert!(fixture.file(id, "big").await == Some(noise(BIG, 7)), "the file is whole");
}

/// Resets the connection `resets` times, each time after another megabyte; `ranges` says how a Range is answered.
async fn resetting(image: Image, resets: usize, ranges: fn(&Image, &Request) -> Answer) -> Server {
    let count = AtomicUsize::new(0);
    Server::start(move |request: &Request| {
        if !is_layer(&image, request) {
            return serve(&image, "latest", request);
        }
        let answer = ranges(&image, request);
        if answer.status < 300 && count.fetch_add(1, Ordering::SeqCst) < resets {
            return answer.sending(Sending::ResetAfter(700_000));
        }
        answer
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_taken_up_by_range() {
    let Some(fixture) = Fixture::new("a_reset_is_taken_up_by_range") else { return };
    let pulled = big();
    let server = resetting(pulled.clone(), 3, |image, request| serve(image, "latest", request)).await;
    fixture.served_by("r.test", &[&server.address]);
    let id = fixture.pull("r.test/app").await.expect("pull");
    assert_big(&fixture, &id).await;
    let starts: Vec<_> = server.blob_requests(pulled.layers[0].as_str()).iter().map(range_start).collect();
    assert_eq!(starts.len(), 4);
    assert_eq!(starts[0], None);
    assert!(starts[1..].windows(2).all(|w| w[0] < w[1]) && starts[1].is_some_and(|s| s > 0), "{starts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_ranges_starts_over_and_nothing_is_doubled() {
    let without: fn(&Image, &Request) -> Answer = |image, _| Answer::new(200, image.blobs[&image.layers[0]].clone());
    let unsatisfiable: fn(&Image, &Request) -> Answer = |image, request| match range_start(request) {
        Some(_) => Answer::new(416, ""),
        None => Answer::new(200, image.blobs[&image.layers[0]].clone()),
    };
    let wrong_range: fn(&Image, &Request) -> Answer = |image, request| match range_start(request) {
        Some(_) => {
            Answer::new(206, image.blobs[&image.layers[0]][1..].to_vec()).header("Content-Range", "bytes 1-9/10")
        }
        None => Answer::new(200, image.blobs[&image.layers[0]].clone()),
    };
    for (name, ranges) in [("200", without), ("416", unsatisfiable), ("another range", wrong_range)] {
        let Some(fixture) = Fixture::new("a_host_without_ranges") else { return };
        let server = resetting(big(), 1, ranges).await;
        fixture.served_by("r.test", &[&server.address]);
        let id = fixture.pull("r.test/app").await.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_big(&fixture, &id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_bytes_are_fetched_from_the_next_host() {
    let Some(fixture) = Fixture::new("damaged_bytes") else { return };
    let pulled = big();
    let damage = |image: Image| {
        move |request: &Request| {
            let mut answer = serve(&image, "latest", request);
            if is_layer(&image, request) {
                answer.body[1_000_000] ^= 1;
            }
            answer
        }
    };
    let mirror = Server::start(damage(pulled.clone())).await;
    fixture.served_by("r.test", &[&mirror.address]);
    let e = fixture.pull("r.test/app").await.expect_err("damaged");
    assert!(matches!(&e, Error::Corrupt { what, .. } if what.contains(pulled.layers[0].as_str())), "{e}");
    fixture.assert_no_layer().await;
    assert!(!fixture.has_blob(&pulled.layers[0]));

    let good = pulled.clone();
    let origin = Server::start(move |request: &Request| serve(&good, "latest", request)).await;
    fixture.served_by("r.test", &[&mirror.address, &origin.address]);
    let id = fixture.pull("r.test/app").await.expect("from the origin");
    assert_big(&fixture, &id).await;
    assert_eq!(origin.blob_requests(pulled.layers[0].as_str()).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_committed_of_a_layer_that_is_not_what_its_digests_say() {
    let tar = layer(&[("a", b"a")], Compression::None).blob;
    let good = layer(&[("a", b"a")], Compression::Gzip);
    let mut other_diff = good.clone();
    other_diff.diff_id = Digest::of(b"another tar");
    let mut cut = of_tar(tar.clone(), Compression::Gzip);
    cut.blob.truncate(cut.blob.len() - 9);
    let no_tar = of_tar(noise(4096, 3), Compression::Gzip);
    let half_tar =
        of_tar(layer(&[("big", &noise(9000, 1))], Compression::None).blob[..4096].to_vec(), Compression::Zstd);
    for (name, bad) in [("diff id", other_diff), ("cut gzip", cut), ("no tar", no_tar), ("half a tar", half_tar)] {
        let Some(fixture) = Fixture::new("nothing_is_committed") else { return };
        let pulled = image(Flavour::Oci, &[good.clone(), bad], json!({}));
        let server = {
            let pulled = pulled.clone();
            Server::start(move |request: &Request| serve(&pulled, "latest", request)).await
        };
        fixture.served_by("r.test", &[&server.address]);
        let e = fixture.pull("r.test/app").await.expect_err(name);
        assert!(matches!(&e, Error::Corrupt { what, .. } if what.contains("layer")), "{name}: {e}");
        assert_eq!(
            server.blob_requests(pulled.layers[1].as_str()).len(),
            1,
            "{name}: the same bytes are not asked twice"
        );
        fixture.assert_nothing_is_left().await;
        assert!(fixture.snapshots_of_layers() <= 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_lie_or_swell_are_refused() {
    let pulled = big();
    let digest = pulled.digest().to_string();
    let swollen = {
        let mut m = pulled.manifest.clone();
        m.resize(5 << 20, b' ');
        m
    };
    let mut both: serde_json::Value = serde_json::from_slice(&pulled.manifest).expect("json");
    both["manifests"] = json!([]);
    let cases: Vec<(&str, Answer, &str)> = vec![
        ("swollen", Answer::new(200, swollen).header("Content-Type", build::OCI_MANIFEST), "larger"),
        ("two things", Answer::new(200, both.to_string()).header("Content-Type", build::OCI_MANIFEST), "fields"),
        (
            "another type",
            Answer::new(200, pulled.manifest.clone()).header("Content-Type", build::OCI_INDEX),
            "calls it",
        ),
        (
            "schema 1",
            Answer::new(200, r#"{"schemaVersion":1,"fsLayers":[]}"#)
                .header("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws"),
            "schema 1",
        ),
        ("not json", Answer::new(200, "<html>").header("Content-Type", build::OCI_MANIFEST), "manifest"),
    ];
    for (name, answer, why) in cases {
        let Some(fixture) = Fixture::new("manifests_that_lie") else { return };
        // Without a digest header the tag's document itself is fetched.
        let server = Server::start(move |_: &Request| answer.clone()).await;
        fixture.served_by("r.test", &[&server.address]);
        let e = fixture.pull("r.test/app").await.expect_err(name).to_string();
        assert!(e.contains(why), "{name}: {e}");
        fixture.assert_no_layer().await;
    }
    let Some(fixture) = Fixture::new("a_manifest_of_another_digest") else { return };
    let server = Server::start(move |_: &Request| {
        Answer::new(200, "{}").header("Content-Type", build::OCI_MANIFEST).header("Docker-Content-Digest", &digest)
    })
    .await;
    fixture.served_by("r.test", &[&server.address]);
    let e = fixture.pull("r.test/app").await.expect_err("digest");
    assert!(matches!(e, Error::Corrupt { .. }), "{e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_registries_are_asked_again_when_they_say() {
    let Some(fixture) = Fixture::new("busy_registries") else { return };
    let (pulled, count) = (big(), AtomicUsize::new(0));
    let server = Server::start(move |request: &Request| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::new(429, "slow down").header("Retry-After", "1"),
        2 => Answer::new(503, ""),
        _ => serve(&pulled, "latest", request),
    })
    .await;
    fixture.served_by("r.test", &[&server.address]);
    let started = Instant::now();
    fixture.pull("r.test/app").await.expect("pull");
    assert!(started.elapsed() >= Duration::from_secs(1), "Retry-After was heeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_in_order_and_told_for_whom() {
    let Some(fixture) = Fixture::new("mirrors_are_asked_in_order") else { return };
    let down = Server::start(|_: &Request| Answer::new(503, "down")).await;
    let missing = Server::start(|_: &Request| Answer::new(404, "")).await;
    let pulled = big();
    let origin = Server::start(move |request: &Request| serve(&pulled, "latest", request)).await;
    fixture.served_by("r.test", &[&down.address, &missing.address, &origin.address]);
    fixture.pull("r.test/app").await.expect("pull");
    assert!(down.requests().iter().all(|r| r.target.ends_with("?ns=r.test")), "{:?}", down.requests());
    assert!(!missing.requests().is_empty());
    // The file is read at each pull: an edit counts at once.
    fixture.images.remove("r.test/app").await.expect("remove");
    let before = down.requests().len();
    fixture.served_by("r.test", &[&origin.address]);
    fixture.pull("r.test/app").await.expect("pull");
    assert_eq!(down.requests().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_down_has_kubelets_word() {
    let Some(fixture) = Fixture::new("a_registry_that_is_down") else { return };
    let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("port").to_string();
    fixture.served_by("r.test", &[&closed]);
    let e = fixture.pull("r.test/app").await.expect_err("refused");
    assert!(matches!(&e, Error::Cri { word: Word::RegistryUnavailable, why } if why.contains(&closed)), "{e}");
    let server = Server::start(|_: &Request| Answer::new(500, "oops\u{7}")).await;
    fixture.served_by("r.test", &[&server.address]);
    let e = fixture.pull("r.test/app").await.expect_err("500");
    assert!(matches!(&e, Error::Cri { .. }) && e.to_string().contains("500"), "{e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_host_is_left_for_the_next_one_and_the_rest_is_fetched_there() {
    for sending in [Sending::StallAfter(1 << 20), Sending::DripAfter(1 << 20, Duration::from_millis(100))] {
        let Some(fixture) = Fixture::new("a_stalled_host") else { return };
        let pulled = big();
        let slow = {
            let pulled = pulled.clone();
            Server::start(move |request: &Request| {
                let answer = serve(&pulled, "latest", request);
                if is_layer(&pulled, request) { answer.sending(sending.clone()) } else { answer }
            })
            .await
        };
        let (good, layer) = (pulled.clone(), pulled.layers[0].clone());
        let origin = Server::start(move |request: &Request| serve(&good, "latest", request)).await;
        fixture.served_by("r.test", &[&slow.address, &origin.address]);
        let id = fixture.pull("r.test/app").await.expect("pull");
        assert_big(&fixture, &id).await;
        let starts: Vec<_> = origin.blob_requests(layer.as_str()).iter().map(range_start).collect();
        assert!(starts.len() == 1 && starts[0].is_some_and(|s| s >= 1 << 20), "{starts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_identical_pulls_are_one_download_and_one_may_leave() {
    let Some(fixture) = Fixture::new("fifty_identical_pulls") else { return };
    let (pulled, served) = (big(), big());
    let server = Server::start(move |request: &Request| {
        let answer = serve(&served, "latest", request);
        let slowly = Sending::DripAfter(answer.body.len().saturating_sub(20), Duration::from_millis(20));
        if is_layer(&served, request) { answer.sending(slowly) } else { answer }
    })
    .await;
    fixture.served_by("r.test", &[&server.address]);
    let fixture = Arc::new(fixture);
    let pulls: Vec<_> = (0..50)
        .map(|_| {
            let fixture = Arc::clone(&fixture);
            tokio::spawn(async move { fixture.pull("r.test/app").await })
        })
        .collect();
    while server.blob_requests(pulled.layers[0].as_str()).is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    pulls[0].abort();
    let mut finished = 0;
    for pull in pulls {
        match pull.await {
            Ok(result) => finished += usize::from(result.is_ok()),
            Err(e) => assert!(e.is_cancelled()),
        }
    }
    assert_eq!(finished, 49);
    assert_eq!(server.blob_requests(pulled.layers[0].as_str()).len(), 1);
    assert_eq!(server.requests().iter().filter(|r| r.method == "HEAD").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_share_layers_share_the_work() {
    let Some(fixture) = Fixture::new("images_that_share_layers") else { return };
    let base = layer(&[("big", &noise(BIG, 7))], Compression::Gzip);
    let twice = layer(&[("same", b"same")], Compression::Gzip);
    let of = |name: &str| {
        let own = layer(&[(name, name.as_bytes())], Compression::Gzip);
        image(Flavour::Oci, &[base.clone(), twice.clone(), own, twice.clone()], json!({}))
    };
    let (one, two) = (of("one"), of("two"));
    let (first, second) = (one.clone(), two.clone());
    let server = Server::start(move |request: &Request| {
        let of = if request.target.contains("/one/") { &first } else { &second };
        serve(of, "latest", request)
    })
    .await;
    fixture.served_by("r.test", &[&server.address]);
    let (a, b) = tokio::join!(fixture.pull("r.test/one"), fixture.pull("r.test/two"));
    let (a, b) = (a.expect("one"), b.expect("two"));
    for (id, name) in [(&a, "one"), (&b, "two")] {
        assert_big(&fixture, id).await;
        assert_eq!(fixture.file(id, name).await.as_deref(), Some(name.as_bytes()));
    }
    for shared in [&one.layers[0], &one.layers[1]] {
        assert_eq!(server.blob_requests(shared.as_str()).len(), 1);
    }
    fixture.images.remove("r.test/one").await.expect("remove");
    assert_big(&fixture, &b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let small = |config: &mut cleatd::config::Config| config.images.max_layer_bytes = 1 << 20;
    let Some(fixture) = Fixture::below("a_bomb_is_refused", dir, small) else { return };
    let pulled = image(Flavour::Oci, &[layer(&[("zeros", &vec![0; 8 << 20])], Compression::Zstd)], json!({}));
    let server = Server::start(move |request: &Request| serve(&pulled, "latest", request)).await;
    fixture.served_by("r.test", &[&server.address]);
    let e = fixture.pull("r.test/app").await.expect_err("bomb").to_string();
    assert!(e.contains("1048576"), "{e}");
    fixture.assert_no_layer().await;
}
