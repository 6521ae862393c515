//! What an idle shim costs: one thread, few descriptors, little memory.
//!
//! `CLEAT_SHIM=PATH` measures another build of the binary; the figures are printed, the bounds are for any build.
#![expect(clippy::unwrap_used, reason = "test code")]

mod common;

use std::fs;

use common::{Place, Shim, Stdio3, able};

const SHIMS: usize = 10;
/// Memory of a shim's own that an idle one may have, in KiB. A debug build is the largest.
const PRIVATE_MAX_KIB: u64 = 1024;
/// Descriptors of a shim with one container.
const FDS_MAX: usize = 24;

fn field(pid: i32, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn report(what: &str, shims: &[Shim]) -> u64 {
    let mean = |name: &str| shims.iter().map(|s| field(s.pid, "smaps_rollup", name)).sum::<u64>() / shims.len() as u64;
    let (pss, rss, anon) = (mean("Pss:"), mean("Rss:"), mean("Anonymous:"));
    let fds = shims.iter().map(|s| fs::read_dir(format!("/proc/{}/fd", s.pid)).unwrap().count()).max().unwrap();
    println!(
        "{what}: {} shims, each PSS {pss} KiB, RSS {rss} KiB, anonymous {anon} KiB, at most {fds} fds",
        shims.len()
    );
    for shim in shims {
        assert_eq!(field(shim.pid, "status", "Threads:"), 1);
    }
    assert!(fds <= FDS_MAX, "{fds} descriptors");
    anon
}

#[tokio::test]
async fn an_idle_shim_is_small_and_has_one_thread() {
    if !able("an_idle_shim_is_small_and_has_one_thread", "runc") {
        return;
    }
    let place = Place::new("runc");
    let mut shims = Vec::new();
    for number in 0..SHIMS {
        let id = format!("c{number}");
        let bundle = place.bundle(&id, &["sleep", "1000"], |_| {});
        shims.push(place.start(&bundle, &id).await);
    }
    report("started", &shims);
    for (number, shim) in shims.iter().enumerate() {
        let id = format!("c{number}");
        let log = format!("cri://{}?max_line=16384", place.path(&format!("{id}.log")).display());
        let stdio = Stdio3 { paths: ["", &log, &log], terminal: false };
        shim.create(&place, &id, stdio).await.unwrap();
        shim.start(&id, "").await.unwrap();
    }
    report("with a container", &shims);
    for (number, shim) in shims.iter().enumerate() {
        let id = format!("c{number}");
        for exec in 0..5 {
            let exec = format!("e{exec}");
            shim.exec(&id, &exec, &["true"], Stdio3::default()).await.unwrap();
            shim.start(&id, &exec).await.unwrap();
            shim.wait(&id, &exec).await.unwrap();
            shim.delete(&id, &exec).await.unwrap();
        }
    }
    let anon = report("after execs", &shims);
    assert!(anon <= PRIVATE_MAX_KIB, "{anon} KiB of anonymous memory");
    for (number, shim) in shims.iter().enumerate() {
        let id = format!("c{number}");
        shim.kill(&id, "", libc::SIGKILL).await.unwrap();
        shim.wait(&id, "").await.unwrap();
        shim.delete(&id, "").await.unwrap();
        shim.shutdown().await;
        assert!(shim.gone().await);
    }
}
