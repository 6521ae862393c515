use proptest::prelude::*;
use serde_json::json;

use super::*;

fn digest(seed: &str) -> String {
    Digest::of(seed.as_bytes()).to_string()
}

fn manifest_json(config_type: &str, layer_type: &str) -> serde_json::Value {
    json!({
        "schemaVersion": 2,
        "config": {"mediaType": config_type, "digest": digest("config"), "size": 7},
        "layers": [{"mediaType": layer_type, "digest": digest("layer"), "size": 9}],
    })
}

fn entry(os: &str, arch: &str, variant: Option<&str>) -> serde_json::Value {
    let name = format!("{os}/{arch}/{variant:?}");
    json!({"mediaType": OCI_MANIFEST, "digest": digest(&name), "size": 1,
           "platform": {"os": os, "architecture": arch, "variant": variant}})
}

fn parse_value(value: &serde_json::Value, served: &str) -> Result<Document> {
    parse(value.to_string().as_bytes(), Some(served), None)
}

const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

#[test]
fn docker_and_oci_manifests_are_read() {
    let docker = manifest_json(
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    );
    for (value, served) in [(manifest_json(OCI_CONFIG, OCI_LAYER), OCI_MANIFEST), (docker, DOCKER_MANIFEST)] {
        let Document::Manifest(m) = parse_value(&value, served).expect(served) else { panic!("no manifest") };
        assert_eq!((m.config.size_bytes, m.layers.len()), (7, 1));
    }
}

#[test]
fn a_document_that_could_be_two_things_is_refused() {
    let mut both = manifest_json(OCI_CONFIG, OCI_LAYER);
    both["manifests"] = json!([]);
    assert!(parse_value(&both, OCI_MANIFEST).is_err());
    assert!(parse_value(&both, OCI_INDEX).is_err());
    let plain = manifest_json(OCI_CONFIG, OCI_LAYER);
    assert!(parse_value(&plain, OCI_INDEX).is_err());
    let mut lying = plain.clone();
    lying["mediaType"] = json!(OCI_INDEX);
    let e = parse_value(&lying, OCI_MANIFEST).expect_err("types differ").to_string();
    assert!(e.contains(OCI_INDEX) && e.contains(OCI_MANIFEST), "{e}");
    let text = plain.to_string();
    assert!(parse(text.as_bytes(), Some(OCI_MANIFEST), Some(DOCKER_MANIFEST)).is_err());
    assert!(parse(text.as_bytes(), None, None).is_err());
    assert!(parse(text.as_bytes(), Some("application/json; charset=utf-8"), Some(OCI_MANIFEST)).is_ok());
    let doubled = text.replacen('{', "{\"layers\":[],", 1);
    assert!(parse(doubled.as_bytes(), Some(OCI_MANIFEST), None).is_err(), "a key twice");
}

#[test]
fn schema_1_and_artifacts_are_refused_by_name() {
    let old = json!({"schemaVersion": 1, "fsLayers": [], "history": []});
    let e = parse_value(&old, "application/vnd.docker.distribution.manifest.v1+prettyjws").expect_err("old");
    assert!(e.to_string().contains("schema 1"), "{e}");
    let chart = manifest_json("application/vnd.cncf.helm.config.v1+json", OCI_LAYER);
    let e = parse_value(&chart, OCI_MANIFEST).expect_err("artifact").to_string();
    assert!(e.contains("helm"), "{e}");
    let e = parse_value(&manifest_json(OCI_CONFIG, "text/x"), OCI_MANIFEST).expect_err("layer").to_string();
    assert!(e.contains("text/x"), "{e}");
}

