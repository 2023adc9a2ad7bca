//! One page over HTTP/1.1, for scrapers: `GET /metrics`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use httparse::Status;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The most connections at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 16;
/// The most bytes of a request with its headers.
const REQUEST_LEN_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;
/// How long a connection may take in all.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long accepting pauses when the system gives no more sockets.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The server. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct MetricsServer {
    address: SocketAddr,
    scrapes: mpsc::Receiver<oneshot::Sender<String>>,
    _cancel: DropGuard,
}

impl MetricsServer {
    /// Listens.
    ///
    /// # Errors
    /// If the address cannot be had.
    pub(crate) async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (sender, scrapes) = mpsc::channel(CONNECTIONS_MAX);
        let cancel = CancellationToken::new();
        let accepting = accept(listener, address, sender, cancel.clone());
        tokio::spawn(cancel.clone().run_until_cancelled_owned(accepting));
        Ok(Self { address, scrapes, _cancel: cancel.drop_guard() })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next one who wants the page: it is sent what is sent here.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub(crate) async fn next(&mut self) -> oneshot::Sender<String> {
        match self.scrapes.recv().await {
            Some(scrape) => scrape,
            // Accepting ends with this value only.
            None => std::future::pending().await,
        }
    }
}

async fn accept(
    listener: TcpListener,
    address: SocketAddr,
    scrapes: mpsc::Sender<oneshot::Sender<String>>,
    cancel: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (scrapes, cancel) = (scrapes.clone(), cancel.clone());
        tokio::spawn(async move {
            let served = tokio::time::timeout(CONNECTION_TIMEOUT, serve(stream, address, scrapes));
            cancel.run_until_cancelled(served).await;
            drop(permit);
        });
    }
}

/// Answers one request. Whatever goes wrong on the way is the other end's business.
async fn serve(mut stream: TcpStream, address: SocketAddr, scrapes: mpsc::Sender<oneshot::Sender<String>>) {
    let mut request = Vec::with_capacity(1 << 10);
    let verdict = loop {
        match verdict(&request, address) {
            Verdict::Unfinished if request.len() < REQUEST_LEN_MAX => {}
            Verdict::Unfinished => break Verdict::Answer("431 Request Header Fields Too Large"),
            verdict => break verdict,
        }
        let room = (REQUEST_LEN_MAX - request.len()) as u64;
        match (&mut stream).take(room).read_buf(&mut request).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    };
    let (status, body) = match verdict {
        Verdict::Answer(status) => (status, None),
        _ => {
            let (answer, text) = oneshot::channel();
            // The node may be stopping.
            let asked = scrapes.send(answer).await.is_ok();
            match text.await {
                Ok(text) if asked => ("200 OK", Some(text)),
                _ => ("503 Service Unavailable", None),
            }
        }
    };
    let kind = if body.is_some() { OPENMETRICS } else { "text/plain; charset=utf-8" };
    let body = body.unwrap_or_else(|| format!("{status}\n"));
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nallow: GET\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let sent = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        stream.shutdown().await
    };
    let _: io::Result<()> = sent.await;
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// More bytes are needed.
    Unfinished,
    /// The page is wanted.
    Page,
    /// This is all there is to say.
    Answer(&'static str),
}

fn verdict(request: &[u8], address: SocketAddr) -> Verdict {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(request) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) => return Verdict::Unfinished,
        Err(httparse::Error::TooManyHeaders) => return Verdict::Answer("431 Request Header Fields Too Large"),
        Err(_) => return Verdict::Answer("400 Bad Request"),
    }
    // A page in a browser that has its own name point to this machine may not read along.
    let host = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case("host"));
    let is_named = host.is_some_and(|host| !is_address(host.value));
    let path = parsed.path.unwrap_or_default().split('?').next();
    match (parsed.method, path) {
        _ if address.ip().is_loopback() && is_named => Verdict::Answer("421 Misdirected Request"),
        (Some("GET"), Some("/metrics")) => Verdict::Page,
        (_, Some("/metrics")) => Verdict::Answer("405 Method Not Allowed"),
        _ => Verdict::Answer("404 Not Found"),
    }
}

/// Whether a `Host` is `localhost` or an address, with a port or without.
fn is_address(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn server() -> MetricsServer {
        MetricsServer::bind("127.0.0.1:0".parse().expect("an address")).await.expect("a port")
    }

    /// Sends a request and reads all that is answered, while the server gives `net_x 1` to whoever asks.
    async fn ask(server: &mut MetricsServer, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(server.address()).await.expect("it listens");
        let asked = async {
            // It may answer and close before it has read all.
            let _ = stream.write_all(request).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8(answer).expect("text")
        };
        tokio::pin!(asked);
        loop {
            tokio::select! {
                answer = &mut asked => return answer,
                scrape = server.next() => scrape.send("net_x 1\n# EOF\n".to_owned()).expect("it waits"),
            }
        }
    }

    #[tokio::test]
    async fn page_is_given_with_its_type_and_its_length() {
        let mut server = server().await;
        let answer = ask(&mut server, b"GET /metrics HTTP/1.1\r\nHost: localhost:1\r\n\r\n").await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(
            head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
            "{head}"
        );
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
        assert_eq!(body, "net_x 1\n# EOF\n");
    }

    #[tokio::test]
    async fn whatever_else_is_asked_is_refused() {
        let mut server = server().await;
        for (request, status) in [
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("GET /metrics/../secret HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\ncontent-length: 0\r\n\r\n", "405"),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", "405"),
            ("GET /metrics HTTP/1.1\r\nhost: evil.example:80\r\n\r\n", "421"),
            ("GET /metrics HTTP/9.9\r\n\r\n", "400"),
            ("\u{16}\u{3}\u{1}\u{2}", "400"),
            ("nonsense\r\n\r\n", "400"),
        ] {
            let answer = ask(&mut server, request.as_bytes()).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer:?}");
        }
        for request in ["GET /metrics?x=1 HTTP/1.0\r\n\r\n", "GET /metrics HTTP/1.1\r\nhost: [::1]:9464\r\n\r\n"] {
            assert!(ask(&mut server, request.as_bytes()).await.starts_with("HTTP/1.1 200 "), "{request:?}");
        }
    }

    #[tokio::test]
    async fn endless_request_is_ended() {
        let mut server = server().await;
        let long = format!("GET /metrics HTTP/1.1\r\nx: {}", "y".repeat(REQUEST_LEN_MAX));
        assert!(ask(&mut server, long.as_bytes()).await.starts_with("HTTP/1.1 431 "));
        let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(HEADERS_MAX + 1));
        assert!(ask(&mut server, many.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_connections_open_is_cut_off_and_others_are_served() {
        let mut server = server().await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(TcpStream::connect(server.address()).await.expect("it listens"));
        }
        // Time passes as soon as nothing else can happen.
        let answer = ask(&mut server, b"GET /metrics HTTP/1.1\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let mut end = [0; 1];
        assert_eq!(silent[0].read(&mut end).await.expect("closed in order"), 0);
    }

    #[tokio::test]
    async fn server_ends_with_its_value() {
        let server = server().await;
        let address = server.address();
        drop(server);
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
