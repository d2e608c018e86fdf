//! `anyport probe`: asks the guest for an answer, as `curl --fail` would. For health checks, where the
//! container has no curl.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyport::Error;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// What a probe's failure gives to whoever asked.
const UNHEALTHY: u8 = 1;

/// Asks for a URL, or for `/` of the guest's first port; succeeds if the answer's status is below 400.
pub(crate) fn run(url: Option<String>, status: Option<&Value>, timeout: Duration) -> Result<ExitCode, Error> {
    let url = url.map_or_else(|| first_port(status), Ok)?;
    let target = Target::of(&url)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::host(format!("nothing can be asked: {error}")))?;
    let asked = runtime.block_on(async { tokio::time::timeout(timeout, ask(&target)).await });
    let why = match asked {
        Ok(Ok(status)) if status.as_u16() < 400 => {
            // Docker keeps what a health check prints.
            let _ = writeln!(std::io::stdout(), "{url}: {status}");
            return Ok(ExitCode::SUCCESS);
        }
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(why)) => why,
        Err(_) => format!("no answer within {timeout:?}"),
    };
    let _ = writeln!(std::io::stderr(), "{url}: {why}");
    Ok(ExitCode::from(UNHEALTHY))
}

/// Where a URL leads to.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    addresses: Vec<SocketAddr>,
    authority: String,
    path: String,
}

impl Target {
    fn of(url: &str) -> Result<Self, Error> {
        let wrong = |why: &str| {
            Error::host(format!("`{url}` cannot be asked: {why}"))
                .with_hint("`anyport probe http://127.0.0.1:8080/` is right")
        };
        let uri: Uri = url.parse().map_err(|_| wrong("it is no URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("it is not `http://`"));
        }
        let name = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let hosts: Vec<IpAddr> = match name.parse() {
            Ok(address) => vec![address],
            Err(_) if name == "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            Err(_) => return Err(wrong("a probe asks an address or `localhost`")),
        };
        let port = uri.port_u16().unwrap_or(80);
        Ok(Self {
            addresses: hosts.into_iter().map(|host| SocketAddr::new(host, port)).collect(),
            authority: uri.authority().map(ToString::to_string).unwrap_or_default(),
            path: uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
        })
    }
}

async fn ask(target: &Target) -> Result<StatusCode, String> {
    let stream = TcpStream::connect(&target.addresses[..]).await.map_err(|error| error.to_string())?;
    let handshake = hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let request = Request::get(&target.path).header("host", &target.authority).header("user-agent", "anyport-probe");
    let request = request.header("connection", "close").body(Empty::new()).map_err(|error| error.to_string())?;
    Ok(sender.send_request(request).await.map_err(|error| error.to_string())?.status())
}

/// The first TCP port that the guest listens on.
fn first_port(status: Option<&Value>) -> Result<String, Error> {
    let ports = status.and_then(|status| status["ports"].as_array()).into_iter().flatten();
    let mut listening = ports.filter(|port| port["listening"] == true && port["transport"] == "tcp");
    let address = listening.find_map(|port| port["host"].as_str()?.parse::<SocketAddr>().ok());
    let address = address.ok_or_else(|| {
        Error::host("the guest does not listen".to_owned())
            .with_hint("name an address: `anyport probe http://127.0.0.1:8080/`")
    })?;
    let host = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        // It takes IPv4 too, and a container may have no IPv6.
        IpAddr::V6(_) => Ipv4Addr::LOCALHOST.into(),
    };
    Ok(format!("http://{}/", SocketAddr::new(host, address.port())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::io::Read;
    use std::net::TcpListener;

    /// A server for one request, which answers with this status.
    fn server(status: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes());
        });
        address
    }

    #[test]
    fn an_answer_tells_health() {
        for (status, want) in [("200 OK", ExitCode::SUCCESS), ("503 Busy", ExitCode::from(1))] {
            let url = format!("http://{}/", server(status));
            let code = run(Some(url), None, Duration::from_secs(5)).expect("a URL");
            assert_eq!(format!("{code:?}"), format!("{want:?}"), "{status}");
        }
    }

    #[test]
    fn nobody_there_is_unhealthy() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("bound"));
        // It listens and never answers.
        let code = run(Some(url), None, Duration::from_millis(50)).expect("a URL");
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(1)));
    }

    #[test]
    fn without_a_url_it_is_the_first_port() {
        let status = json!({ "ports": [
            { "host": "0.0.0.0:53", "transport": "udp", "listening": true },
            { "host": "[::]:8080", "transport": "tcp", "listening": true },
        ] });
        assert_eq!(first_port(Some(&status)).ok().as_deref(), Some("http://127.0.0.1:8080/"));
        assert!(first_port(None).expect_err("none").hint().is_some());
    }

    #[test]
    fn only_addresses_are_asked() {
        for url in ["https://127.0.0.1/", "127.0.0.1", "http://example.com/", "http://"] {
            assert!(Target::of(url).is_err(), "{url}");
        }
        let target = Target::of("http://[::1]:8080/a?b").expect("right");
        assert_eq!((target.addresses[0].to_string().as_str(), target.path.as_str()), ("[::1]:8080", "/a?b"));
    }
}
