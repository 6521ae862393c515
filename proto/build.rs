//! Generates the Rust types of `proto/` with pure Rust parsers: nobody who builds Cleat needs protoc.
//!
//! Only what the enabled features ask for is generated, so a build without `grpc` pays for no service.

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use protox::Compiler;
use protox::prost_reflect::prost_types::field_descriptor_proto::Type;
use protox::prost_reflect::prost_types::{DescriptorProto, FileDescriptorSet};

const ROOT: &str = "proto";
const CRI: &str = "cri/v1/api.proto";
const SHIM: &str = "proto/shim/v1/io.proto";

/// Fields that hold secrets: hidden from JSON here and from `Debug` in `src/cri/mod.rs`.
const SECRETS: [&str; 4] = ["password", "auth", "identity_token", "registry_token"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    cri()?;
    if enabled("TTRPC") { shim() } else { Ok(()) }
}

fn enabled(feature: &str) -> bool {
    env::var_os(format!("CARGO_FEATURE_{feature}")).is_some()
}

fn out(file: &str) -> Result<PathBuf, env::VarError> {
    Ok(PathBuf::from(env::var("OUT_DIR")?).join(file))
}

/// CRI: the types, the services, and the descriptors without their comments.
fn cri() -> Result<(), Box<dyn Error>> {
    let mut compiler = Compiler::new([ROOT])?;
    compiler.include_imports(true).include_source_info(true).open_file(CRI)?;
    let descriptors = compiler.file_descriptor_set();
    compiler.include_source_info(false);
    fs::write(out("cri.bin")?, compiler.encode_file_descriptor_set())?;

    let mut builder = tonic_prost_build::configure()
        .build_server(enabled("GRPC"))
        .build_client(enabled("GRPC"))
        .build_transport(false)
        // Sorted maps: the same message always gives the same bytes and the same JSON.
        .btree_map(".")
        .skip_debug([".runtime.v1.AuthConfig"]);
    if enabled("JSON") {
        for (path, attribute) in json_attributes(&descriptors) {
            builder = builder.field_attribute(path, attribute);
        }
        builder = builder.message_attribute(".", "#[derive(serde::Serialize)]");
    }
    Ok(builder.compile_fds(descriptors)?)
}

/// The serde attribute of every field, by the field's full name.
fn json_attributes(descriptors: &FileDescriptorSet) -> HashMap<String, String> {
    let mut attributes = HashMap::new();
    for file in &descriptors.file {
        for message in &file.message_type {
            add_json_attributes(&format!(".{}.{}", file.package(), message.name()), message, &mut attributes);
        }
    }
    attributes
}

fn add_json_attributes(name: &str, message: &DescriptorProto, attributes: &mut HashMap<String, String>) {
    for field in &message.field {
        let attribute = if name == ".runtime.v1.AuthConfig" && SECRETS.contains(&field.name()) {
            "#[serde(skip_serializing)]".to_owned()
        } else {
            let with = match (name, field.r#type()) {
                // An environment variable reads as text: the Go types do the same.
                (".runtime.v1.KeyValue", Type::Bytes) => ", serialize_with = \"crate::cri::json::text\"",
                (_, Type::Bytes) => ", serialize_with = \"crate::cri::json::base64\"",
                _ => "",
            };
            let tag = field.name();
            format!("#[serde(rename = \"{tag}\", skip_serializing_if = \"crate::cri::json::is_empty\"{with})]")
        };
        attributes.insert(format!("{name}.{}", field.name()), attribute);
    }
}

/// The ttrpc services and their messages, as one module tree with `mod.rs` at its root.
fn shim() -> Result<(), Box<dyn Error>> {
    let dir = out("shim")?;
    let root = dir.join("mod.rs");
    fs::create_dir_all(&dir)?;
    ttrpc_codegen::Codegen::new()
        .out_dir(dir)
        .include(ROOT)
        .input(SHIM)
        .rust_protobuf()
        .customize(ttrpc_codegen::Customize { async_all: true, ..Default::default() })
        .rust_protobuf_customize(ttrpc_codegen::ProtobufCustomize::default().gen_mod_rs(false))
        .run()?;
    // The generators' own `mod.rs` begins with an inner attribute, which `include!` refuses.
    Ok(fs::write(root, "pub mod io;\npub mod io_ttrpc;\n")?)
}
