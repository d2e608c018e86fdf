//! A handler of wasi:http 0.2 that does what its path says, so that a test can bring about each thing a
//! handler may do to a runtime. Each route is here.
//!
//! | route | answer |
//! |---|---|
//! | `/`, `/hello` | `Hello`; to `POST` with a body NAME `👋 Hello NAME` |
//! | `/echo` | the body, each bit as it comes, and the trailers |
//! | `/headers` | method, path, scheme and authority as the handler sees them, then each field, a line each |
//! | `/stream?n=5&ms=50` | so many chunks, each flushed, with a pause before each but the first |
//! | `/big?bytes=1000000` | so many `x`; `&length=N` gives another length than they have |
//! | `/status?code=200` | that status |
//! | `/many-fields?n=100` | so many fields in the head |
//! | `/trailers?n=100` | so many fields in the trailers |
//! | `/field?field=NAME:VALUE` | that field in the head; 400 and the error's name if it may not be there |
//! | `/count` | how many requests this instance has had |
//! | `/sleep?ms=100` | after that time |
//! | `/env`, `/args` | the environment, or the arguments, a line each |
//! | `/file?path=PATH` | the file; 404 and the error if there is none |
//! | `/write?path=PATH&text=TEXT` | `written`, and the file has that text alone; 403 and the error if it may not |
//! | `/stdout?text=TEXT`, `/stderr?text=TEXT` | `written`, and the line is |
//! | `/fetch?url=URL` | what a request to there gives, with the method and the body of this one; 502 and the name of the error if nothing. `&ms=N` is a timeout for each of its steps, `&field=NAME:VALUE` a field |
//! | `/grow?mb=N` | `grown`, with so much more memory, all of it written to; `full` if there is not so much |
//! | `/leak?n=100` | `leaked`, and so many resources are never dropped; `&what=waits` are others |
//! | `/after?ms=100` | `sent`, then it computes for that time and writes `after` to stderr |
//! | `/cut?bytes=10` | so many bytes of a body that is dropped unfinished |
//! | `/half?bytes=10&ms=0` | so many bytes of a body, then, after that time, it traps |
//! | `/late?ms=100` | the head at once, and `late` after that time |
//! | `/error?code=NAME` | none: the handler gives that error; there are `connection-refused`, `http-response-timeout`, else it is `internal-error` |
//! | `/none` | none: it returns without one |
//! | `/trap`, `/panic`, `/exit?code=0`, `/loop` | none: it ends that way, or never |

mod query;
mod reply;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs, hint, mem, process};

use wasip2::clocks::monotonic_clock;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingRequest, IncomingResponse, Method, OutgoingRequest, RequestOptions, ResponseOutparam,
    Scheme,
};

use query::Target;
use reply::{Body, CHUNK, Incoming, begin, fields, name, page};

wasip2::http::proxy::export!(Echo);

struct Echo;

static COUNT: AtomicU64 = AtomicU64::new(0);

impl wasip2::exports::http::incoming_handler::Guest for Echo {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // A client that is gone is nothing to end over.
        if let Err(error) = answer(request, out) {
            eprintln!("answer: {error}");
        }
    }
}

fn answer(request: IncomingRequest, out: ResponseOutparam) -> io::Result<()> {
    let target = Target::new(&request.path_with_query().unwrap_or_default());
    match target.path.as_str() {
        "/" | "/hello" => hello(request, out),
        "/echo" => echo(request, out),
        "/headers" => page(out, 200, &described(&request)),
        "/stream" => stream(&target, out),
        "/big" => big(&target, out),
        "/status" => page(out, u16::try_from(target.number("code", 200)).unwrap_or(0), "as asked\n"),
        "/many-fields" => many_fields(&target, out),
        "/trailers" => trailers(&target, out),
        "/field" => match asked_fields(&target) {
            Ok(fields) => begin(out, 200, fields).map_or(Ok(()), |body| body.finish(None)),
            Err(error) => page(out, 400, &format!("{error}\n")),
        },
        "/count" => page(out, 200, &format!("{}\n", COUNT.load(Ordering::Relaxed))),
        "/sleep" => {
            let ms = target.number("ms", 100);
            thread::sleep(Duration::from_millis(ms));
            page(out, 200, &format!("slept {ms}\n"))
        }
        "/env" => page(out, 200, &lines(env::vars().map(|(name, value)| format!("{name}={value}")))),
        "/args" => page(out, 200, &lines(env::args())),
        "/file" => file(&target, out),
        "/write" => write(&target, out),
        "/stdout" => {
            println!("{}", target.text("text").unwrap_or_default());
            page(out, 200, "written\n")
        }
        "/stderr" => {
            eprintln!("{}", target.text("text").unwrap_or_default());
            page(out, 200, "written\n")
        }
        "/fetch" => fetch(request, &target, out),
        "/grow" => grow(&target, out),
        "/leak" => {
            let waits = target.text("what") == Some("waits");
            (0..target.number("n", 100)).for_each(|_| match waits {
                true => mem::forget(monotonic_clock::subscribe_duration(0)),
                false => mem::forget(Fields::new()),
            });
            page(out, 200, "leaked\n")
        }
        "/after" => after(&target, out),
        "/cut" => cut(&target, out),
        "/half" => half(&target, out),
        "/late" => late(&target, out),
        "/error" => {
            ResponseOutparam::set(
                out,
                Err(match target.text("code") {
                    Some("connection-refused") => ErrorCode::ConnectionRefused,
                    Some("http-response-timeout") => ErrorCode::HttpResponseTimeout,
                    _ => ErrorCode::InternalError(Some("as asked".to_owned())),
                }),
            );
            Ok(())
        }
        "/none" => Ok(()),
        "/trap" => core::arch::wasm32::unreachable(),
        "/panic" => panic!("as asked"),
        "/exit" => process::exit(i32::try_from(target.number("code", 0)).unwrap_or(1)),
        "/loop" => loop {
            hint::black_box(());
        },
        _ => page(out, 404, "no such page\n"),
    }
}

