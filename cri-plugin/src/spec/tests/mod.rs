//! What the tests of `spec` share, and the tests that look at whole specs.

pub mod fixture;
mod golden;
mod live;

use std::path::{Path, PathBuf};

use super::{Features, clean};

#[test]
fn clean_is_lexical() {
    for (given, wanted) in [
        ("/", Some("/")),
        ("/a//b/./c/", Some("/a/b/c")),
        ("/a/../../b", Some("/b")),
        ("/..", Some("/")),
        ("a", None),
        ("", None),
    ] {
        assert_eq!(clean(Path::new(given)), wanted.map(PathBuf::from), "{given:?}");
    }
}

#[test]
fn features_come_from_the_runtimes_own_words() {
    let json = r#"{"ociVersionMin":"1.0.0","ociVersionMax":"1.2.0","mountOptions":["ro","rro"],
        "linux":{"mountExtensions":{"idmap":{"enabled":true}}}}"#;
    let parsed: oci_spec::runtime::Features = serde_json::from_str(json).expect("features");
    assert_eq!(Features::from(&parsed), Features { recursive_read_only: true, idmapped_mounts: true });
    let none: oci_spec::runtime::Features =
        serde_json::from_str(r#"{"ociVersionMin":"1.0.0","ociVersionMax":"1.0.2"}"#).expect("features");
    assert_eq!(Features::from(&none), Features::default());
}
