//! `runtime_handler`: each `[runtimes.NAME]` runs pods of its own kind.

use anyhow::{Context, Result, ensure};
use cleat_tests::v1::StatusRequest;
use cleat_tests::{Cri, Node, container, node, pod, skip, wait_for_line};

/// One pod with one container under a handler, from run to remove.
async fn round(node: &Node, cri: &Cri, handler: &str) -> Result<()> {
    let name = if handler.is_empty() { "default" } else { handler };
    let config = pod(name, &node.path("logs"));
    let sandbox = cri.run_pod(&config, handler).await?;
    assert_eq!(cri.pod_status(&sandbox).await?.runtime_handler, handler);
    let script = "echo up; trap 'exit 4' TERM; while :; do sleep 0.05; done";
    let id = cri.launch(&sandbox, &container("main", "busybox", &["sh", "-c", script]), &config).await?;
    wait_for_line(&node.path(&format!("logs/{name}/main.log")), "up").await?;
    assert_eq!(cri.output(&id, &["hostname"]).await?, name);
    cri.stop(&id, 10).await?;
    assert_eq!(cri.status(&id).await?.exit_code, 4);
    cri.stop_pod(&sandbox).await?;
    cri.remove_pod(&sandbox).await?;
    assert_eq!(node.residue(), [] as [String; 0]);
    Ok(())
}

#[tokio::test]
async fn the_default_handler() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    cri.pull("busybox").await?;
    round(&node, &cri, "").await
}

#[tokio::test]
async fn runc() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    cri.pull("busybox").await?;
    round(&node, &cri, "runc").await
}

#[tokio::test]
async fn crun() -> Result<()> {
    let node = node!();
    if !std::fs::read_to_string(node.path("config.toml"))?.contains("[runtimes.crun]") {
        skip!("no crun on this machine");
    }
    let cri = node.cri().await?;
    cri.pull("busybox").await?;
    round(&node, &cri, "crun").await
}

#[tokio::test]
async fn an_unknown_handler_is_answered_with_the_known_ones() -> Result<()> {
    let node = node!("[runtimes.third]\nbinary = \"runc\"\n");
    let cri = node.cri().await?;
    let reply = cri.run_pod(&pod("lost", &node.path("logs")), "gvisor").await;
    let status = reply.err().context("an unknown handler ran")?;
    for word in ["gvisor", "runc", "third"] {
        ensure!(status.message().contains(word), "{word} is not in {status:?}");
    }
    assert_eq!(node.residue(), [] as [String; 0]);
    Ok(())
}

#[tokio::test]
async fn a_handler_whose_program_is_missing() -> Result<()> {
    let node = node!(
        "[runtimes.broken]\nbinary = \"/no/such/runc\"\n[runtimes.shimless]\ntype = \"io.containerd.nowhere.v9\"\n"
    );
    let cri = node.cri().await?;
    cri.pull("busybox").await?;
    let config = pod("broken", &node.path("logs"));
    let status = cri.run_pod(&config, "shimless").await.err().context("a missing shim ran")?;
    ensure!(status.message().contains("containerd-shim-nowhere-v9"), "{status:?}");
    // The sandbox needs no runtime of its own, so the error may come with either call.
    let reply = match cri.run_pod(&config, "broken").await {
        Ok(sandbox) => cri.launch(&sandbox, &container("main", "busybox", &["true"]), &config).await,
        Err(status) => Err(status),
    };
    let status = reply.err().context("a missing runtime ran")?;
    ensure!(status.message().contains("/no/such/runc"), "{status:?}");
    cri.remove_all_pods().await?;
    assert_eq!(node.residue(), [] as [String; 0]);
    Ok(())
}

#[tokio::test]
async fn the_status_names_the_handlers() -> Result<()> {
    let node = node!();
    let mut cri = node.cri().await?;
    let status = cri.runtime.status(StatusRequest { verbose: true }).await?.into_inner();
    let names: Vec<&str> = status.runtime_handlers.iter().map(|h| h.name.as_str()).collect();
    ensure!(names.contains(&"") && names.contains(&"runc"), "{names:?}");
    let conditions = status.status.context("no status")?.conditions;
    for name in ["RuntimeReady", "NetworkReady"] {
        let one = conditions.iter().find(|c| c.r#type == name).context(name)?;
        ensure!(one.status, "{one:?}");
    }
    ensure!(status.info.contains_key("config"), "{:?}", status.info.keys());
    Ok(())
}
