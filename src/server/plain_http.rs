//! Plain HTTP that is spoken to a port for HTTPS: it is answered, with what is wrong.
//!
//! The first byte tells them apart: a handshake begins with 22 (RFC 8446, 5.1), a request with a letter (RFC 9112, 3).
//! It is looked at where the kernel keeps it. **Invariant:** nothing but the start of a request is answered here.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const BODY: &str =
    r#"{"error":"This port speaks HTTPS: ask again with https:// instead of http://."}"#;

/// What a client had under way is read on this long, so that it sees the answer instead of a reset (RFC 9112, 9.6) …
const DROP_TIMEOUT: Duration = Duration::from_secs(2);
/// … or this much: a request that was not for here.
const DROP_BYTES_MAX: u64 = 1 << 20;

/// Whether a client begins with a request; waits for its first byte.
pub(super) async fn is_spoken_on(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    let length = stream.peek(&mut first).await?;
    Ok(length > 0 && first.iter().all(u8::is_ascii_alphabetic))
}

/// Says that this port speaks HTTPS, and closes. Takes no longer than [`DROP_TIMEOUT`].
pub(super) async fn refuse(mut stream: TcpStream) {
    let length = BODY.len();
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n{BODY}"
    );
    let refuse = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        let mut rest = stream.take(DROP_BYTES_MAX);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // Whatever the client does, nobody is left to tell.
    let _ = timeout(DROP_TIMEOUT, refuse).await;
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    /// How long a client is read that sends so many bytes and then waits.
    async fn read_for(bytes: u64) -> Duration {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let started = Instant::now();
        let refused = tokio::spawn(async move {
            refuse(stream).await;
            started.elapsed()
        });
        let sent = vec![b'a'; usize::try_from(bytes).unwrap()];
        client.write_all(&sent).await.unwrap();
        let mut answer = vec![0; 12];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 400");
        refused.await.unwrap()
    }

    #[tokio::test]
    async fn what_a_client_had_under_way_is_read_up_to_its_limit_or_for_its_time() {
        assert!(read_for(DROP_BYTES_MAX - 1).await >= DROP_TIMEOUT);
        assert!(read_for(DROP_BYTES_MAX).await < DROP_TIMEOUT);
    }
}
