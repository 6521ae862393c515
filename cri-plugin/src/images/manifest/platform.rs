//! For which machine an image is: operating system, architecture and variant, in Go's words.

use std::fmt;

use serde::Deserialize;

/// A platform.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// `v7`, `v3`, ...; often missing.
    #[serde(default)]
    pub variant: Option<String>,
}

impl Platform {
    /// This machine.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        let variant = match architecture {
            "amd64" => amd64_level().to_string(),
            "arm64" => "v8".to_string(),
            "arm" => "v7".to_string(),
            _ => String::new(),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: Some(variant) }
    }

    /// How well an image for `other` fits this machine, 0 best; none if it cannot run. An entry that names no platform
    /// fits last: its config tells.
    pub(super) fn rank(&self, other: Option<&Self>) -> Option<u32> {
        let Some(other) = other else { return Some(100) };
        if other.os != self.os || other.architecture != self.architecture {
            return None;
        }
        let distance = self.level().checked_sub(other.level())?;
        // The plain image first on amd64, as other runtimes choose; the newest that runs on arm.
        Some(if self.architecture == "amd64" { other.level() } else { distance })
    }

    /// Whether an image whose config says `os` and `architecture` runs here; what says nothing does.
    pub(super) fn runs(&self, os: &str, architecture: &str) -> bool {
        (os.is_empty() || os == self.os) && (architecture.is_empty() || architecture == self.architecture)
    }

    /// The number of the variant; what is missing is the architecture's first, or for arm its usual.
    fn level(&self) -> u32 {
        let usual = match self.architecture.as_str() {
            "amd64" => 1,
            "arm64" => 8,
            "arm" => 7,
            _ => 0,
        };
        let number = self.variant.as_deref().and_then(|v| v.strip_prefix('v')).and_then(|v| v.parse().ok());
        match self.variant.as_deref() {
            None | Some("") => usual,
            Some(_) => number.unwrap_or(u32::MAX),
        }
    }
}

/// The x86-64 psABI level of this processor.
#[cfg(target_arch = "x86_64")]
fn amd64_level() -> &'static str {
    use std::arch::is_x86_feature_detected as has;
    let two = has!("sse4.2") && has!("ssse3") && has!("popcnt") && has!("cmpxchg16b");
    let three = two && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("fma") && has!("movbe") && has!("lzcnt");
    let four = three && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    match (two, three, four) {
        (_, _, true) => "v4",
        (_, true, _) => "v3",
        (true, _, _) => "v2",
        _ => "v1",
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn amd64_level() -> &'static str {
    "v1"
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            None | Some("") => Ok(()),
            Some(variant) => write!(f, "/{variant}"),
        }
    }
}
