//! The reference plugins, on a bridge, a subnet and a data folder of the test's own.
//!
//! What they take for the host is a network namespace of the test's thread, whence the plugins are started: bridges and
//! iptables rules (`portmap` never removes its top chains) go with it, and tests side by side cannot meet.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use cleatd::cni::{Attachment, PortMapping, Protocol};
use cleatd::netns;
use serde_json::{Value, json};

use crate::lab::Lab;

const BIN: &str = "/usr/lib/cni";

/// Of the test's own host.
const BRIDGE: &str = "cleat-test0";

/// Whether the plugins can run here; says so if not.
fn allowed(test: &str, plugins: &[&str]) -> bool {
    let missing = plugins.iter().find(|plugin| !Path::new(BIN).join(plugin).is_file());
    let reason = match missing {
        Some(plugin) => format!("no {BIN}/{plugin}"),
        None if !rustix::process::geteuid().is_root() => "not root".into(),
        None => return true,
    };
    println!("SKIP {test}: {reason}");
    false
}

fn output(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().expect(program);
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// The host's ends of the pods' pairs.
fn ports() -> usize {
    output("ip", &["-o", "link", "show", "master", BRIDGE]).lines().count()
}

/// A lab with the reference plugins, on a host of its own.
fn lab(more: &[Value]) -> Lab {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("unshare");
    output("ip", &["link", "set", "lo", "up"]);
    let mut lab = Lab::new();
    lab.config.bin_dirs = vec![BIN.into()];
    let mut plugins = vec![json!({
        "type": "bridge", "bridge": BRIDGE, "isGateway": true,
        "ipam": {"type": "host-local", "dataDir": lab.path("ipam"),
                 "ranges": [[{"subnet": "10.217.1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]},
    })];
    plugins.extend_from_slice(more);
    lab.write("net.d/10.conflist", &json!({"name": "lab", "cniVersion": "1.0.0", "plugins": plugins}).to_string());
    lab
}

/// The addresses that host-local holds to be in use.
fn leases(lab: &Lab) -> Vec<String> {
    let Ok(dir) = std::fs::read_dir(lab.path("ipam/lab")) else { return Vec::new() };
    let names = dir.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("10.")).collect()
}

#[tokio::test]
async fn a_bridge_gives_and_takes_an_address() {
    if !allowed("a_bridge_gives_and_takes_an_address", &["bridge", "host-local"]) {
        return;
    }
    let lab = lab(&[]);
    let (cni, pod) = (lab.open(), lab.pod());
    netns::create(&pod.netns).expect("netns");
    let attached = cni.add(&pod).await.expect("add");
    let ip = attached.ips[0].to_string();
    assert!(ip.starts_with("10.217.1."), "{ip}");
    let inside = output("nsenter", &[&format!("--net={}", pod.netns.display()), "ip", "-4", "addr", "show", "eth0"]);
    assert!(inside.contains(&format!("{ip}/24")), "{inside}");
    assert_eq!(ports(), 1);
    assert_eq!(leases(&lab), [ip]);
    cni.check(&pod, &attached).await.expect("check");

    cni.del(&pod, Some(&attached)).await.expect("del");
    assert_eq!(ports(), 0);
    assert_eq!(leases(&lab), Vec::<String>::new());
    cni.check(&pod, &attached).await.expect_err("there is nothing to find any more");
    cni.del(&pod, Some(&attached)).await.expect("again");
    netns::remove(&pod.netns).expect("remove");
}

#[tokio::test]
async fn the_address_is_freed_when_the_namespace_is_gone() {
    if !allowed("the_address_is_freed_when_the_namespace_is_gone", &["bridge", "host-local"]) {
        return;
    }
    let lab = lab(&[]);
    let (cni, pod, unmounted) = (lab.open(), lab.pod(), Attachment { netns: lab.path("other"), ..lab.pod() });
    for pod in [&pod, &unmounted] {
        netns::create(&pod.netns).expect("netns");
        cni.add(pod).await.expect("add");
    }
    assert_eq!(leases(&lab).len(), 2);
    netns::remove(&pod.netns).expect("remove");
    assert!(Command::new("umount").arg(&unmounted.netns).status().expect("umount").success());
    assert!(unmounted.netns.exists() && !netns::exists(&unmounted.netns));
    // The daemon died before it stored a result.
    for pod in [&pod, &unmounted] {
        lab.open().del(pod, None).await.expect("del");
    }
    assert_eq!(leases(&lab), Vec::<String>::new());
}

#[tokio::test]
async fn a_failed_chain_leaves_no_address_behind() {
    if !allowed("a_failed_chain_leaves_no_address_behind", &["bridge", "host-local"]) {
        return;
    }
    let mut lab = lab(&[json!({"type": "refuses"})]);
    lab.config.bin_dirs.push(lab.path("bin"));
    lab.script("refuses", "#!/bin/sh\n[ $CNI_COMMAND != ADD ]\n");
    let (cni, pod) = (lab.open(), lab.pod());
    netns::create(&pod.netns).expect("netns");
    let error = cni.add(&pod).await.expect_err("refused").to_string();
    assert!(error.contains("CNI refuses ADD"), "{error}");
    assert_eq!((ports(), leases(&lab)), (0, Vec::new()));
    netns::remove(&pod.netns).expect("remove");
}

#[tokio::test]
async fn a_host_port_leads_to_the_pod() {
    let test = "a_host_port_leads_to_the_pod";
    if !allowed(test, &["bridge", "host-local", "portmap"]) {
        return;
    }
    if !Command::new("iptables").args(["-w", "-t", "nat", "-S"]).output().is_ok_and(|out| out.status.success()) {
        return println!("SKIP {test}: iptables has no nat table here");
    }
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true});
    let lab = lab(&[portmap]);
    let host_port = 8080;
    let mapping = PortMapping { host_port, container_port: 80, protocol: Protocol::Tcp, host_ip: None };
    let (cni, pod) = (lab.open(), Attachment { port_mappings: vec![mapping], ..lab.pod() });
    netns::create(&pod.netns).expect("netns");
    let attached = cni.add(&pod).await.expect("add");
    let rules = || output("iptables", &["-w", "-t", "nat", "-S"]);
    let dnat = format!("--to-destination {}:80", attached.ips[0]);
    assert!(rules().contains(&dnat), "{}", rules());
    let greeting = ask_through(&pod, host_port);

    cni.del(&pod, Some(&attached)).await.expect("del");
    assert!(!rules().contains(&dnat), "{}", rules());
    assert_eq!(leases(&lab), Vec::<String>::new());
    netns::remove(&pod.netns).expect("remove");
    assert_eq!(greeting, "hello from the pod");
}

/// Serves one connection on port 80 inside the pod and reads it through the bridge's address on the host.
fn ask_through(pod: &Attachment, host_port: u16) -> String {
    let inside = netns::open(&pod.netns).expect("open");
    let (ready, listens) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        nix::sched::setns(inside, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).expect("bind");
        ready.send(()).expect("send");
        listener.accept().expect("accept").0.write_all(b"hello from the pod").expect("write");
    });
    listens.recv().expect("the pod listens");
    let addresses = output("ip", &["-4", "-o", "addr", "show", BRIDGE]);
    let gateway = addresses.split_whitespace().find_map(|word| word.strip_suffix("/24")).expect("gateway");
    let address = format!("{gateway}:{host_port}").parse().expect("address");
    let mut stream = TcpStream::connect_timeout(&address, std::time::Duration::from_secs(5)).expect("connect");
    let mut greeting = String::new();
    stream.read_to_string(&mut greeting).expect("read");
    server.join().expect("server");
    greeting
}
