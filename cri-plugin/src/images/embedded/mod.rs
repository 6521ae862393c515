//! Our own content store, registry client and unpacking: the default way to have images.

mod accounts;
mod collect;
mod content;
mod flights;
mod layer;
mod leases;
mod node;
mod pins;
mod progress;
mod pull;
mod store;
mod stream;

use std::sync::Arc;

use async_trait::async_trait;
use cleat_snapshots::Snapshotter;

use super::{Image, ImageId, Images, Pull, Rootfs, Usage};
use crate::Result;
use crate::blocking;
use crate::config::Config;
use node::Node;
use pins::Pins;
pub use progress::Progress;

/// Images below the daemon's root.
pub struct Embedded {
    node: Arc<Node>,
    pins: Pins,
}

impl Embedded {
    /// Opens the images below `config.root` and repairs what a crash left. Blocks.
    ///
    /// # Errors
    /// `Io` and `Failed`; another process that has the images open among them. Never for one image's sake.
    pub fn open(config: &Config, snapshotter: Arc<dyn Snapshotter>) -> Result<Arc<Self>> {
        let pins = Pins::new(&config.images.pinned)?;
        let node = Arc::new(Node::open(config, snapshotter)?);
        collect::repair(&node)?;
        Ok(Arc::new(Self { node, pins }))
    }

    /// How far the pulls under way are, the oldest first.
    pub fn progress(&self) -> Vec<Progress> {
        self.node.meters.progress()
    }
}

#[async_trait]
impl Images for Embedded {
    async fn pull(&self, request: Pull) -> Result<ImageId> {
        let wanted = pull::Wanted { reference: request.reference.parse()?, auth: request.auth };
        let work = || pull::run(Arc::clone(&self.node), wanted.clone());
        self.node.pulls.join(&wanted, work).await.result
    }

    async fn get(&self, name: &str) -> Result<Option<Image>> {
        let index = self.node.store.index();
        Ok(index.find(name)?.map(|record| self.pins.mark(index.image(record))))
    }

    async fn list(&self) -> Result<Vec<Image>> {
        Ok(self.node.store.index().all().into_iter().map(|image| self.pins.mark(image)).collect())
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let found = self.node.store.index().find(name)?.map(|record| record.id.clone());
        let Some(id) = found else { return Ok(()) };
        let node = Arc::clone(&self.node);
        blocking(move || {
            node.store.remove(&id)?;
            node.forget(Some(&id));
            tracing::info!(image = %id, "removed");
            // The image is gone; what cannot be freed now is tried again later.
            if let Err(e) = collect::collect(&node, None) {
                tracing::warn!(image = %id, error = %e, "its blobs and layers could not all be removed");
            }
            Ok(())
        })
        .await
    }

    async fn rootfs(&self, id: &ImageId) -> Result<Rootfs> {
        if let Some(rootfs) = self.node.known_rootfs(id) {
            return Ok(rootfs);
        }
        let (node, id) = (Arc::clone(&self.node), id.clone());
        blocking(move || node.read_rootfs(&id)).await
    }

    async fn usage(&self) -> Result<Usage> {
        let node = Arc::clone(&self.node);
        blocking(move || node.usage()).await
    }

    /// Layers that containers stood on when their image was removed wait an hour more: a pull may want them again.
    async fn collect(&self) -> Result<()> {
        let node = Arc::clone(&self.node);
        blocking(move || collect::collect(&node, Some(collect::GRACE))).await
    }
}
