//! The first frame each way, straight on the TLS stream, before calls begin.

use std::io;

use bincode::{Decode, Encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::link::{Stream, frame_head};
use crate::wire::frame::{Kind, PREFIX_BYTES, Prefix};
use crate::wire::{decode, encode};

/// Longest hello or welcome, in bytes: the other end has not said yet that it is one of us.
const HELLO_BYTES_MAX: u32 = 4096;

/// Sends one hello or welcome.
pub(super) async fn send<T: Encode>(
    stream: &mut Stream,
    kind: Kind,
    message: &T,
) -> io::Result<()> {
    let frame = frame_head(kind, 0, &encode(message), 0);
    stream.write_all(&frame).await?;
    stream.flush().await
}

/// Receives one. What is no such message is an error of kind `InvalidData`.
pub(super) async fn receive<T: Decode<()>>(stream: &mut Stream, kind: Kind) -> io::Result<T> {
    let mut bytes = [0; PREFIX_BYTES];
    stream.read_exact(&mut bytes).await?;
    let prefix = Prefix::from_bytes(&bytes).map_err(invalid)?;
    if prefix.kind != kind || prefix.payload_len > 0 || prefix.header_len > HELLO_BYTES_MAX {
        return Err(invalid("it does not begin with a hello"));
    }
    let mut header = vec![0; prefix.header_len as usize];
    stream.read_exact(&mut header).await?;
    decode(&header).map_err(invalid)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