fn hello(request: IncomingRequest, out: ResponseOutparam) -> io::Result<()> {
    if !matches!(request.method(), Method::Post) {
        return page(out, 200, "Hello\n");
    }
    let name = body_of(&request).all()?;
    page(out, 200, &format!("👋 Hello {}\n", String::from_utf8_lossy(&name)))
}

fn echo(request: IncomingRequest, out: ResponseOutparam) -> io::Result<()> {
    // A server tells beforehand what its trailers are.
    let kept = ["content-type", "trailer"];
    let mut pairs = request.headers().entries();
    pairs.retain(|(name, _)| kept.contains(&name.to_lowercase().as_str()));
    let fields = Fields::from_list(&pairs).unwrap_or_else(|_| Fields::new());
    match begin(out, 200, fields) {
        Some(body) => body_of(&request).copy_to(body),
        None => Ok(()),
    }
}

fn described(request: &IncomingRequest) -> String {
    let mut text = format!(
        "method {}\npath {}\nscheme {}\nauthority {}\n",
        method(&request.method()),
        request.path_with_query().as_deref().unwrap_or("none"),
        match request.scheme() {
            Some(Scheme::Http) => "http".to_owned(),
            Some(Scheme::Https) => "https".to_owned(),
            Some(Scheme::Other(name)) => name,
            None => "none".to_owned(),
        },
        request.authority().as_deref().unwrap_or("none"),
    );
    for (name, value) in request.headers().entries() {
        text += &format!("{name}: {}\n", String::from_utf8_lossy(&value));
    }
    text
}

fn method(method: &Method) -> String {
    match method {
        Method::Other(name) => name.clone(),
        known => format!("{known:?}").trim_start_matches("Method::").to_uppercase(),
    }
}

fn stream(target: &Target, out: ResponseOutparam) -> io::Result<()> {
    let (count, ms) = (target.number("n", 5), target.number("ms", 50));
    let Some(mut body) = begin(out, 200, Fields::new()) else { return Ok(()) };
    for i in 0..count {
        if i > 0 {
            thread::sleep(Duration::from_millis(ms));
        }
        body.write(format!("chunk {i}\n").as_bytes())?;
        body.flush()?;
    }
    body.finish(None)
}

fn big(target: &Target, out: ResponseOutparam) -> io::Result<()> {
    let bytes = target.number("bytes", 1_000_000);
    let length = target.number("length", bytes).to_string();
    let Some(mut body) = begin(out, 200, fields(&[("content-length", &length)])) else { return Ok(()) };
    write_big(&mut body, bytes)?;
    body.finish(None)
}

fn write_big(body: &mut Body, bytes: u64) -> io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        let part = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        body.write(&[b'x'; CHUNK][..part])?;
        left -= part as u64;
    }
    Ok(())
}

fn many_fields(target: &Target, out: ResponseOutparam) -> io::Result<()> {
    let fields = Fields::new();
    for i in 0..target.number("n", 100) {
        if let Err(error) = fields.append(&format!("field-{i}"), format!("value {i}").as_bytes()) {
            return page(out, 500, &format!("field {i}: {error:?}\n"));
        }
    }
    match begin(out, 200, fields) {
        Some(body) => body.finish(None),
        None => Ok(()),
    }
}

fn trailers(target: &Target, out: ResponseOutparam) -> io::Result<()> {
    let Some(body) = begin(out, 200, fields(&[("trailer", "field-0")])) else { return Ok(()) };
    let fields = Fields::new();
    for i in 0..target.number("n", 100) {
        if let Err(error) = fields.append(&format!("field-{i}"), format!("value {i}").as_bytes()) {
            return Err(io::Error::other(format!("field {i}: {error:?}")));
        }
    }
    body.finish(Some(fields))
}

/// The fields that a request asks for, or why there is none of them.
fn asked_fields(target: &Target) -> Result<Fields, String> {
    let fields = Fields::new();
    if let Some((name, value)) = target.text("field").and_then(|field| field.split_once(':')) {
        fields.append(name, value.as_bytes()).map_err(|error| format!("{error:?}"))?;
    }
    Ok(fields)
}

