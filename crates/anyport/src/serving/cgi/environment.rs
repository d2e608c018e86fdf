//! What a CGI program is told of its request: its environment (RFC 3875, 4.1) and its arguments.

use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Version, header};

use crate::cgi::{Convention, Script};
use crate::ingress::Client;

/// A request's path: as a program sees it, and what its client has sent.
pub(super) struct Path<'r> {
    pub(super) decoded: String,
    raw: &'r str,
}

impl<'r> Path<'r> {
    /// None if it is no text that a program could be told: it has a NUL, or is not UTF-8.
    pub(super) fn of(raw: &'r str) -> Option<Self> {
        let bytes = decode(raw)?;
        let decoded = String::from_utf8(bytes).ok().filter(|path| !path.contains('\0'))?;
        Some(Self { decoded, raw })
    }

    /// What is behind the first bytes of the decoded path, as it was sent.
    fn raw_behind(&self, length: usize) -> &str {
        let (mut at, mut left) = (0, length);
        while left > 0 && at < self.raw.len() {
            at += if self.raw.as_bytes()[at] == b'%' { 3 } else { 1 };
            left -= 1;
        }
        self.raw.get(at..).unwrap_or_default()
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                u8::try_from(digit(bytes.next())? * 16 + digit(bytes.next())?).ok()?
            }
            other => other,
        });
    }
    Some(decoded)
}

/// A program's arguments behind its name; `given` are the server's.
pub(super) fn arguments(script: &Script, name: &str, given: &[String], request: &Parts) -> Vec<String> {
    let items = || request.uri.query().into_iter().flat_map(|query| query.split('&')).map(str::to_owned);
    match (&script.argv, script.convention) {
        (Some(words), _) => words
            .split_ascii_whitespace()
            .flat_map(|word| match word {
                "${ARGS}" => items().collect(),
                word => vec![word.replace("${SCRIPT_NAME}", script.route.script_name())],
            })
            .collect(),
        (None, Convention::Wagi) => std::iter::once(request.uri.path().to_owned()).chain(items()).collect(),
        (None, _) => std::iter::once(name.to_owned()).chain(given.iter().cloned()).collect(),
    }
}

/// A program's variables: those that a person has set, and those of the request that have other names.
pub(super) fn variables(
    script: &Script, given: &[(String, String)], request: &Parts, has_body: bool, path: &Path<'_>, client: Client,
) -> Vec<(String, String)> {
    let mut variables = Variables { all: given.to_vec(), given: given.len() };
    let target = Target::of(request, client);
    variables.add_basics(request, &target, client);
    variables.add_path(script, path, &target);
    let length = request.headers.get(CONTENT_LENGTH).map(text);
    let kind = request.headers.get(CONTENT_TYPE).map(text);
    let is_wagi = script.convention == Convention::Wagi;
    // Of a body whose length is not known there is none: it goes to the end of stdin.
    let none = || (is_wagi && !has_body).then(|| "0".to_owned());
    variables.add_some("CONTENT_LENGTH", length.or_else(none));
    variables.add_some("CONTENT_TYPE", kind.or_else(|| is_wagi.then(String::new)));
    if is_wagi {
        for name in ["AUTH_TYPE", "REMOTE_USER"] {
            variables.add(name, "");
        }
    }
    variables.add_headers(&request.headers, &target, is_wagi);
    variables.all
}

/// Where a request goes.
struct Target<'r> {
    scheme: &'static str,
    /// With its port, as the client names it.
    host: &'r str,
    path_and_query: &'r str,
}

impl<'r> Target<'r> {
    fn of(request: &'r Parts, client: Client) -> Self {
        let named = request.headers.get(HOST).and_then(|host| host.to_str().ok());
        Self {
            scheme: if client.is_secure { "https" } else { "http" },
            host: named.or_else(|| request.uri.authority().map(|host| host.as_str())).unwrap_or("localhost"),
            path_and_query: request.uri.path_and_query().map_or("/", |target| target.as_str()),
        }
    }

    /// Name and port.
    fn server(&self) -> (&'r str, &'r str) {
        let default = if self.scheme == "https" { "443" } else { "80" };
        match self.host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, if port.is_empty() { default } else { port }),
            _ => (self.host, default),
        }
    }
}

struct Variables {
    all: Vec<(String, String)>,
    /// The first of them are a person's.
    given: usize,
}

impl Variables {
    fn add(&mut self, name: &str, value: impl Into<String>) {
        if !self.all[..self.given].iter().any(|(other, _)| other == name) {
            self.all.push((name.to_owned(), value.into()));
        }
    }

