//! Images made here: tars, compressed or not, with their config, manifest and index.

use std::collections::BTreeMap;
use std::io::Write;

use cleatd::images::digest::Digest;
use serde_json::{Value, json};

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

#[derive(Clone, Copy, PartialEq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Flavour {
    Oci,
    Docker,
}

/// A layer and how it is announced.
#[derive(Clone)]
pub struct Layer {
    pub blob: Vec<u8>,
    pub diff_id: Digest,
    compression: Compression,
}

/// A document or blob with the digest it is served under.
#[derive(Clone)]
pub struct Image {
    /// Config and layers.
    pub blobs: BTreeMap<Digest, Vec<u8>>,
    pub config: Digest,
    pub manifest: Vec<u8>,
    pub media_type: &'static str,
    pub layers: Vec<Digest>,
}

impl Image {
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }
}

/// A layer of regular files; a name that ends in `/` is a directory.
pub fn layer(files: &[(&str, &[u8])], compression: Compression) -> Layer {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        let is_dir = name.ends_with('/');
        header.set_entry_type(if is_dir { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_mode(if is_dir { 0o755 } else { 0o644 });
        header.set_size(content.len() as u64);
        header.set_mtime(1_700_000_000);
        tar.append_data(&mut header, name, *content).expect("append");
    }
    of_tar(tar.into_inner().expect("tar"), compression)
}

/// A layer of these bytes, whether they are a tar or not.
pub fn of_tar(tar: Vec<u8>, compression: Compression) -> Layer {
    let diff_id = Digest::of(&tar);
    let blob = match compression {
        Compression::None => tar,
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&tar).expect("gzip");
            encoder.finish().expect("gzip")
        }
        Compression::Zstd => zstd::encode_all(&tar[..], 1).expect("zstd"),
    };
    Layer { blob, diff_id, compression }
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(len).collect()
}

fn layer_type(flavour: Flavour, compression: Compression) -> String {
    let (base, separator) = match flavour {
        Flavour::Oci => ("application/vnd.oci.image.layer.v1.tar", "+"),
        Flavour::Docker => ("application/vnd.docker.image.rootfs.diff.tar", "."),
    };
    match compression {
        Compression::None => base.to_string(),
        Compression::Gzip => format!("{base}{separator}gzip"),
        Compression::Zstd => format!("{base}{separator}zstd"),
    }
}

/// An image of `layers` whose config has a few words besides.
pub fn image(flavour: Flavour, layers: &[Layer], words: Value) -> Image {
    let diff_ids: Vec<&Digest> = layers.iter().map(|l| &l.diff_id).collect();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "os": "linux", "architecture": architecture, "config": words,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string().into_bytes();
    let (media_type, config_type) = match flavour {
        Flavour::Oci => (OCI_MANIFEST, "application/vnd.oci.image.config.v1+json"),
        Flavour::Docker => (DOCKER_MANIFEST, "application/vnd.docker.container.image.v1+json"),
    };
    let descriptors: Vec<Value> = layers
        .iter()
        .map(|l| {
            json!({"mediaType": layer_type(flavour, l.compression), "digest": Digest::of(&l.blob),
                   "size": l.blob.len()})
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type, "layers": descriptors,
        "config": {"mediaType": config_type, "digest": Digest::of(&config), "size": config.len()},
    });
    let mut blobs: BTreeMap<Digest, Vec<u8>> = layers.iter().map(|l| (Digest::of(&l.blob), l.blob.clone())).collect();
    let config_digest = Digest::of(&config);
    blobs.insert(config_digest.clone(), config);
    Image {
        blobs,
        config: config_digest,
        manifest: manifest.to_string().into_bytes(),
        media_type,
        layers: layers.iter().map(|l| Digest::of(&l.blob)).collect(),
    }
}

/// An index of images, each with the platform it is announced for.
pub fn index(media_type: &'static str, images: &[(&Image, &str, &str)]) -> Vec<u8> {
    let entry = |(image, os, architecture): &(&Image, &str, &str)| {
        json!({"mediaType": image.media_type, "digest": image.digest(), "size": image.manifest.len(),
               "platform": {"os": os, "architecture": architecture}})
    };
    let entries: Vec<Value> = images.iter().map(entry).collect();
    json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).to_string().into_bytes()
}
