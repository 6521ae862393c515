//! Images that kubelet's garbage collection is to leave alone, by the names the configuration gives.

use crate::images::Image;
use crate::images::reference::Reference;
use crate::{Error, Result};

/// The configured names.
#[derive(Debug, Default)]
pub struct Pins {
    exact: Vec<String>,
    /// Normalised, without the `*` at their end.
    prefixes: Vec<String>,
}

impl Pins {
    /// Of references, or of beginnings of normalised ones with a `*` at their end.
    ///
    /// # Errors
    /// `Invalid` for what is neither.
    pub fn new(names: &[String]) -> Result<Self> {
        let mut pins = Self::default();
        for name in names {
            match name.strip_suffix('*') {
                Some(prefix) => pins.prefixes.push(prefix.to_string()),
                None => {
                    let reference: Reference =
                        name.parse().map_err(|e: Error| Error::invalid("images.pinned", e.to_string()))?;
                    pins.exact.push(reference.to_string());
                }
            }
        }
        Ok(pins)
    }

    /// Marks an image that has such a name.
    pub fn mark(&self, mut image: Image) -> Image {
        let mut names = image.repo_tags.iter().chain(&image.repo_digests);
        image.pinned = names.any(|name| self.exact.contains(name) || self.prefixes.iter().any(|p| name.starts_with(p)));
        image
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::ImageId;
    use crate::images::digest::Digest;

    #[test]
    fn names_pin_images() {
        let pins = Pins::new(&["nginx".into(), "registry.k8s.io/pause*".into()]).expect("pins");
        for (tag, pinned) in [
            ("docker.io/library/nginx:latest", true),
            ("docker.io/library/nginx:1", false),
            ("registry.k8s.io/pause:3.10", true),
            ("registry.k8s.io/etcd:3", false),
        ] {
            let image = Image {
                id: ImageId::new(Digest::of(b"")),
                repo_tags: vec![tag.into()],
                repo_digests: vec![],
                size_bytes: 1,
                user: None,
                pinned: false,
                labels: Default::default(),
            };
            assert_eq!(pins.mark(image).pinned, pinned, "{tag}");
        }
        assert!(Pins::new(&["A b".into()]).is_err());
    }
}