    fn add_some(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    fn add_basics(&mut self, request: &Parts, target: &Target<'_>, client: Client) {
        let peer = client.peer.ip().to_canonical().to_string();
        let (name, port) = target.server();
        let version = match request.version {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2.0",
            _ => "HTTP/1.1",
        };
        self.add("GATEWAY_INTERFACE", "CGI/1.1");
        self.add("SERVER_SOFTWARE", concat!("anyport/", env!("CARGO_PKG_VERSION")));
        self.add("SERVER_PROTOCOL", version);
        self.add("SERVER_NAME", name);
        self.add("SERVER_PORT", port);
        self.add("REQUEST_METHOD", request.method.as_str());
        self.add("REQUEST_SCHEME", target.scheme);
        self.add("REQUEST_URI", target.path_and_query);
        self.add("QUERY_STRING", request.uri.query().unwrap_or_default());
        self.add("REMOTE_ADDR", peer.as_str());
        self.add("REMOTE_HOST", peer);
        self.add("REMOTE_PORT", client.peer.port().to_string());
        if client.is_secure {
            self.add("HTTPS", "on");
        }
    }

    fn add_path(&mut self, script: &Script, path: &Path<'_>, target: &Target<'_>) {
        let name = script.route.script_name();
        let info = path.decoded.get(name.len()..).unwrap_or_default();
        match script.convention {
            Convention::Wcgi => {
                self.add("SCRIPT_NAME", path.decoded.as_str());
                self.add("PATH_INFO", path.decoded.as_str());
                self.add("DOCUMENT_ROOT", "/app/");
                self.add("SCRIPT_FILENAME", format!("/app{}", path.decoded));
            }
            Convention::Rfc3875 | Convention::Wagi => {
                let is_bare = name.is_empty() && script.convention == Convention::Wagi;
                self.add("SCRIPT_NAME", if is_bare { "/" } else { name });
                self.add("PATH_INFO", info);
                self.add("X_MATCHED_ROUTE", script.route.to_string());
                self.add("X_FULL_URL", format!("{}://{}{}", target.scheme, target.host, target.path_and_query));
                self.add("X_RAW_PATH_INFO", path.raw_behind(name.len()));
            }
        }
        if script.convention == Convention::Wagi {
            self.add("PATH_TRANSLATED", info);
        }
    }

    /// `HTTP_` and each header's name, but of those that are told otherwise or are nobody's business.
    fn add_headers(&mut self, headers: &HeaderMap, target: &Target<'_>, is_wagi: bool) {
        if !headers.contains_key(HOST) {
            self.add("HTTP_HOST", target.host);
        }
        for name in headers.keys() {
            if !is_told(name) || (is_wagi && *name == AUTHORIZATION) {
                continue;
            }
            let separator = if *name == COOKIE { "; " } else { ", " };
            let values: Vec<String> = headers.get_all(name).iter().map(text).collect();
            let name = name.as_str().to_ascii_uppercase().replace('-', "_");
            self.add(&format!("HTTP_{name}"), values.join(separator));
        }
    }
}

/// Whether a header becomes a variable. `Proxy` does not: many libraries take `HTTP_PROXY` for the address of a proxy
/// (<https://httpoxy.org>). Nor does a name with anything but letters, digits and `-`: `X_User` would be told as
/// `X-User` is, which a proxy in front may vouch for.
fn is_told(name: &HeaderName) -> bool {
    let is_plain = name.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    is_plain && !UNTOLD.contains(name)
}

static UNTOLD: [HeaderName; 13] = [
    header::CONNECTION,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    header::EXPECT,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy"),
    HeaderName::from_static("proxy-connection"),
];

/// A value as text: a guest's variables are UTF-8.
fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn told(script: &Script, given: &[(&str, &str)], request: http::request::Builder) -> Vec<String> {
        let parts = request.body(()).expect("a request").into_parts().0;
        let client = Client { peer: "[::ffff:192.0.2.7]:5000".parse().expect("an address"), is_secure: false };
        let path = Path::of(parts.uri.path()).expect("a path");
        let given: Vec<_> = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let all = variables(script, &given, &parts, false, &path, client);
        let mut lines: Vec<String> = all.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        lines.sort();
        lines
    }

    #[test]
    fn paths() {
        for (raw, want) in [
            ("/", Some("/")),
            ("/a%20b", Some("/a b")),
            ("/%c3%A9", Some("/é")),
            ("/a%2Fb", Some("/a/b")),
            ("/a+b", Some("/a+b")),
            ("/a%00b", None),
            ("/%ff", None),
            ("/%", None),
            ("/%4", None),
            ("/%4g", None),
        ] {
            assert_eq!(Path::of(raw).map(|path| path.decoded).as_deref(), want, "{raw}");
        }
        let path = Path::of("/%61b/%20c").expect("a path");
        assert_eq!(path.raw_behind(3), "/%20c");
        assert_eq!(path.raw_behind(0), "/%61b/%20c");
    }

