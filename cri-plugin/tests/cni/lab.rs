//! A folder of scripted plugins, a configuration and a daemon's half of CNI over them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cleatd::cni::{Attachment, Cni};
use cleatd::config;
use cleatd::id::SandboxId;
use serde_json::{Value, json};

/// What a well-behaved script does first: it notes the call, its environment and its input.
const RECORD: &str = r#"#!/bin/sh
me=${0##*/}
echo "$CNI_COMMAND $me" >> "LAB/calls"
env > "LAB/$me.$CNI_COMMAND.env"
cat > "LAB/$me.$CNI_COMMAND.json"
"#;

/// One test's folder.
pub struct Lab {
    pub dir: tempfile::TempDir,
    pub config: config::Cni,
}

impl Lab {
    /// With no plugin and no configuration.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        for sub in ["net.d", "bin"] {
            std::fs::create_dir(dir.path().join(sub)).expect("mkdir");
        }
        let config = config::Cni {
            conf_dir: dir.path().join("net.d"),
            bin_dirs: vec![dir.path().join("nowhere"), dir.path().join("bin")],
            cache_dir: dir.path().join("cache"),
            timeout_secs: 20,
        };
        Self { dir, config }
    }

    /// With these plugins in a list of this version; each prints `10.0.0.N/24` on ADD.
    pub fn with(version: &str, plugins: &[&str]) -> Self {
        let lab = Self::new();
        for (n, plugin) in plugins.iter().enumerate() {
            lab.plugin(plugin, &format!("[ $CNI_COMMAND != ADD ] || echo '{}'", result(version, n as u8 + 2)));
        }
        let plugins: Vec<Value> = plugins.iter().map(|plugin| json!({ "type": plugin })).collect();
        lab.write("net.d/10.conflist", &json!({"name": "lab", "cniVersion": version, "plugins": plugins}).to_string());
        lab
    }

    /// A script that notes its call and then does `then`.
    pub fn plugin(&self, name: &str, then: &str) {
        self.script(name, &format!("{}{then}\n", RECORD));
    }

    /// A script; `LAB` in it is the lab's folder.
    pub fn script(&self, name: &str, text: &str) {
        let path = self.path("bin").join(name);
        let text = text.replace("LAB", self.dir.path().to_str().expect("utf-8"));
        // Another process writes the script: were it open for writing here, a child that a sibling test is just starting
        // could inherit that, and the kernel would refuse to execute the script (ETXTBSY).
        let part = self.path("part");
        std::fs::write(&part, text).expect("write");
        let installed = Command::new("install").args(["-m", "755"]).args([part, path]).status().expect("install");
        assert!(installed.success());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("write");
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// What a plugin read at a command.
    pub fn request(&self, plugin: &str, command: &str) -> Value {
        serde_json::from_str(&self.read(&format!("{plugin}.{command}.json"))).expect("JSON on standard input")
    }

    /// The calls since the last time, in their order, without STATUS, which comes when it likes.
    pub fn calls(&self) -> Vec<String> {
        let calls = self.read("calls");
        let calls = calls.lines().filter(|call| !call.starts_with("STATUS")).map(str::to_owned).collect();
        let _ = std::fs::remove_file(self.path("calls"));
        calls
    }

    pub fn open(&self) -> Arc<Cni> {
        Cni::open(&self.config).expect("open")
    }

    /// A pod whose namespace is a file that is none.
    pub fn pod(&self) -> Attachment {
        let id = SandboxId::random().expect("random");
        Attachment {
            name: "web".into(),
            namespace: "shop".into(),
            uid: "u-1".into(),
            ..Attachment::new(id, self.path("netns"))
        }
    }

    /// The files that note what was begun.
    pub fn intents(&self) -> usize {
        std::fs::read_dir(self.path("cache")).map_or(0, |dir| dir.count())
    }
}

/// A plugin's result with the pod's address 10.0.0.N.
pub fn result(version: &str, n: u8) -> Value {
    match version {
        "0.1.0" | "0.2.0" => json!({"cniVersion": version, "ip4": {"ip": format!("10.0.0.{n}/24")}}),
        _ => json!({"cniVersion": version, "ips": [{"address": format!("10.0.0.{n}/24"), "version": "4"}], "note": n}),
    }
}

/// Waits until `done`, for what happens behind an inotify watch or in another process.
pub async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        // Well below the rounds in which the folder is read without a watch.
        assert!(start.elapsed() < Duration::from_secs(4), "not within 4 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process is there and no zombie.
pub fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}
