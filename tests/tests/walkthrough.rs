//! What introductions to CRI print, typed as printed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cleat_tests::{Node, node};
use serde_json::{Value, json};

/// The pod and the container of the introductions. Two walks at once must not share the log under /tmp: `name` differs.
fn write_configs(node: &Node, name: &str) -> Result<(String, String)> {
    let sandbox = json!({
        "metadata": {"name": "nginx-sandbox", "namespace": "default", "attempt": 1, "uid": "hdishd83djaidwnduwk28bcsb"},
        "linux": {},
        "log_directory": "/tmp"
    });
    let container = json!({
        "metadata": {"name": "nginx"},
        "image": {"image": "nginx"},
        "log_path": format!("{name}.0.log"),
        "linux": {}
    });
    let (pod_file, container_file) = (node.path("sandbox.json"), node.path("container.json"));
    std::fs::write(&pod_file, sandbox.to_string())?;
    std::fs::write(&container_file, container.to_string())?;
    Ok((pod_file.to_string_lossy().into_owned(), container_file.to_string_lossy().into_owned()))
}

/// The body that a web server gives for `/`, asked for up to ten seconds.
fn page(address: &str) -> Result<String> {
    let start = Instant::now();
    loop {
        match fetch(address) {
            Ok(page) => return Ok(page),
            Err(e) if start.elapsed() > Duration::from_secs(10) => return Err(e).context(address.to_string()),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn fetch(address: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

fn walk(node: &Node, handler: &str) -> Result<()> {
    let name = format!("cleat-walk-{}-{handler}", std::process::id());
    let (pod, container) = write_configs(node, &name)?;
    let crictl = |args: &[&str]| node.crictl(args).map(|out| out.trim().to_string());
    let info = |args: &[&str]| -> Result<Value> { Ok(serde_json::from_str(&node.crictl(args)?)?) };

    crictl(&["pull", "nginx"])?;
    let images = crictl(&["images"])?;
    ensure!(images.contains("docker.io/library/nginx"), "{images}");
    let pod_id = crictl(&["runp", "--runtime", handler, &pod])?;
    let id = crictl(&["create", &pod_id, &container, &pod])?;
    crictl(&["start", &id])?;
    ensure!(crictl(&["ps"])?.contains("Running"));
    ensure!(crictl(&["pods"])?.contains("nginx-sandbox"));

    let sandbox = info(&["inspectp", &pod_id])?;
    assert_eq!(sandbox["status"]["state"], "SANDBOX_READY");
    let ip = sandbox["status"]["network"]["ip"].as_str().context("no ip")?;
    ensure!(page(&format!("{ip}:80"))?.contains("Welcome to nginx!"));
    let inspected = info(&["inspect", &id])?;
    assert_eq!(inspected["status"]["state"], "CONTAINER_RUNNING");
    assert_eq!(inspected["info"]["runtimeSpec"]["process"]["args"], json!(["/usr/sbin/nginx"]));
    let pid = inspected["info"]["pid"].as_i64().context("no pid")?;
    ensure!(std::path::Path::new(&format!("/proc/{pid}")).exists());
    ensure!(crictl(&["logs", &id])?.contains("serving"));
    ensure!(crictl(&["exec", "-s", &id, "cat", "/etc/hostname"]).is_ok());

    crictl(&["stop", &id])?;
    crictl(&["rm", &id])?;
    crictl(&["stopp", &pod_id])?;
    crictl(&["rmp", &pod_id])?;
    assert_eq!(crictl(&["pods", "-q"])?, "");
    // crictl takes the log along, unless asked to keep it.
    ensure!(!std::path::Path::new(&format!("/tmp/{name}.0.log")).exists());
    assert_eq!(node.residue(), [] as [String; 0]);
    Ok(())
}

#[test]
fn the_walk_through_under_runc() -> Result<()> {
    walk(&node!(), "runc")
}

#[test]
fn the_walk_through_under_crun() -> Result<()> {
    walk(&node!(), "crun")
}

#[test]
fn a_host_port_answers_on_loopback() -> Result<()> {
    let node = node!();
    let (_, container) = write_configs(&node, "unused")?;
    std::fs::create_dir(node.path("logs"))?;
    // The kernel picks a port that is free; portmap takes it a moment later.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let pod = json!({
        "metadata": {"name": "ports", "namespace": "default", "attempt": 1, "uid": "ports"},
        "log_directory": node.path("logs"), "linux": {},
        "port_mappings": [{"protocol": 0, "container_port": 80, "host_port": port}]
    });
    let pod_file = node.path("ports.json").to_string_lossy().into_owned();
    std::fs::write(&pod_file, pod.to_string())?;
    node.crictl(&["pull", "nginx"])?;
    let pod_id = node.crictl(&["runp", &pod_file])?.trim().to_string();
    let id = node.crictl(&["create", &pod_id, &container, &pod_file])?.trim().to_string();
    node.crictl(&["start", &id])?;
    ensure!(page(&format!("127.0.0.1:{port}"))?.contains("Welcome to nginx!"));
    node.crictl(&["rmp", "--force", &pod_id])?;
    ensure!(fetch(&format!("127.0.0.1:{port}")).is_err(), "the port answers after the pod is gone");
    assert_eq!(node.residue(), [] as [String; 0]);
    Ok(())
}