    #[test]
    fn a_request_is_told_as_the_rfc_has_it() {
        let request = Request::get("/a%20b?x=1&y").header("host", "example.com:8080").header("x-one", "1");
        let request = request.header("x-one", "2").header("proxy", "evil").header("x_one", "3").header("cookie", "a");
        let request = request.header("cookie", "b").header("authorization", "Basic x").header("connection", "close");
        let told = told(&Script::default(), &[("REMOTE_HOST", "mine"), ("HTTP_PROXY", "own:3128")], request);
        let version = env!("CARGO_PKG_VERSION");
        let want = format!(
            "GATEWAY_INTERFACE=CGI/1.1 HTTP_AUTHORIZATION=Basic x HTTP_COOKIE=a; b HTTP_HOST=example.com:8080 \
             HTTP_PROXY=own:3128 HTTP_X_ONE=1, 2 PATH_INFO=/a b QUERY_STRING=x=1&y REMOTE_ADDR=192.0.2.7 \
             REMOTE_HOST=mine REMOTE_PORT=5000 REQUEST_METHOD=GET REQUEST_SCHEME=http REQUEST_URI=/a%20b?x=1&y \
             SCRIPT_NAME= SERVER_NAME=example.com SERVER_PORT=8080 SERVER_PROTOCOL=HTTP/1.1 \
             SERVER_SOFTWARE=anyport/{version} X_FULL_URL=http://example.com:8080/a%20b?x=1&y X_MATCHED_ROUTE=/... \
             X_RAW_PATH_INFO=/a%20b"
        );
        assert_eq!(told.join(" "), want);
    }

    #[test]
    fn conventions() {
        let wagi =
            Script { route: "/hi/...".parse().expect("a route"), convention: Convention::Wagi, ..Script::default() };
        let request = || Request::get("/hi/%20there?a&b=c").header("host", "h").header("authorization", "Basic x");
        let lines = told(&wagi, &[], request()).join(" ");
        for want in [
            "SCRIPT_NAME=/hi ",
            "PATH_INFO=/ there PATH_TRANSLATED=/ there ",
            "X_RAW_PATH_INFO=/%20there",
            "X_MATCHED_ROUTE=/hi/... ",
            "AUTH_TYPE= CONTENT_LENGTH=0 CONTENT_TYPE= ",
        ] {
            assert!(lines.contains(want), "{want} in {lines}");
        }
        assert!(!lines.contains("HTTP_AUTHORIZATION"), "{lines}");
        let all = Script { convention: Convention::Wagi, ..Script::default() };
        assert!(told(&all, &[], request()).contains(&"SCRIPT_NAME=/".to_owned()), "as WAGI had it");
        let wcgi = Script { convention: Convention::Wcgi, ..Script::default() };
        let lines = told(&wcgi, &[], request()).join(" ");
        for want in ["SCRIPT_NAME=/hi/ there ", "PATH_INFO=/hi/ there ", "SCRIPT_FILENAME=/app/hi/ there "] {
            assert!(lines.contains(want), "{want} in {lines}");
        }
        let parts = request().body(()).expect("a request").into_parts().0;
        let arguments = |script: &Script| arguments(script, "x.wasm", &["given".to_owned()], &parts).join("|");
        assert_eq!(arguments(&wagi), "/hi/%20there|a|b=c");
        assert_eq!(arguments(&wcgi), "x.wasm|given");
        let argv = Some("run ${SCRIPT_NAME} --  ${ARGS} x${SCRIPT_NAME}".to_owned());
        assert_eq!(arguments(&Script { argv, ..wagi }), "run|/hi|--|a|b=c|x/hi");
    }

    #[test]
    fn tls_and_http2_are_told() {
        let request = Request::post("https://h/x").version(Version::HTTP_2).header("content-length", "3");
        let parts = request.header("content-type", "a/b").body(()).expect("a request").into_parts().0;
        let client = Client { peer: "[2001:db8::1]:5".parse().expect("an address"), is_secure: true };
        let path = Path::of(parts.uri.path()).expect("a path");
        let all = variables(&Script::default(), &[], &parts, true, &path, client);
        for (name, want) in [
            ("HTTPS", "on"),
            ("REQUEST_SCHEME", "https"),
            ("SERVER_PORT", "443"),
            ("SERVER_PROTOCOL", "HTTP/2.0"),
            ("HTTP_HOST", "h"),
            ("REMOTE_ADDR", "2001:db8::1"),
            ("X_FULL_URL", "https://h/x"),
            ("CONTENT_LENGTH", "3"),
            ("CONTENT_TYPE", "a/b"),
        ] {
            let value = all.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
            assert_eq!(value, Some(want), "{name}");
        }
    }

    #[test]
    fn hosts() {
        for (host, is_secure, want) in [
            ("a", false, ("a", "80")),
            ("a", true, ("a", "443")),
            ("a:", true, ("a", "443")),
            ("a:81", true, ("a", "81")),
            ("[::1]", false, ("[::1]", "80")),
            ("[::1]:81", false, ("[::1]", "81")),
        ] {
            let scheme = if is_secure { "https" } else { "http" };
            assert_eq!(Target { scheme, host, path_and_query: "/" }.server(), want, "{host}");
        }
    }
}
