//! What the policy allows and refuses, and what a request may not say.

use std::sync::mpsc;

use super::client::{Guest, PATIENCE};
use super::upstream::{OK, Upstream};

#[test]
fn nothing_is_allowed_by_default_and_no_connection_is_made() {
    let upstream = Upstream::answering(OK);
    let guest = Guest::allowed(&[]);
    assert_eq!(guest.fetch(&upstream.url("/")), (502, "destination-ip-prohibited\n".to_owned()));
    let named = format!("http://localhost:{}/", upstream.port);
    assert_eq!(guest.fetch(&named), (502, "http-request-denied\n".to_owned()));
    assert_eq!(upstream.accepted(), 0);
}

#[test]
fn a_rule_allows_what_it_names() {
    let upstream = Upstream::answering(OK);
    let port = upstream.port;
    let address = upstream.url("/");
    let name = format!("http://localhost:{port}/");
    for (rule, by_address, by_name) in [
        (format!("127.0.0.1:{port}"), true, false),
        ("private".to_owned(), true, true),
        ("any".to_owned(), true, true),
        (format!("localhost:{port}"), false, true),
        ("localhost".to_owned(), false, true),
        (format!("localhost:{}", port ^ 1), false, false),
        ("other.example".to_owned(), false, false),
        ("public".to_owned(), false, false),
    ] {
        let guest = Guest::allowed(&[&rule]);
        assert_eq!(guest.fetch(&address).0 == 200, by_address, "{rule}, by address");
        assert_eq!(guest.fetch(&name).0 == 200, by_name, "{rule}, by name");
    }
    // The name is looked up, and then its address is refused.
    let refused = Guest::allowed(&["public"]).fetch(&name);
    assert_eq!(refused, (502, "destination-ip-prohibited\n".to_owned()));
}

#[test]
fn a_metadata_service_is_refused_whatever_is_allowed() {
    let guest = Guest::allowed(&["any"]);
    for url in ["http://169.254.169.254/", "http://[fd00:ec2::254]/", "http://[::ffff:169.254.169.254]/"] {
        assert_eq!(guest.fetch(url), (502, "destination-ip-prohibited\n".to_owned()), "{url}");
    }
}

#[test]
fn a_name_that_nobody_has_is_an_error_of_names() {
    let guest = Guest::allowed(&["nobody.invalid"]);
    assert_eq!(guest.fetch("http://nobody.invalid/"), (502, "dns-error\n".to_owned()));
}

#[test]
fn a_port_where_nobody_listens_refuses() {
    let guest = Guest::allowed(&["127.0.0.1"]);
    assert_eq!(guest.fetch("http://127.0.0.1:1/"), (502, "connection-refused\n".to_owned()));
}

#[test]
fn a_request_is_for_one_host_and_its_head_says_so_once() {
    let (tell, told) = mpsc::channel();
    let upstream = Upstream::new(move |mut connection| {
        while let Some(head) = connection.head() {
            tell.send(head).expect("the test waits for it");
            connection.write(OK);
        }
    });
    let guest = Guest::allowed(&["127.0.0.1"]);
    // What is of the connection is not for it to say.
    for field in ["connection:x-a", "host:other", "transfer-encoding:chunked", "upgrade:h2c", "keep-alive:timeout=5"] {
        let refused = guest.fetch(&format!("{}&field={field}", upstream.url("/")));
        assert_eq!(refused, (502, "HeaderError::Forbidden\n".to_owned()), "{field}");
    }
    assert_eq!(upstream.accepted(), 0);
    assert_eq!(guest.fetch(&format!("{}&field=x-a:b", upstream.url("/path?a=b"))), (200, "far".to_owned()));
    let head = told.recv_timeout(PATIENCE).expect("it has come").to_lowercase();
    let mut lines = head.lines();
    assert_eq!(lines.next(), Some("get /path?a=b http/1.1"));
    let fields: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    let names: Vec<&str> = fields.iter().filter_map(|field| field.split(':').next()).collect();
    assert_eq!(
        fields[names.iter().position(|name| *name == "host").expect("one")],
        format!("host: {}", upstream.rule())
    );
    for name in ["connection", "upgrade", "keep-alive", "proxy-connection"] {
        assert!(!names.contains(&name), "{head}");
    }
    let framings = names.iter().filter(|name| ["content-length", "transfer-encoding"].contains(name)).count();
    assert!(framings <= 1, "{head}");
    assert!(fields.contains(&"x-a: b"), "{head}");
    assert_eq!(names.iter().filter(|name| **name == "host").count(), 1, "{head}");
}

#[test]
fn what_is_no_host_or_no_request_is_refused_before_it_is_sent() {
    let upstream = Upstream::answering(OK);
    let guest = Guest::allowed(&["any"]);
    for (method, url, error) in [
        ("GET", format!("http://user:secret@127.0.0.1:{}/", upstream.port), "http-request-uri-invalid\n"),
        ("GET", "http://127.0.0.1:0/".to_owned(), "http-request-uri-invalid\n"),
        ("GET", "ftp%3A//127.0.0.1/".to_owned(), "http-protocol-error\n"),
    ] {
        assert_eq!(guest.send(method, &url, ""), (502, error.to_owned()), "{method} {url}");
    }
    assert_eq!(upstream.accepted(), 0);
}

#[test]
fn a_redirect_is_the_guests_to_follow() {
    let elsewhere = Upstream::answering(OK);
    let moved = format!("HTTP/1.1 302 Found\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", elsewhere.url("/"));
    let upstream = Upstream::answering(&moved);
    let guest = Guest::allowed(&["127.0.0.1"]);
    assert_eq!(guest.fetch(&upstream.url("/")), (302, String::new()));
    assert_eq!(elsewhere.accepted(), 0);
}
