//! How far pulls are: for the log of a long one, and for whoever asks why a pod does not start.
//!
//! A blob has one meter, however many pulls wait for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::layer::Layer;
use crate::images::digest::Digest;

/// A pull that takes longer says so, again and again.
const TOLD_EVERY: Duration = Duration::from_secs(15);

/// How far one pull is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The image, normalised.
    pub reference: String,
    /// Since when.
    pub started: Instant,
    /// Compressed bytes that are here.
    pub here_bytes: u64,
    /// Compressed bytes of all layers.
    pub total_bytes: u64,
}

/// All meters and pulls of a node.
#[derive(Debug, Default)]
pub struct Meters {
    blobs: Mutex<HashMap<Digest, Weak<Meter>>>,
    pulls: Mutex<Vec<Weak<Running>>>,
}

/// How much of a blob is here.
#[derive(Debug)]
pub struct Meter {
    size_bytes: u64,
    here_bytes: AtomicU64,
}

/// A pull under way; gone when it is dropped.
#[derive(Debug)]
pub struct Running {
    reference: String,
    started: Instant,
    meters: Vec<Arc<Meter>>,
}

impl Meter {
    /// So much more came; a blob that is fetched a second time stays at its size.
    pub fn add(&self, bytes: usize) {
        self.here_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// It is all here.
    pub fn fill(&self) {
        self.here_bytes.store(self.size_bytes, Ordering::Relaxed);
    }

    fn here_bytes(&self) -> u64 {
        self.here_bytes.load(Ordering::Relaxed).min(self.size_bytes)
    }
}

impl Meters {
    /// The meter of a layer's blob.
    pub fn of(&self, layer: &Layer) -> Arc<Meter> {
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(meter) = blobs.get(&layer.blob.digest).and_then(Weak::upgrade) {
            return meter;
        }
        let meter = Arc::new(Meter { size_bytes: layer.blob.size_bytes, here_bytes: AtomicU64::new(0) });
        blobs.retain(|_, meter| meter.strong_count() > 0);
        blobs.insert(layer.blob.digest.clone(), Arc::downgrade(&meter));
        meter
    }

    /// Notes a pull of these layers.
    pub fn start(&self, reference: String, layers: &[Arc<Layer>]) -> Arc<Running> {
        let meters = layers.iter().map(|layer| self.of(layer)).collect();
        let running = Arc::new(Running { reference, started: Instant::now(), meters });
        let mut pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        pulls.retain(|pull| pull.strong_count() > 0);
        pulls.push(Arc::downgrade(&running));
        running
    }

    /// All pulls under way, the oldest first.
    pub fn progress(&self) -> Vec<Progress> {
        let pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        pulls.iter().filter_map(Weak::upgrade).map(|pull| pull.progress()).collect()
    }
}

impl Running {
    fn progress(&self) -> Progress {
        Progress {
            reference: self.reference.clone(),
            started: self.started,
            here_bytes: self.meters.iter().map(|meter| meter.here_bytes()).sum(),
            total_bytes: self.meters.iter().map(|meter| meter.size_bytes).sum(),
        }
    }

    /// Tells the log from time to time how far the pull is; never ends.
    pub async fn tell(&self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(TOLD_EVERY).await;
            let Progress { reference, started, here_bytes, total_bytes } = self.progress();
            tracing::info!(image = reference, here_bytes, total_bytes, since = ?started.elapsed(), "still pulling");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::manifest::Descriptor;

    fn layer(seed: &str, size: u64) -> Arc<Layer> {
        let digest = Digest::of(seed.as_bytes());
        let text = format!(r#"{{"mediaType":"x","digest":"{digest}","size":{size}}}"#);
        let blob: Descriptor = serde_json::from_str(&text).expect("descriptor");
        Arc::new(Layer { blob, diff_id: digest.clone(), chain_id: digest, below: None })
    }

    #[test]
    fn a_shared_blob_counts_for_every_pull_and_a_finished_pull_for_none() {
        let meters = Meters::default();
        let (base, own) = (layer("base", 100), layer("own", 50));
        let one = meters.start("one".into(), &[Arc::clone(&base), own]);
        let two = meters.start("two".into(), std::slice::from_ref(&base));
        meters.of(&base).add(60);
        let far = |meters: &Meters| {
            meters.progress().into_iter().map(|p| (p.reference, p.here_bytes, p.total_bytes)).collect::<Vec<_>>()
        };
        assert_eq!(far(&meters), [("one".to_string(), 60, 150), ("two".to_string(), 60, 100)]);
        meters.of(&base).add(60);
        drop(one);
        assert_eq!(far(&meters), [("two".to_string(), 100, 100)]);
        drop(two);
        assert_eq!(far(&meters), []);
    }
}
