//! A connection that is kept, for who stores or deletes one message after the other.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use tokio::sync::RwLock;
use tokio::time::sleep;

use super::waits::Waits;
use super::{Client, NotFound, Reply, TEXT_OR_PROBLEM, WORDS_BYTES_MAX, in_time};
use crate::access::tokens::Scope;
use crate::digest::Digest;
use crate::message::Message;

/// How often a message is sent before the server is given up. Storing it again does no harm.
const ATTEMPTS_MAX: u32 = 10;

/// A server that is too busy is left alone this long.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// The server does not want this message; the next one may be another matter.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

/// A connection to a server, opened when needed and again when it broke.
#[derive(Debug)]
pub struct Session {
    client: Client,
    /// Shared with others that ask for the same client: whom the server tells to wait has this alone until his
    /// message is stored, so that the others neither ask in vain nor take what he waits for.
    turn: Arc<RwLock<()>>,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Session {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            turn: Arc::default(),
            sender: None,
        }
    }

    /// Another connection to the same server; both wait if the server tells one of them to.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self {
            turn: Arc::clone(&self.turn),
            ..Self::new(self.client.clone())
        }
    }

    /// Stores a message; on return the server has said that it is stored. Tries again, within limits,
    /// when the server is busy, says that the client asks too often, or the connection breaks.
    ///
    /// # Errors
    /// [`Refused`] if it is this message's fault; [`super::Unreachable`], or what the server said.
    pub async fn put(&mut self, message: &Message) -> anyhow::Result<()> {
        let order = Order {
            method: Method::POST,
            path: "/messages".into(),
            text: message.as_bytes().clone(),
        };
        let Answered { reply, .. } = self.ask(&order).await?;
        match reply.status {
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::CONFLICT => {
                Err(Refused(reply.words()).into())
            }
            _ => reply.check_stored(&message.digest()),
        }
    }

    /// Deletes the message with this digest; on return the server has said that it is. Tries again like
    /// [`put`](Self::put).
    ///
    /// # Errors
    /// [`NotFound`]; [`super::Unreachable`], or what the server said.
    pub async fn delete(&mut self, digest: &Digest) -> anyhow::Result<()> {
        let order = Order {
            method: Method::DELETE,
            path: format!("/messages/{digest}"),
            text: Bytes::new(),
        };
        let answered = self.ask(&order).await?;
        let reply = answered.reply;
        match reply.status {
            StatusCode::NO_CONTENT => Ok(()),
            // It was deleted, and the answer got lost.
            _ if reply.is_of_missing_message() && answered.may_be_done => Ok(()),
            _ if reply.is_of_missing_message() => Err(NotFound::ONE.into()),
            _ => bail!(reply.refusal(Scope::Delete)),
        }
    }

    /// Sends an order until it is answered and neither too busy nor too often, within limits.
    async fn ask(&mut self, order: &Order) -> anyhow::Result<Answered> {
        let turn = Arc::clone(&self.turn);
        let mut answered = {
            let _with_others = turn.read().await;
            self.ask_now(order).await?
        };
        if answered.reply.status == StatusCode::TOO_MANY_REQUESTS {
            let _alone = turn.write().await;
            let mut waits = Waits::default();
            // Others may have waited long enough meanwhile.
            answered = self.ask_now(order).await?;
            while answered.reply.status == StatusCode::TOO_MANY_REQUESTS
                && waits.wait(answered.reply.retry_after).await
            {
                answered = self.ask_now(order).await?;
            }
        }
        Ok(answered)
    }

    /// Sends an order until there is an answer to it, within limits.
    async fn ask_now(&mut self, order: &Order) -> anyhow::Result<Answered> {
        let mut may_be_done = false;
        let mut attempt = 1;
        loop {
            match self.send(order).await {
                Ok(reply) if reply.status != StatusCode::SERVICE_UNAVAILABLE => {
                    return Ok(Answered { reply, may_be_done });
                }
                Ok(_) if attempt < ATTEMPTS_MAX => sleep(BUSY_PAUSE).await,
                // A connection that was kept too long, most of the time.
                Err(error) if attempt < ATTEMPTS_MAX && error.is::<hyper::Error>() => {
                    let error = error.downcast_ref::<hyper::Error>();
                    may_be_done |= error.is_none_or(|error| !error.is_canceled());
                }
                result => {
                    let reply = result?;
                    return Ok(Answered { reply, may_be_done });
                }
            }
            attempt += 1;
        }
    }

    async fn send(&mut self, order: &Order) -> anyhow::Result<Reply> {
        let request = self
            .client
            .request(order.method.clone(), &order.path)
            .header(ACCEPT, TEXT_OR_PROBLEM);
        let request = if order.method == Method::POST {
            request.header(CONTENT_TYPE, "text/plain; charset=utf-8")
        } else {
            request
        };
        let request = request.body(Full::new(order.text.clone()))?;
        // Put back only if it is good for another request.
        let mut sender = match self.sender.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => self.client.open().await?,
        };
        let exchange = async {
            sender.ready().await?;
            let response = sender.send_request(request).await?;
            Reply::read(response, WORDS_BYTES_MAX).await
        };
        let answer = in_time(exchange).await?;
        self.sender = Some(sender);
        Ok(answer)
    }
}

