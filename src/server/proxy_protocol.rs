//! How a connection from a trusted proxy begins: perhaps with a header that says whom it is for.
//!
//! It is looked at where the kernel keeps it, and taken from there only if it is one: whatever follows
//! it, or stands in its place, is for TLS or HTTP to read.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::access::proxy_protocol::{HEADER_BYTES_MAX, Header};

/// Time between looks at a header of which a part has come. It is sent in one piece (specification,
/// 2), so this hardly ever happens; and the kernel does not tell when there is more than was seen.
const PAUSE: Duration = Duration::from_millis(5);

/// Takes the header, if there is one, from the beginning of `stream`; returns the client that it
/// names. Takes as long as the proxy takes.
pub(super) async fn client_of(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    stream.readable().await?;
    let mut bytes = vec![0; HEADER_BYTES_MAX];
    loop {
        let length = stream.peek(&mut bytes).await?;
        match Header::of(bytes.get(..length).unwrap_or_default()) {
            Header::Present { length, client } => {
                stream
                    .read_exact(bytes.get_mut(..length).unwrap_or_default())
                    .await?;
                return Ok(client);
            }
            Header::Incomplete if length > 0 => sleep(PAUSE).await,
            Header::Incomplete | Header::Absent => return Ok(None),
        }
    }
}
