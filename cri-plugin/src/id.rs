//! Ids of sandboxes and containers: 64 lowercase hex digits, checked before they ever become a path.

use std::fmt;

use crate::{Error, Result};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// A fresh id of 256 random bits.
            ///
            /// # Errors
            /// When the kernel has no random bytes to give.
            pub fn random() -> Result<Self> {
                random_hex().map(Self)
            }

            /// The 64 digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self> {
                let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                if text.len() == 64 && digits {
                    Ok(Self(text))
                } else {
                    Err(Error::invalid(concat!($kind, " id"), format!("{text:?} is not 64 lowercase hex digits")))
                }
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// The id of a pod sandbox.
    SandboxId,
    "sandbox"
);
id!(
    /// The id of a container.
    ContainerId,
    "container"
);

fn random_hex() -> Result<String> {
    let mut bytes = [0u8; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
            .map_err(Error::io("getrandom", "/dev/urandom"))?;
    }
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_64_lowercase_hex_digits_are_an_id() {
        let id = SandboxId::random().expect("random");
        assert_eq!(SandboxId::try_from(id.to_string()).expect("round trip"), id);
        for bad in ["", "..", "../../etc", &"A".repeat(64), &"a".repeat(63), &"g".repeat(64)] {
            assert!(SandboxId::try_from(bad.to_string()).is_err(), "{bad:?}");
        }
    }
}