#[test]
fn bad_digests_sizes_and_depth_are_refused() {
    let mut bad = manifest_json(OCI_CONFIG, OCI_LAYER);
    bad["config"]["digest"] = json!("sha256:../../x");
    assert!(parse_value(&bad, OCI_MANIFEST).is_err());
    let mut negative = manifest_json(OCI_CONFIG, OCI_LAYER);
    negative["config"]["size"] = json!(-1);
    assert!(parse_value(&negative, OCI_MANIFEST).is_err());
    let deep = format!("{{\"x\":{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse(deep.as_bytes(), Some(OCI_MANIFEST), None).is_err());
    let large = vec![b' '; MAX_DOCUMENT_BYTES as usize + 1];
    assert!(parse(&large, Some(OCI_MANIFEST), None).expect_err("large").to_string().contains("larger"));
}

fn chosen(host: &Platform, entries: Vec<serde_json::Value>) -> Result<String> {
    let index = json!({"schemaVersion": 2, "manifests": entries});
    let Document::Index(entries) = parse_value(&index, OCI_INDEX).expect("index") else { panic!("no index") };
    choose(&entries, host).map(|e| e.platform.as_ref().map_or("none".into(), Platform::to_string))
}

#[test]
fn the_entry_for_this_machine_is_chosen() {
    let host =
        |arch: &str, v: &str| Platform { os: "linux".into(), architecture: arch.into(), variant: Some(v.into()) };
    let foreign = || vec![entry("windows", "amd64", None), entry("linux", "arm64", Some("v8"))];
    let with = |more: Vec<serde_json::Value>| [foreign(), more].concat();
    let amd = host("amd64", "v3");
    assert_eq!(chosen(&amd, with(vec![entry("linux", "amd64", None)])).expect("plain"), "linux/amd64");
    let levels = vec![entry("linux", "amd64", Some("v4")), entry("linux", "amd64", Some("v2"))];
    assert_eq!(chosen(&amd, with(levels.clone())).expect("level"), "linux/amd64/v2");
    assert!(chosen(&host("amd64", "v1"), with(levels)).is_err());
    let arms =
        vec![entry("linux", "arm", Some("v6")), entry("linux", "arm", Some("v7")), entry("linux", "arm", Some("v8"))];
    assert_eq!(chosen(&host("arm", "v7"), arms).expect("arm"), "linux/arm/v7");
    let mut bare = entry("linux", "amd64", None);
    bare.as_object_mut().expect("object").remove("platform");
    assert_eq!(chosen(&amd, with(vec![bare])).expect("bare"), "none");
    let e = chosen(&amd, foreign()).expect_err("foreign only").to_string();
    assert!(e.contains("linux/amd64") && e.contains("linux/arm64/v8"), "{e}");
}

#[test]
fn attestations_are_passed_over() {
    let mut attestation = entry("linux", "amd64", None);
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let unknown = entry("unknown", "unknown", None);
    let host = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
    assert!(chosen(&host, vec![unknown, attestation]).is_err());
}

#[test]
fn a_config_must_fit_its_manifest_and_the_machine() {
    let value = manifest_json(OCI_CONFIG, OCI_LAYER);
    let Document::Manifest(manifest) = parse_value(&value, OCI_MANIFEST).expect("manifest") else { panic!() };
    let host = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
    let config = |arch: &str, diff_ids: &[String]| {
        json!({"os": "linux", "architecture": arch, "rootfs": {"type": "layers", "diff_ids": diff_ids},
               "config": {"User": "7:8", "Labels": {"a": "b"}, "Volumes": null, "Env": null}})
        .to_string()
    };
    let good = summary(config("amd64", &[digest("d")]).as_bytes(), &manifest, &host).expect("config");
    assert_eq!((good.user.as_str(), good.labels.len()), ("7:8", 1));
    for (arch, ids, why) in
        [("arm64", vec![digest("d")], "arm64"), ("amd64", vec![], "lists 0"), ("amd64", vec!["x".into()], "digest")]
    {
        let e = summary(config(arch, &ids).as_bytes(), &manifest, &host).expect_err(why).to_string();
        assert!(e.contains(why), "{e}");
    }
}

#[test]
fn chain_ids_are_those_of_the_specification() {
    let diff_ids: Vec<Digest> = ["a", "b", "c"].iter().map(|s| Digest::of(s.as_bytes())).collect();
    let chain = chain_ids(&diff_ids);
    assert_eq!(chain[0], diff_ids[0]);
    assert_eq!(chain[1], Digest::of(format!("{} {}", diff_ids[0], diff_ids[1]).as_bytes()));
    assert_eq!(chain[2], Digest::of(format!("{} {}", chain[1], diff_ids[2]).as_bytes()));
}

proptest! {
    #[test]
    fn any_bytes_parse_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes, Some(OCI_MANIFEST), None);
    }
}
