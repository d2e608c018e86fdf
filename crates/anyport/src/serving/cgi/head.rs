//! The head of an answer as a CGI program writes it (RFC 3875, 6), and what of it is no HTTP.

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, LOCATION, TRAILER, UPGRADE};
use http::{Response, StatusCode};

use crate::error::{brief, printable};

/// Where a head ends, its empty line included; looks from there on where it ended not before.
pub(super) fn end(bytes: &[u8], from: usize) -> Option<usize> {
    // The newline before the empty line may be there already.
    let from = from.saturating_sub(2);
    let is_line_begin = |at: usize| at == 0 || bytes[at - 1] == b'\n';
    (from..bytes.len()).filter(|at| is_line_begin(*at)).find_map(|at| match &bytes[at..] {
        [b'\n', ..] => Some(at + 1),
        [b'\r', b'\n', ..] => Some(at + 2),
        _ => None,
    })
}

/// What a head says, or why it says nothing.
pub(super) fn parse(bytes: &[u8]) -> Result<Response<()>, String> {
    let (mut status, mut headers) = (None, HeaderMap::new());
    for line in bytes.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let (name, value) = field(line)?;
        if name.as_str() == "status" {
            if status.replace(status_of(&value)?).is_some() {
                return Err("there are several `Status` lines".to_owned());
            }
        } else if !IGNORED.contains(&name) {
            check(&name, &value, &headers)?;
            headers.try_append(name, value).map_err(|_| "there are too many lines".to_owned())?;
        }
    }
    let status =
        status.unwrap_or_else(|| if headers.contains_key(LOCATION) { StatusCode::FOUND } else { StatusCode::OK });
    if status == StatusCode::NO_CONTENT {
        // RFC 9110, 8.6.
        headers.remove(CONTENT_LENGTH);
    }
    let mut head = Response::new(());
    *head.status_mut() = status;
    *head.headers_mut() = headers;
    Ok(head)
}

fn field(line: &[u8]) -> Result<(HeaderName, HeaderValue), String> {
    let Some(colon) = line.iter().position(|byte| *byte == b':') else {
        return Err(format!("the line `{}` has no colon", shown(line)));
    };
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    let name = HeaderName::from_bytes(name).map_err(|_| format!("`{}` is no name of a header", shown(name)))?;
    let value =
        HeaderValue::from_bytes(value).map_err(|_| format!("`{name}` has a value with bytes that may not be there"))?;
    Ok((name, value))
}

/// `404 Not Found`: the reason is the program's own business. What is below 200 is no answer.
fn status_of(value: &HeaderValue) -> Result<StatusCode, String> {
    let text = value.as_bytes();
    let code = text.split(|byte| *byte == b' ').next().unwrap_or_default();
    StatusCode::from_bytes(code)
        .ok()
        .filter(|code| (200..600).contains(&code.as_u16()))
        .ok_or_else(|| format!("`{}` is no status of an answer", shown(text)))
}

/// What would make the answer another one for its client.
fn check(name: &HeaderName, value: &HeaderValue, headers: &HeaderMap) -> Result<(), String> {
    if FORBIDDEN.contains(name) {
        return Err(format!("`{name}` is the server's to say"));
    }
    if *name == CONTENT_LENGTH {
        let is_number = value.to_str().is_ok_and(|text| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u64>().is_ok()
        });
        if !is_number {
            return Err(format!("`{}` is no length", shown(value.as_bytes())));
        }
        if headers.contains_key(CONTENT_LENGTH) {
            return Err("there are several lengths".to_owned());
        }
    }
    Ok(())
}

/// A part of a program's output as a line of the log shows it.
fn shown(bytes: &[u8]) -> String {
    brief(&printable(&String::from_utf8_lossy(bytes)))
}

/// How the body is carried: we carry it.
static FORBIDDEN: [HeaderName; 3] = [http::header::TRANSFER_ENCODING, TRAILER, UPGRADE];

/// What concerns the connection, which is ours: programs of old say `Connection: close`.
static IGNORED: [HeaderName; 3] =
    [CONNECTION, HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_end_at_the_first_empty_line() {
        for (text, want) in [
            ("A: b\n\nbody", Some(6)),
            ("A: b\r\n\r\nbody", Some(8)),
            ("A: b\r\n\nbody", Some(7)),
            ("A: b\n\r\nbody", Some(7)),
            ("\nbody", Some(1)),
            ("\r\nbody", Some(2)),
            ("A: b\n", None),
            ("A: b\r\n\r", None),
            ("", None),
        ] {
            assert_eq!(end(text.as_bytes(), 0), want, "{text:?}");
            // However it comes in pieces.
            for from in 0..=want.map_or(text.len(), |end| end - 1) {
                assert_eq!(end(text.as_bytes(), from), want, "{text:?} from {from}");
            }
        }
    }

    #[test]
    fn what_heads_say() {
        let parsed = |text: &str| {
            parse(text.as_bytes()).map(|head| {
                let lines =
                    head.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or("?")));
                (head.status().as_u16(), lines.collect::<Vec<_>>().join(", "))
            })
        };
        for (text, status, headers) in [
            ("Content-Type: text/plain\n\n", 200, "content-type: text/plain"),
            ("content-type:text/plain\r\nX: \r\n\r\n", 200, "content-type: text/plain, x: "),
            ("Status: 404 Not Found\n\n", 404, ""),
            ("status: 404\nX: y\n\n", 404, "x: y"),
            ("Location: /elsewhere\n\n", 302, "location: /elsewhere"),
            ("Status: 201 Created\nLocation: /new\n\n", 201, "location: /new"),
            ("Set-Cookie: a=b\nSet-Cookie: c=d\n\n", 200, "set-cookie: a=b, set-cookie: c=d"),
            ("Connection: close\nKeep-Alive: 5\nX: y\n\n", 200, "x: y"),
            ("Status: 204 No Content\nContent-Length: 0\n\n", 204, ""),
            ("Content-Length: 12\n\n", 200, "content-length: 12"),
            ("\n", 200, ""),
        ] {
            assert_eq!(parsed(text), Ok((status, headers.to_owned())), "{text:?}");
        }
    }

    #[test]
    fn what_no_head_may_say() {
        for (text, want) in [
            ("hello\n\n", "the line `hello` has no colon"),
            ("HTTP/1.1 200 OK\n\n", "the line `HTTP/1.1 200 OK` has no colon"),
            ("a b: c\n\n", "`a b` is no name of a header"),
            ("A: b\n folded: c\n\n", "` folded` is no name of a header"),
            (": c\n\n", "`` is no name of a header"),
            ("A: b\rX: c\n\n", "`a` has a value with bytes that may not be there"),
            ("A: \x1b[2J\n\n", "`a` has a value with bytes that may not be there"),
            ("Status: ok\n\n", "`ok` is no status of an answer"),
            ("Status:\n\n", "`` is no status of an answer"),
            ("Status: 2000\n\n", "`2000` is no status of an answer"),
            ("Status: 101 Switching Protocols\n\n", "`101 Switching Protocols` is no status of an answer"),
            ("Status: 200\nStatus: 404\n\n", "there are several `Status` lines"),
            ("Transfer-Encoding: chunked\n\n", "`transfer-encoding` is the server's to say"),
            ("Content-Length: x\n\n", "`x` is no length"),
            ("Content-Length: +1\n\n", "`+1` is no length"),
            ("Content-Length: 1\nContent-Length: 1\n\n", "there are several lengths"),
        ] {
            assert_eq!(parse(text.as_bytes()).expect_err("refused"), want, "{text:?}");
        }
    }
}
