//! What the OCI runtimes say they can do: `RUNTIME features`, asked once per handler and kept.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};

use crate::config::Config;
use crate::spec::Features;

/// The answers, by handler; asked in the background from the start, so that nobody waits for them later.
#[derive(Default)]
pub(crate) struct Asked(BTreeMap<String, Arc<OnceLock<Features>>>);

impl Asked {
    pub(crate) fn new(config: &Config) -> Self {
        let asked: BTreeMap<_, Arc<OnceLock<Features>>> =
            config.runtimes.keys().map(|name| (name.clone(), Arc::default())).collect();
        for (name, answer) in &asked {
            if let Some(runtime) = config.runtimes.get(name) {
                let (answer, binary) = (answer.clone(), runtime.binary.clone());
                std::thread::spawn(move || answer.get_or_init(|| ask(&binary)).to_owned());
            }
        }
        Self(asked)
    }

    /// Of a handler by its own name; nothing for one that is unknown. Waits for an answer still being asked for.
    pub(crate) fn of(&self, handler: &str) -> Features {
        self.0.get(handler).map(|answer| *answer.wait()).unwrap_or_default()
    }
}

/// A runtime without the command, like crun before 1.9, has none of the features.
fn ask(binary: &str) -> Features {
    let output = Command::new(binary).arg("features").stdin(Stdio::null()).stderr(Stdio::null()).output();
    let parsed = output.ok().and_then(|o| serde_json::from_slice::<oci_spec::runtime::Features>(&o.stdout).ok());
    parsed.as_ref().map(Features::from).unwrap_or_default()
}
