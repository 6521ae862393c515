//! What plugins are told, in which order, and what is made of their answers.

use std::collections::BTreeMap;

use cleatd::cni::{Attachment, Bandwidth, Dns, PortMapping, Protocol};
use serde_json::json;

use crate::lab::{Lab, result};

#[tokio::test]
async fn plugins_run_in_order_each_with_the_result_before() {
    let lab = Lab::with("1.0.0", &["first", "second", "third"]);
    let (cni, pod) = (lab.open(), lab.pod());
    let attached = cni.add(&pod).await.expect("add");
    assert_eq!(lab.calls(), ["ADD first", "ADD second", "ADD third"]);
    assert_eq!(attached.ips, ["10.0.0.4".parse::<std::net::IpAddr>().expect("ip")]);
    assert_eq!(lab.request("first", "ADD"), json!({"name": "lab", "cniVersion": "1.0.0", "type": "first"}));
    assert_eq!(lab.request("third", "ADD")["prevResult"], result("1.0.0", 3), "fields of its own are kept");

    cni.check(&pod, &attached).await.expect("check");
    assert_eq!(lab.calls(), ["CHECK first", "CHECK second", "CHECK third"]);
    assert_eq!(lab.request("first", "CHECK")["prevResult"], result("1.0.0", 4));

    cni.del(&pod, Some(&attached)).await.expect("del");
    assert_eq!(lab.calls(), ["DEL third", "DEL second", "DEL first"]);
    assert_eq!(lab.request("first", "DEL")["prevResult"], result("1.0.0", 4));
    assert_eq!(lab.intents(), 0);
}

#[tokio::test]
async fn old_versions_get_what_they_know() {
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1"] {
        let lab = Lab::with(version, &["only"]);
        let (cni, pod) = (lab.open(), lab.pod());
        let attached = cni.add(&pod).await.expect("add");
        assert_eq!(attached.ips, ["10.0.0.2".parse::<std::net::IpAddr>().expect("ip")]);
        cni.check(&pod, &attached).await.expect("no CHECK below 0.4.0");
        cni.del(&pod, Some(&attached)).await.expect("del");
        assert_eq!(lab.calls(), ["ADD only", "DEL only"]);
        assert!(lab.request("only", "DEL").get("prevResult").is_none(), "{version}");
    }
}

#[tokio::test]
async fn check_can_be_switched_off() {
    let lab = Lab::with("1.0.0", &["only"]);
    let list = json!({"name": "lab", "cniVersion": "1.0.0", "disableCheck": true, "plugins": [{"type": "only"}]});
    lab.write("net.d/10.conflist", &list.to_string());
    let (cni, pod) = (lab.open(), lab.pod());
    let attached = cni.add(&pod).await.expect("add");
    cni.check(&pod, &attached).await.expect("check");
    assert_eq!(lab.calls(), ["ADD only"]);
}

#[tokio::test]
async fn the_environment_is_the_specifications_and_nothing_else() {
    let lab = Lab::with("1.0.0", &["only"]);
    let (cni, pod) = (lab.open(), lab.pod());
    cni.add(&pod).await.expect("add");
    let env = lab.read("only.ADD.env");
    let env: BTreeMap<&str, &str> = env.lines().filter_map(|line| line.split_once('=')).collect();
    let bin = lab.path("bin").display().to_string();
    assert_eq!(env["CNI_COMMAND"], "ADD");
    assert_eq!(env["CNI_CONTAINERID"], pod.id.as_str());
    assert_eq!(env["CNI_NETNS"], pod.netns.display().to_string());
    assert_eq!(env["CNI_IFNAME"], "eth0");
    assert_eq!(env["CNI_PATH"], format!("{}:{bin}", lab.path("nowhere").display()));
    let args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=u-1",
        pod.id
    );
    assert_eq!(env["CNI_ARGS"], args);
    // The shell adds the last three.
    let known = [
        "CNI_ARGS",
        "CNI_COMMAND",
        "CNI_CONTAINERID",
        "CNI_IFNAME",
        "CNI_NETNS",
        "CNI_PATH",
        "PATH",
        "PWD",
        "OLDPWD",
        "SHLVL",
        "_",
    ];
    let strangers: Vec<_> = env.keys().filter(|key| !known.contains(key)).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
}

#[tokio::test]
async fn a_plugin_is_told_the_capabilities_it_declares() {
    let lab = Lab::with("1.0.0", &["told", "untold"]);
    let all = [
        "portMappings",
        "bandwidth",
        "dns",
        "ips",
        "mac",
        "aliases",
        "cgroupPath",
        "io.kubernetes.cri.pod-annotations",
    ];
    let declared: serde_json::Map<_, _> = all.iter().map(|name| ((*name).to_owned(), true.into())).collect();
    let list = json!({"name": "lab", "cniVersion": "1.0.0",
        "plugins": [{"type": "told", "capabilities": declared}, {"type": "untold", "capabilities": {"dns": false}}]});
    lab.write("net.d/10.conflist", &list.to_string());
    let pod = Attachment {
        port_mappings: vec![PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: Protocol::Udp,
            host_ip: Some([127, 0, 0, 1].into()),
        }],
        bandwidth: Some(Bandwidth { ingress_bps: Some(1_000_000), ..Bandwidth::default() }),
        dns: Some(Dns {
            servers: vec!["10.0.0.53".into()],
            searches: vec!["shop.svc".into()],
            options: vec!["ndots:5".into()],
        }),
        ips: vec!["10.0.0.9/24".into()],
        mac: Some("02:00:00:00:00:01".into()),
        aliases: vec!["web".into()],
        cgroup_path: Some("/kubepods/pod1".into()),
        annotations: BTreeMap::from([("a".into(), "b".into())]),
        ..lab.pod()
    };
    let cni = lab.open();
    let attached = cni.add(&pod).await.expect("add");
    let expected = json!({
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": "127.0.0.1"}],
        "bandwidth": {"ingressRate": 1_000_000, "ingressBurst": 2_147_483_647},
        "dns": {"servers": ["10.0.0.53"], "searches": ["shop.svc"], "options": ["ndots:5"]},
        "ips": ["10.0.0.9/24"], "mac": "02:00:00:00:00:01", "aliases": ["web"], "cgroupPath": "/kubepods/pod1",
        "io.kubernetes.cri.pod-annotations": {"a": "b"},
    });
    assert_eq!(lab.request("told", "ADD")["runtimeConfig"], expected);
    assert!(lab.request("untold", "ADD").get("runtimeConfig").is_none());
    cni.del(&pod, Some(&attached)).await.expect("del");
    assert_eq!(lab.request("told", "DEL")["runtimeConfig"], expected, "DEL must find the same rules");
}

#[tokio::test]
async fn what_it_has_is_described_with_containerds_keys() {
    let lab = Lab::with("1.0.0", &["bridge"]);
    let cni = lab.open();
    let info = cni.describe();
    assert_eq!(info["PluginConfDir"], lab.path("net.d").display().to_string());
    assert_eq!(info["Networks"][0]["IFName"], "eth0");
    assert_eq!(info["Networks"][0]["Config"]["Name"], "lab");
    assert_eq!(info["Networks"][0]["Config"]["Plugins"][0]["Network"]["type"], "bridge");
    assert_eq!(cni.load_status(), "OK");
}
