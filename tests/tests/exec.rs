//! ExecSync and the log: what comes out of a container.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cleat_tests::{Cri, Node, container, node, pod, read_log, wait_for_line};
use tonic::Code;

/// A running container of a script, in a pod named after it.
async fn run(node: &Node, cri: &Cri, name: &str, script: &str) -> Result<String> {
    cri.pull("busybox").await?;
    let config = pod(name, &node.path("logs"));
    let sandbox = cri.run_pod(&config, "").await?;
    Ok(cri.launch(&sandbox, &container("main", "busybox", &["sh", "-c", script]), &config).await?)
}

#[tokio::test]
async fn an_exec_gives_both_streams_and_the_code() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    let id = run(&node, &cri, "exec", "sleep 1000").await?;
    let answer = cri.exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 42"], 0).await?;
    assert_eq!((answer.stdout, answer.stderr, answer.exit_code), (b"out\n".to_vec(), b"err\n".to_vec(), 42));
    let answer = cri.exec(&id, &["sh", "-c", "head -c 1000000 /dev/zero"], 0).await?;
    assert_eq!(answer.stdout.len(), 1_000_000);
    let missing = cri.exec(&id, &["/no/such/program"], 0).await.expect_err("a missing program ran");
    ensure!(missing.message().contains("/no/such/program"), "{missing}");
    cri.stop(&id, 0).await?;
    let stopped = cri.exec(&id, &["true"], 0).await.expect_err("an exec in a stopped container");
    assert_eq!(stopped.code(), Code::FailedPrecondition, "{stopped}");
    Ok(())
}

#[tokio::test]
async fn an_exec_that_takes_too_long_is_killed() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    let id = run(&node, &cri, "timeout", "sleep 1000").await?;
    let start = Instant::now();
    let late = cri.exec(&id, &["sleep", "77"], 1).await.expect_err("77 s within 1 s");
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    ensure!(start.elapsed() < Duration::from_secs(6), "took {:?}", start.elapsed());
    let living = cri.output(&id, &["ps"]).await?;
    ensure!(!living.contains("sleep 77"), "{living}");
    Ok(())
}

/// A child that outlives the command holds its stdout: waiting for the end of the stream would wait for the child.
#[tokio::test]
async fn an_exec_does_not_wait_for_what_it_left_behind() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    let id = run(&node, &cri, "orphan", "sleep 1000").await?;
    let start = Instant::now();
    let answer = cri.exec(&id, &["sh", "-c", "sleep 600 & echo started"], 0).await?;
    assert_eq!((answer.stdout, answer.exit_code), (b"started\n".to_vec(), 0));
    ensure!(start.elapsed() < Duration::from_secs(15), "took {:?}", start.elapsed());
    Ok(())
}

#[tokio::test]
async fn many_execs_at_once() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    let id = run(&node, &cri, "many", "sleep 1000").await?;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..20 {
        let (cri, id) = (cri.clone(), id.clone());
        tasks.spawn(async move {
            let answer = cri.exec(&id, &["sh", "-c", &format!("echo {number}; exit {number}")], 20).await?;
            Ok::<_, tonic::Status>((number, answer))
        });
    }
    while let Some(done) = tasks.join_next().await {
        let (number, answer) = done??;
        assert_eq!(String::from_utf8_lossy(&answer.stdout), format!("{number}\n"));
        assert_eq!(answer.exit_code, number);
    }
    Ok(())
}

#[tokio::test]
async fn long_and_unfinished_lines() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    let script = "head -c 40000 /dev/zero | tr '\\0' x; echo; echo; printf unfinished";
    let id = run(&node, &cri, "lines", script).await?;
    cri.wait_exit(&id).await?;
    let lines = wait_for_line(&node.path("logs/lines/main.log"), "unfinished").await?;
    let mut whole = vec![String::new()];
    for line in &lines {
        ensure!(line.text.len() <= 16 << 10, "a part of {} bytes", line.text.len());
        if let Some(last) = whole.last_mut() {
            last.push_str(&line.text);
        }
        if line.tag == "F" {
            whole.push(String::new());
        }
    }
    let lengths: Vec<usize> = whole.iter().map(String::len).collect();
    ensure!(lengths.starts_with(&[40_000, 0, 10]), "{lengths:?}");
    Ok(())
}

/// kubelet rotates: it renames the file, then asks for a new one.
#[tokio::test]
async fn a_renamed_log_grows_no_more_after_reopen() -> Result<()> {
    let node = node!();
    let cri = node.cri().await?;
    let id = run(&node, &cri, "rotate", "n=0; while :; do echo $n; n=$((n+1)); sleep 0.01; done").await?;
    let (log, old) = (node.path("logs/rotate/main.log"), node.path("logs/rotate/main.log.1"));
    wait_for_line(&log, "20").await?;
    std::fs::rename(&log, &old)?;
    cri.reopen_log(&id).await?;
    let size = std::fs::metadata(&old)?.len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(std::fs::metadata(&old)?.len(), size, "the renamed file still grows");
    cri.stop(&id, 0).await?;
    let numbers: Result<Vec<u32>, _> =
        [read_log(&old)?, read_log(&log)?].concat().iter().map(|line| line.text.parse()).collect();
    let numbers = numbers?;
    ensure!(numbers.iter().copied().eq(0..numbers.len() as u32), "lines are missing: {numbers:?}");
    let stopped = cri.reopen_log(&id).await.expect_err("the log of a stopped container was reopened");
    assert_eq!(stopped.code(), Code::FailedPrecondition, "{stopped}");
    Ok(())
}
