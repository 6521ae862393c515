//! The channel protocols: a message is a channel's number and bytes. Pure.
//!
//! | protocol | message | end of a channel |
//! |---|---|---|
//! | none, `channel.k8s.io`, `v4.channel.k8s.io` | binary, the number as a byte | |
//! | `base64.channel.k8s.io`, `v4.base64.channel.k8s.io` | text, the number as a digit, the rest in base64 | |
//! | `v5.channel.k8s.io` | binary | byte 255 and the number |

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes};
use tokio_tungstenite::tungstenite::Message;

/// In v5: "the channel whose number follows is at its end".
const CLOSE: u8 = 255;

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// As they are.
    Binary,
    /// As they are, and channels can end.
    BinaryWithClose,
    /// As text.
    Base64,
}

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// Bytes on a channel.
    Data(u8, Bytes),
    /// The client sends nothing more on a channel.
    End(u8),
    /// Nothing.
    Nothing,
    /// It makes no sense.
    Broken,
}

impl Codec {
    /// Reads a message.
    pub fn decode(self, mut message: Bytes) -> Input {
        let Some(&first) = message.first() else { return Input::Nothing };
        message.advance(1);
        match (self, first) {
            (Self::BinaryWithClose, CLOSE) => match message[..] {
                [channel] => Input::End(channel),
                _ => Input::Broken,
            },
            (Self::Binary | Self::BinaryWithClose, channel) => Input::Data(channel, message),
            (Self::Base64, b'0'..=b'9') => match STANDARD.decode(&message) {
                Ok(bytes) => Input::Data(first - b'0', bytes.into()),
                Err(_) => Input::Broken,
            },
            (Self::Base64, _) => Input::Broken,
        }
    }

    /// Writes a message.
    pub fn encode(self, channel: u8, bytes: &[u8]) -> Message {
        match self {
            Self::Binary | Self::BinaryWithClose => {
                let mut message = Vec::with_capacity(bytes.len() + 1);
                message.push(channel);
                message.extend_from_slice(bytes);
                Message::Binary(message.into())
            }
            Self::Base64 => {
                let mut text = String::from(char::from(b'0'.saturating_add(channel)));
                STANDARD.encode_string(bytes, &mut text);
                Message::Text(text.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_read_by_the_rules_of_their_protocol() {
        let data = |channel, bytes: &'static [u8]| Input::Data(channel, Bytes::from_static(bytes));
        let table: [(Codec, &[u8], Input); 11] = [
            (Codec::Binary, b"", Input::Nothing),
            (Codec::Binary, b"\0foo\n", data(0, b"foo\n")),
            (Codec::Binary, b"\0", data(0, b"")),
            (Codec::Binary, b"\xff\0", data(255, b"\0")),
            (Codec::BinaryWithClose, b"\xff\0", Input::End(0)),
            (Codec::BinaryWithClose, b"\xff", Input::Broken),
            (Codec::BinaryWithClose, b"\xff\0\0", Input::Broken),
            (Codec::BinaryWithClose, b"\x04{}", data(4, b"{}")),
            (Codec::Base64, b"0Zm9vCg==", data(0, b"foo\n")),
            (Codec::Base64, b"0Zm9vC", Input::Broken),
            (Codec::Base64, b"\0Zm9vCg==", Input::Broken),
        ];
        for (codec, message, input) in table {
            assert_eq!(codec.decode(Bytes::from_static(message)), input, "{codec:?} {message:?}");
        }
    }

    #[test]
    fn messages_are_written_so() {
        assert_eq!(Codec::Binary.encode(1, b"ab"), Message::Binary(Bytes::from_static(b"\x01ab")));
        assert_eq!(Codec::Base64.encode(3, b"\n"), Message::Text("3Cg==".into()));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(channel in 0u8..10, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for codec in [Codec::Binary, Codec::BinaryWithClose, Codec::Base64] {
                let wire = codec.encode(channel, &bytes).into_data();
                prop_assert_eq!(codec.decode(wire), Input::Data(channel, bytes.clone().into()));
            }
        }

        #[test]
        fn no_message_panics(message in prop::collection::vec(any::<u8>(), 0..100)) {
            for codec in [Codec::Binary, Codec::BinaryWithClose, Codec::Base64] {
                codec.decode(message.clone().into());
            }
        }
    }
}