/// What a server is to do.
struct Order {
    method: Method,
    path: String,
    /// Of the message that it is to store.
    text: Bytes,
}

/// What it said.
struct Answered {
    reply: Reply,
    /// An earlier attempt was sent and not answered.
    may_be_done: bool,
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::Trust;
    use super::*;

    /// A server that answers each connection's first request like this, and then closes it.
    async fn serve(answers: Vec<String>) -> Session {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                let read = stream.read(&mut request).await.unwrap();
                let request = &request[..read];
                assert!(request.ends_with(b"foo") || request.starts_with(b"DELETE "));
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let url = url.parse().unwrap();
        Session::new(Client::new(url, &Trust::System).unwrap())
    }

    fn answer(status: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    fn created() -> String {
        answer(
            "201 Created",
            &format!("{}\n", Message::new("foo").digest()),
        )
    }

    #[tokio::test]
    async fn a_message_is_sent_again_when_the_connection_breaks_or_the_server_is_busy() {
        let busy = answer("503 Service Unavailable", "");
        let mut session = serve(vec![String::new(), busy, created(), created()]).await;
        session.put(&Message::new("foo")).await.unwrap();
        // The connection is gone by now.
        session.put(&Message::new("foo")).await.unwrap();
    }

    fn held() -> String {
        "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nRetry-After: 0\r\n\r\n".into()
    }

    #[tokio::test]
    async fn who_asks_too_often_waits_as_long_as_the_server_says_and_asks_again() {
        let mut session = serve(vec![held(), held(), held(), created()]).await;
        session.put(&Message::new("foo")).await.unwrap();
        let unclear = answer("429 Too Many Requests", "");
        let mut session = serve(vec![unclear.clone(), unclear, created()]).await;
        let error = session.put(&Message::new("foo")).await.unwrap_err();
        assert!(error.to_string().contains("429"), "{error:#}");
        let mut session = serve(vec![held(); 20]).await;
        let error = session.put(&Message::new("foo")).await.unwrap_err();
        assert!(error.to_string().contains("429"), "{error:#}");
    }

    #[tokio::test]
    async fn a_message_that_the_server_cannot_take_is_told_from_a_server_that_fails() {
        for (status, is_of_message) in [
            ("413 Payload Too Large", true),
            ("409 Conflict", true),
            ("507 Insufficient Storage", false),
        ] {
            let mut session = serve(vec![answer(status, "{\"error\": \"No.\"}")]).await;
            let error = session.put(&Message::new("foo")).await.unwrap_err();
            assert_eq!(error.is::<Refused>(), is_of_message, "{status}: {error:#}");
        }
    }

    #[tokio::test]
    async fn a_deletion_whose_answer_got_lost_is_no_message_that_is_not_there() {
        let digest = Digest::of(b"foo");
        let missing = answer(
            "404 Not Found",
            r#"{"type": "/openapi.yaml#/x-problems/no-such-message", "detail": "Message not found."}"#,
        );
        let deleted = "HTTP/1.1 204 No Content\r\n\r\n".to_owned();
        let busy = answer("503 Service Unavailable", "");
        for (answers, is_deleted) in [
            (vec![deleted.clone()], true),
            (vec![missing.clone()], false),
            (vec![busy, missing.clone()], false),
            (vec![String::new(), missing], true),
            (vec![String::new(), deleted], true),
        ] {
            let result = serve(answers.clone()).await.delete(&digest).await;
            assert_eq!(result.is_ok(), is_deleted, "{answers:?}: {result:?}");
            if let Err(error) = result {
                assert!(error.is::<NotFound>(), "{error:#}");
            }
        }
    }

    #[tokio::test]
    async fn a_server_that_never_answers_is_given_up() {
        let attempts = usize::try_from(ATTEMPTS_MAX).unwrap();
        let mut session = serve(vec![String::new(); attempts]).await;
        let error = session.put(&Message::new("foo")).await.unwrap_err();
        assert!(error.is::<hyper::Error>(), "{error:#}");
        let mut answers = vec![String::new(); attempts - 1];
        answers.push(created());
        serve(answers)
            .await
            .put(&Message::new("foo"))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_refused_message_and_a_wrong_digest_are_told_apart() {
        let too_large = answer("413 Payload Too Large", "{\"error\": \"too large\"}");
        let error = serve(vec![too_large]).await.put(&Message::new("foo")).await;
        assert!(error.unwrap_err().is::<Refused>());
        let wrong = answer(
            "201 Created",
            &format!("{}\n", Message::new("bar").digest()),
        );
        let error = serve(vec![wrong]).await.put(&Message::new("foo")).await;
        assert!(!error.unwrap_err().is::<Refused>());
    }
}
