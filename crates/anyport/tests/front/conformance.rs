//! What RFC 9112 says to refuse is refused, and no guest is called for it: bytes in, an answer or the end out.

use tokio::io::AsyncWriteExt;

use super::service::{Service, status, until};
use crate::support::{Tested, within};

/// Heads that no guest is to see: why, what is sent in place of `{}` and around it, and the statuses that are right.
const HEADS: &[(&str, &str, u16)] = &[
    ("space before the colon", "POST {} HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello", 400),
    ("folded line", "GET {} HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
    ("folded first line", "GET {} HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    ("bare CR in a value", "GET {} HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400),
    ("bare CR for a line's end", "GET {} HTTP/1.1\rHost: a\r\r", 400),
    ("NUL in a value", "GET {} HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
    ("NUL in a name", "GET {} HTTP/1.1\r\nHost: a\r\nX\0: a\r\n\r\n", 400),
    ("DEL in a value", "GET {} HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n", 400),
    ("no colon", "GET {} HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400),
    ("no name", "GET {} HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", 400),
    ("name with a bracket", "GET {} HTTP/1.1\r\nHost: a\r\nX(y): a\r\n\r\n", 400),
    ("no Host", "GET {} HTTP/1.1\r\n\r\n", 400),
    ("two Hosts", "GET {} HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    ("two other Hosts", "GET {} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ("two Hosts in 1.0", "GET {} HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ("empty Host", "GET {} HTTP/1.1\r\nHost:\r\n\r\n", 400),
    ("Host with a user", "GET {} HTTP/1.1\r\nHost: user@a\r\n\r\n", 400),
    ("Host with a path", "GET {} HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    ("Host with a space", "GET {} HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    ("Host with a list", "GET {} HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    ("Host with a wrong port", "GET {} HTTP/1.1\r\nHost: a:99999\r\n\r\n", 400),
    ("absolute form without Host", "GET http://a{} HTTP/1.1\r\n\r\n", 400),
    ("absolute form of another scheme", "GET ftp://a{} HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("absolute form with a user", "GET http://u@a{} HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("asterisk without OPTIONS", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("authority form", "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("CONNECT", "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    ("space in the target", "GET {} x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("control character in the target", "GET {}\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("space before the method", " GET {} HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("method with a bracket", "G(T {} HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("HTTP/0.9", "GET {}\r\n\r\n", 400),
    ("HTTP/1.2", "GET {} HTTP/1.2\r\nHost: a\r\n\r\n", 400),
    ("HTTP/2.0 without its preface", "GET {} HTTP/2.0\r\nHost: a\r\n\r\n", 400),
    ("http/1.1", "GET {} http/1.1\r\nHost: a\r\n\r\n", 400),
    ("two lengths", "POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400),
    ("two lengths in a line", "POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 6\r\n\r\nhello!", 400),
    ("length with a sign", "POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", 400),
    ("negative length", "POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nhello", 400),
    ("hexadecimal length", "POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello", 400),
    ("length with a space in it", "POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\nhello", 400),
    ("no length", "POST {} HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nhello", 400),
    ("endless length", "POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\nhello", 400),
    ("coding of 1.0", "POST {} HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("coding that does not end", "POST {} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", 400),
    ("chunked, identity", "POST {} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    ("xchunked", "POST {} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    ("gzip, chunked", "POST {} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    (
        "chunked twice",
        "POST {} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
];

/// Bodies that are cut into chunks wrongly.
const CHUNKS: &[(&str, &str)] = &[
    ("no size", "\r\nhello\r\n0\r\n\r\n"),
    ("a word for a size", "xyz\r\nhello\r\n0\r\n\r\n"),
    ("a negative size", "-5\r\nhello\r\n0\r\n\r\n"),
    ("a size with a sign", "+5\r\nhello\r\n0\r\n\r\n"),
    ("a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
    ("a size with a space in it", "5 5\r\nhello\r\n0\r\n\r\n"),
    ("a size that overflows", "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    ("a size that ends with LF", "5\nhello\r\n0\r\n\r\n"),
    ("a size that ends with CR", "5\rhello\r\n0\r\n\r\n"),
    ("LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
    ("a chunk that is longer than its size", "3\r\nhello\r\n0\r\n\r\n"),
    ("a chunk without its end", "5\r\nhello0\r\n\r\n"),
    ("a trailer that is folded", "5\r\nhello\r\n0\r\nX: a\r\n b\r\n\r\n"),
    ("a trailer without a colon", "5\r\nhello\r\n0\r\nX\r\n\r\n"),
];

/// What would be a request of somebody else's, if it were taken for one.
const SMUGGLED: &str = "GET /stdout?text=smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn wrong_heads_are_refused_and_call_no_guest() -> Tested {
    for mut service in Service::of_each_version(|_, _| {}) {
        for (why, head, wanted) in HEADS {
            let answer = service.send(head.replace("{}", "/stdout?text=called") + SMUGGLED).await?;
            assert_eq!(status(&answer), *wanted, "{why}: {answer}");
            assert_eq!(answer.matches("HTTP/1.").count(), 1, "{why}: {answer}");
            assert_eq!(service.called().await?, [""; 0], "{why}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() -> Tested {
    let lines = |count: usize| (0..count).map(|number| format!("X-{number}: a\r\n")).collect::<String>();
    // Below 8 KiB it is not hyper that counts.
    for most in [4 << 10, 16 << 10] {
        let mut service = Service::with(|limits, _| limits.header_bytes = most);
        let long = "a".repeat(most + (4 << 10));
        for (why, head, wanted) in [
            ("lines", format!("GET {{}} HTTP/1.1\r\nHost: a\r\n{}\r\n", lines(100)), 431),
            ("a long line", format!("GET {{}} HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), 431),
            ("a long name", format!("GET {{}} HTTP/1.1\r\nHost: a\r\n{long}: a\r\n\r\n"), 431),
            ("a long target", format!("GET {{}}{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 431),
            ("a line that never ends", format!("GET {{}} HTTP/1.1\r\nHost: a\r\nX: {long}"), 431),
            (
                "as many as may be",
                format!("GET {{}} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{}\r\n", lines(98)),
                200,
            ),
            (
                "a long line that may be",
                {
                    let long = "a".repeat(most - 200);
                    format!("GET {{}} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: {long}\r\n\r\n")
                },
                200,
            ),
        ] {
            let answer = service.send(head.replace("{}", "/stdout?text=called")).await?;
            assert_eq!(status(&answer), wanted, "{most}, {why}: {answer}");
            let called = service.called().await?;
            assert_eq!(called.is_empty(), wanted != 200, "{most}, {why}");
        }
    }
    Ok(())
}

/// Whether the guest reads before it answers or behind that.
#[tokio::test]
async fn a_client_that_waits_for_100_is_told_to_go_on_when_the_guest_reads() -> Tested {
    let head = |method: &str, path: &str| {
        format!("{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n")
    };
    for service in Service::of_each_version(|_, _| {}) {
        for path in ["/hello", "/echo"] {
            let mut client = service.connect().await?;
            within("sending", client.write_all(head("POST", path).as_bytes())).await?;
            let told = until(&mut client, "\r\n\r\n").await?;
            assert!(told.starts_with("HTTP/1.1 100 Continue\r\n\r\n"), "{path}: {told}");
            within("sending", client.write_all(b"ahead")).await?;
            until(&mut client, "ahead").await?;
        }
        // These have their answer without.
        for path in ["/hello", "/status?code=401", "/stream?n=1&ms=0", "/none", "/trap"] {
            let answer = service.send(head("GET", path)).await?;
            assert!(!answer.contains("100 Continue") && status(&answer) >= 200, "{path}: {answer}");
        }
    }
    Ok(())
}

/// A guest that neither reads nor writes behind its head keeps nobody from having that.
#[tokio::test]
async fn a_client_that_waits_for_100_has_the_head_of_a_guest_that_only_waits() -> Tested {
    let service = Service::start();
    let mut client = service.connect().await?;
    let head = "POST /late?ms=600000 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    within("sending", client.write_all(head.as_bytes())).await?;
    let told = until(&mut client, "\r\n\r\n").await?;
    assert!(told.starts_with("HTTP/1.1 200 OK\r\n"), "{told}");
    Ok(())
}

#[tokio::test]
async fn wrong_chunks_are_refused_and_smuggle_nothing() -> Tested {
    for mut service in Service::of_each_version(|_, _| {}) {
        for (why, body) in CHUNKS {
            let head = "POST /hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
            let answer = service.send([head, body, SMUGGLED].concat()).await?;
            assert_eq!(status(&answer), 400, "{why}: {answer}");
            assert_eq!(answer.matches("HTTP/1.").count(), 1, "{why}: {answer}");
            assert_eq!(service.called().await?, [""; 0], "{why}");
        }
    }
    Ok(())
}

/// RFC 9112, 6.1. Behind another request in the same bytes it is answered by its coding, and the connection ends then.
#[tokio::test]
async fn a_length_beside_chunked_is_refused_and_smuggles_nothing() -> Tested {
    for mut service in Service::of_each_version(|_, _| {}) {
        for lines in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Content-Length: 100\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive",
        ] {
            let head = format!("POST /headers HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n0\r\n\r\n");
            let answer = service.send(format!("{head}{SMUGGLED}")).await?;
            assert_eq!(status(&answer), 400, "{answer}");
            assert_eq!(answer.matches("HTTP/1.").count(), 1, "{answer}");
            let first = "GET /status?code=204 HTTP/1.1\r\nHost: a\r\n\r\n";
            let answer = service.send(format!("{first}{head}{SMUGGLED}")).await?;
            assert!(!answer.to_lowercase().contains("content-length: 5\n"), "the guest sees it: {answer}");
            assert_eq!(answer.matches("HTTP/1.").count(), 2, "{answer}");
            assert_eq!(service.called().await?, [""; 0], "{lines}");
        }
    }
    Ok(())
}

/// What is not wrong passes: a server that refuses too much is of no use.
#[tokio::test]
async fn right_requests_pass() -> Tested {
    for service in Service::of_each_version(|_, _| {}) {
        for (request, wanted) in [
            ("GET /headers HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "authority a\n"),
            ("GET /headers HTTP/1.1\r\nhost:a\r\nconnection:close\r\n\r\n", "authority a\n"),
            ("\r\nGET /hello HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n", "Hello\n"),
            ("GET http://b/headers HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "authority b\n"),
            ("GET /headers HTTP/1.0\r\nHost: a\r\n\r\n", "authority a\n"),
            ("GET /headers HTTP/1.0\r\n\r\n", "authority localhost\n"),
            (
                "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\
                 Content-Length: 3\r\n\r\nabc",
                "abc",
            ),
            (
                "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: Chunked\r\n\r\n\
                 3;a=\"b\"\r\nabc\r\n0\r\n\r\n",
                "abc",
            ),
        ] {
            let answer = service.send(request).await?;
            assert_eq!(status(&answer), 200, "{request}: {answer}");
            assert!(answer.contains(wanted), "{request}: {answer}");
        }
    }
    Ok(())
}
