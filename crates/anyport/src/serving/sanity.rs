//! Requests that no guest is to see: what RFC 9112 and RFC 9113 say to refuse, and hyper lets pass.
//!
//! hyper refuses what cannot be parsed: heads with NUL, bare CR, folded lines or spaces before a colon, several
//! lengths, codings that do not end with `chunked`. A length beside `chunked` it drops, and ends the connection behind
//! that request, as RFC 9112 (6.1) has it. Here is the rest.

use http::header::{HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{Method, Request, StatusCode, Uri, Version};

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) why: &'static str,
}

/// Whether a request may be a guest's.
pub(super) fn check<B>(request: &Request<B>) -> Result<(), Refusal> {
    check_target(request.method(), request.uri(), request.version())?;
    check_host(request.headers(), request.uri(), request.version())?;
    check_coding(request.headers())
}

fn check_target(method: &Method, uri: &Uri, version: Version) -> Result<(), Refusal> {
    if *method == Method::CONNECT {
        return Err(Refusal { status: StatusCode::NOT_IMPLEMENTED, why: "this is no proxy\n" });
    }
    if uri.scheme().is_some_and(|scheme| !matches!(scheme.as_str(), "http" | "https")) {
        return Err(bad("the target is of no scheme that is served here\n"));
    }
    if uri.authority().is_some_and(|authority| !is_host(authority.as_str())) {
        return Err(bad("the target names no host\n"));
    }
    // `GET example.com:80`, which is for CONNECT.
    if uri.scheme().is_none() && uri.authority().is_some() && version < Version::HTTP_2 {
        return Err(bad("the target is no path\n"));
    }
    match uri.path() {
        "*" if *method == Method::OPTIONS => Ok(()),
        path if path.starts_with('/') => Ok(()),
        _ => Err(bad("the target is no path\n")),
    }
}

/// RFC 9112, 3.2: exactly one in HTTP/1.1, and a right one. RFC 9113, 8.3.1: it says what `:authority` says.
fn check_host(headers: &HeaderMap, uri: &Uri, version: Version) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(bad("there are several Host lines\n"));
    }
    let named = match (host, uri.authority()) {
        (None, None) if version == Version::HTTP_10 => return Ok(()),
        (None, Some(_)) if version != Version::HTTP_11 => return Ok(()),
        (None, _) => return Err(bad("there is no Host line\n")),
        (Some(host), authority) => (text(host), authority),
    };
    match named {
        (Some(host), _) if !is_host(host) => Err(bad("the Host line names no host\n")),
        (Some(host), Some(authority)) if version >= Version::HTTP_2 && !is_same(host, authority) => {
            Err(bad("the Host line names another host than the target\n"))
        }
        (Some(_), _) => Ok(()),
        (None, _) => Err(bad("the Host line names no host\n")),
    }
}

/// A coding that is not taken off would be a guest's to know of: there is one, and it is.
fn check_coding(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if is_chunked(coding) => Ok(()),
        _ => Err(Refusal { status: StatusCode::NOT_IMPLEMENTED, why: "no transfer coding but chunked is known\n" }),
    }
}

fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()
}

/// `HOST[:PORT]`, without a user, as RFC 3986 has it.
fn is_host(text: &str) -> bool {
    if text.contains('@') {
        return false;
    }
    let Ok(authority) = text.parse::<Authority>() else { return false };
    let port = text.strip_prefix(authority.host()).unwrap_or_default();
    let is_port = port.is_empty() || port == ":" || authority.port_u16().is_some();
    !authority.host().is_empty() && is_port
}

fn is_same(host: &str, authority: &Authority) -> bool {
    host.eq_ignore_ascii_case(authority.as_str())
}

fn bad(why: &'static str) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each line is `METHOD TARGET VERSION [HOST]…`.
    fn status(line: &str) -> u16 {
        let words: Vec<&str> = line.split(' ').collect();
        let version = match words[2] {
            "1.0" => Version::HTTP_10,
            "1.1" => Version::HTTP_11,
            _ => Version::HTTP_2,
        };
        let mut request = Request::builder().method(words[0]).uri(words[1]).version(version);
        for host in &words[3..] {
            request = request.header(HOST, *host);
        }
        check(&request.body(()).expect("a request")).map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
    }

    #[test]
    fn hosts_and_targets() {
        for (line, want) in [
            ("GET / 1.1 example.com", 200),
            ("GET / 1.1 example.com:80", 200),
            ("GET / 1.1 example.com:", 200),
            ("GET / 1.1 [::1]:80", 200),
            ("GET / 1.0", 200),
            ("GET / 1.0 a b", 400),
            ("GET / 1.1", 400),
            ("GET / 1.1 a a", 400),
            ("GET / 1.1 a b", 400),
            ("GET / 1.1 user@a", 400),
            ("GET / 1.1 a/b", 400),
            ("GET / 1.1 a:99999", 400),
            ("GET / 1.1 a:b", 400),
            ("GET http://a/ 1.1 b", 200),
            ("GET http://a/ 1.1", 400),
            ("GET http://user@a/ 1.1 a", 400),
            ("GET ftp://a/ 1.1 a", 400),
            ("GET a:80 1.1 a", 400),
            ("OPTIONS * 1.1 a", 200),
            ("GET * 1.1 a", 400),
            ("CONNECT a:80 1.1 a", 501),
            ("GET http://a/ 2", 200),
            ("GET http://a/ 2 A", 200),
            ("GET http://a/ 2 b", 400),
            ("GET http://a/ 2 a a", 400),
            ("GET / 2", 400),
            ("GET / 2 a", 200),
        ] {
            assert_eq!(status(line), want, "{line}");
        }
    }

    #[test]
    fn codings() {
        for (codings, want) in [
            (&["chunked"][..], Ok(())),
            (&["Chunked"], Ok(())),
            (&["gzip, chunked"], Err(501)),
            (&["chunked", "chunked"], Err(501)),
            (&["identity", "chunked"], Err(501)),
        ] {
            let mut request = Request::builder().uri("/").header(HOST, "a");
            for coding in codings {
                request = request.header(TRANSFER_ENCODING, *coding);
            }
            let checked = check(&request.body(()).expect("a request"));
            assert_eq!(checked.map_err(|refusal| refusal.status.as_u16()), want, "{codings:?}");
        }
    }
}
