//! One registry for all nodes of a test binary, filled by `hack/images`.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::Result;
use tempfile::TempDir;

use crate::script::hack;

/// A registry on loopback. Ends with the last clone of its `Arc`, unless `CLEAT_REGISTRY` named one that runs anyway.
pub struct Registry {
    url: String,
    /// Present where it was started here.
    dir: Option<TempDir>,
}

static SHARED: Mutex<Weak<Registry>> = Mutex::new(Weak::new());

impl Registry {
    /// The registry of this process, started and filled if need be. Blocks.
    ///
    /// # Errors
    /// When it does not start or the images cannot be made.
    pub fn shared() -> Result<Arc<Self>> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(registry) = shared.upgrade() {
            return Ok(registry);
        }
        let registry = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&registry);
        Ok(registry)
    }

    fn start() -> Result<Self> {
        if let Ok(url) = std::env::var("CLEAT_REGISTRY") {
            return Ok(Self { url, dir: None });
        }
        let dir = tempfile::Builder::new().prefix("cleat-registry.").tempdir()?;
        let url = hack("registry", &["start", &dir.path().to_string_lossy()])?.trim().to_string();
        let registry = Self { url, dir: Some(dir) };
        hack("images", &[&registry.url])?;
        Ok(registry)
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let Some(dir) = &self.dir else { return };
        if let Err(e) = hack("registry", &["stop", &dir.path().to_string_lossy()]) {
            eprintln!("the registry of the tests was not stopped: {e:#}");
        }
    }
}
