//! An image's LABELs, of which only some may become a container's.
//!
//! Peers and tools find their own objects by label, so an image that carries such a label would pass for one
//! (CVE-2026-53488).

use std::collections::BTreeMap;

use oci_spec::image::ImageConfiguration;

/// What the labels of runtimes, of kubelet and of ours begin with.
const RESERVED: [&str; 7] = [
    "containerd.io/",
    "io.containerd.",
    "io.cri-containerd",
    "io.cri-o.",
    "io.cleat.",
    "io.kubernetes.",
    "org.opencontainers.image.ref.",
];
/// Key and value together, in bytes: containerd's limit for a label.
const MAX_BYTES: usize = 4096;

/// The labels of `image` that a container may carry, sorted; the rest is dropped.
pub fn labels(image: &ImageConfiguration) -> BTreeMap<String, String> {
    let all = image.labels_of_config().into_iter().flatten();
    all.filter(|(key, value)| allowed(key, value)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn allowed(key: &str, value: &str) -> bool {
    let lower = key.to_ascii_lowercase();
    !key.is_empty() && key.len() + value.len() <= MAX_BYTES && !RESERVED.iter().any(|r| lower.starts_with(r))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::fixture;

    #[test]
    fn reserved_and_oversized_labels_are_dropped() {
        let image = fixture::image(
            &serde_json::json!({"Labels": {
                "maintainer": "me",
                "io.cri-containerd.kind": "sandbox",
                "IO.Kubernetes.pod.name": "x",
                "containerd.io/gc.root": "x",
                "io.cleat.pod": "x",
                "": "x",
                "big": "x".repeat(4096),
            }})
            .to_string(),
        );
        assert_eq!(labels(&image).into_iter().collect::<Vec<_>>(), [("maintainer".into(), "me".into())]);
        assert!(labels(&fixture::image("{}")).is_empty());
    }
}