fn write(target: &Target, out: ResponseOutparam) -> io::Result<()> {
    match fs::write(target.text("path").unwrap_or_default(), target.text("text").unwrap_or_default()) {
        Ok(()) => page(out, 200, "written\n"),
        Err(error) => page(out, 403, &format!("{error}\n")),
    }
}

fn file(target: &Target, out: ResponseOutparam) -> io::Result<()> {
    match fs::read(target.text("path").unwrap_or_default()) {
        Ok(bytes) => page(out, 200, &String::from_utf8_lossy(&bytes)),
        Err(error) => page(out, 404, &format!("{error}\n")),
    }
}

fn fetch(request: IncomingRequest, target: &Target, out: ResponseOutparam) -> io::Result<()> {
    let response = match fetched(&request, target) {
        Ok(response) => response,
        Err(error) => return page(out, 502, &format!("{error}\n")),
    };
    let mut pairs = response.headers().entries();
    pairs.retain(|(name, _)| ["content-type", "trailer"].contains(&name.to_lowercase().as_str()));
    let fields = Fields::from_list(&pairs).unwrap_or_else(|_| Fields::new());
    match begin(out, response.status(), fields) {
        Some(body) => Incoming::new(response.consume().expect("it is asked for once")).copy_to(body),
        None => Ok(()),
    }
}

/// The response, or the name of the error.
fn fetched(request: &IncomingRequest, target: &Target) -> Result<IncomingResponse, String> {
    let url = target.text("url").unwrap_or_default();
    let (scheme, rest) = url.split_once("://").ok_or("the url has no scheme")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let outgoing = OutgoingRequest::new(asked_fields(target)?);
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    outgoing.set_method(&request.method()).map_err(|()| "not a method")?;
    outgoing.set_scheme(Some(&scheme)).map_err(|()| "not a scheme")?;
    outgoing.set_authority(Some(authority)).map_err(|()| "not an authority")?;
    outgoing.set_path_with_query(Some(if path.is_empty() { "/" } else { path })).map_err(|()| "not a path")?;
    let body = outgoing.body().expect("it is asked for once");
    let future = outgoing_handler::handle(outgoing, timeouts(target)).map_err(|error| name(&error))?;
    body_of(request).copy_to(Body::new(body)).map_err(|error| error.to_string())?;
    let result = loop {
        match future.get() {
            Some(result) => break result.expect("it is asked for once"),
            None => future.subscribe().block(),
        }
    };
    result.map_err(|error| name(&error))
}

fn timeouts(target: &Target) -> Option<RequestOptions> {
    target.text("ms")?;
    let timeout = Some(target.number("ms", 0) * 1_000_000);
    let options = RequestOptions::new();
    options.set_connect_timeout(timeout).ok()?;
    options.set_first_byte_timeout(timeout).ok()?;
    options.set_between_bytes_timeout(timeout).ok()?;
    Some(options)
}

fn grow(target: &Target, out: ResponseOutparam) -> io::Result<()> {
    let bytes = usize::try_from(target.number("mb", 1) << 20).unwrap_or(usize::MAX);
    let mut memory = Vec::<u8>::new();
    if memory.try_reserve_exact(bytes).is_err() {
        return page(out, 500, "full\n");
    }
    memory.resize(bytes, 1);
    hint::black_box(&memory);
    page(out, 200, "grown\n")
}

fn after(target: &Target, out: ResponseOutparam) -> io::Result<()> {
    let end = Instant::now() + Duration::from_millis(target.number("ms", 100));
    page(out, 200, "sent\n")?;
    while Instant::now() < end {
        hint::black_box(());
    }
    eprintln!("after");
    Ok(())
}

fn cut(target: &Target, out: ResponseOutparam) -> io::Result<()> {
    let Some(mut body) = begin(out, 200, Fields::new()) else { return Ok(()) };
    write_big(&mut body, target.number("bytes", 10))?;
    body.flush()
}

/// Fails within its answer, and leaves everything as it is.
fn half(target: &Target, out: ResponseOutparam) -> io::Result<()> {
    let Some(mut body) = begin(out, 200, Fields::new()) else { return Ok(()) };
    write_big(&mut body, target.number("bytes", 10))?;
    body.flush()?;
    thread::sleep(Duration::from_millis(target.number("ms", 0)));
    core::arch::wasm32::unreachable()
}

fn late(target: &Target, out: ResponseOutparam) -> io::Result<()> {
    let Some(mut body) = begin(out, 200, Fields::new()) else { return Ok(()) };
    thread::sleep(Duration::from_millis(target.number("ms", 100)));
    body.write(b"late\n")?;
    body.finish(None)
}

fn body_of(request: &IncomingRequest) -> Incoming {
    Incoming::new(request.consume().expect("it is asked for once"))
}

fn lines(items: impl Iterator<Item = String>) -> String {
    items.map(|item| item + "\n").collect()
}
