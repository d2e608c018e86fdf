//! A handler of wasi:http 0.3 that does what its path says, so that a test can bring about each thing a
//! handler may do to a runtime. Each route is here. Requests may run beside each other in one instance.
//!
//! | route | answer |
//! |---|---|
//! | `/`, `/hello` | `Hello`; to `POST` with a body NAME `👋 Hello NAME` |
//! | `/echo` | the body, each bit as it comes, and the trailers |
//! | `/pass` | the same, but the runtime is handed the body as it is |
//! | `/headers` | method, path, scheme and authority as the handler sees them, then each field, a line each |
//! | `/stream?n=5&ms=50` | so many chunks, with a pause before each but the first |
//! | `/big?bytes=1000000` | so many `x`; `&length=N` gives another length than they have |
//! | `/status?code=200` | that status |
//! | `/many-fields?n=100` | so many fields in the head |
//! | `/trailers?n=100` | so many fields in the trailers |
//! | `/field?field=NAME:VALUE` | that field in the head; 400 and the error's name if it may not be there |
//! | `/count` | how many requests this instance has had, and how many of them it is at: `3 1` |
//! | `/sleep?ms=100` | after that time |
//! | `/env`, `/args` | the environment, or the arguments, a line each |
//! | `/file?path=PATH` | the file; 404 and the error if there is none |
//! | `/write?path=PATH&text=TEXT` | `written`, and the file has that text alone; 403 and the error if it may not |
//! | `/stdout?text=TEXT`, `/stderr?text=TEXT` | `written`, and the line is |
//! | `/fetch?url=URL` | what a request to there gives, with the method and the body of this one; 502 and the name of the error if nothing. `&ms=N` is a timeout for each of its steps, `&field=NAME:VALUE` a field |
//! | `/grow?mb=N` | `grown`, with so much more memory, all of it written to; `full` if there is not so much |
//! | `/leak?n=100` | `leaked`, and so many resources are never dropped; `&what=waits` are others |
//! | `/after?ms=100` | `sent`, then it computes for that time and writes `after` to stderr |
//! | `/later?ms=100` | `sent`, then it sleeps for that time and writes `later` to stderr |
//! | `/cut?bytes=10` | so many bytes of a body that is dropped unfinished |
//! | `/error?code=NAME` | none: the handler gives that error; there are `connection-refused`, `http-response-timeout`, else it is `internal-error` |
//! | `/trap`, `/panic`, `/exit?code=0`, `/loop` | none: it ends that way, or never |

mod query;
mod reply;

use std::sync::atomic::{AtomicU64, Ordering};
use std::{hint, mem};

use wasip3::cli::{environment, exit, stderr, stdout};
use wasip3::clocks::monotonic_clock;
use wasip3::filesystem::preopens;
use wasip3::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, RequestOptions, Response, Scheme};
use wasip3::{spawn_local, wit_stream};

use query::Target;
use reply::{Body, CHUNK, Gone, Incoming, begin, fields, name, page, response};

wasip3::http::service::export!(Echo);

struct Echo;

static COUNT: AtomicU64 = AtomicU64::new(0);
static UNDER_WAY: AtomicU64 = AtomicU64::new(0);

const NS_PER_MS: u64 = 1_000_000;

impl wasip3::exports::http::handler::Guest for Echo {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        COUNT.fetch_add(1, Ordering::Relaxed);
        UNDER_WAY.fetch_add(1, Ordering::Relaxed);
        let result = answer(request).await;
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
        result
    }
}

async fn answer(request: Request) -> Result<Response, ErrorCode> {
    let target = Target::new(&request.get_path_with_query().unwrap_or_default());
    Ok(match target.path.as_str() {
        "/" | "/hello" => hello(request).await,
        "/echo" => echo(request),
        "/pass" => {
            let fields = kept(&request.get_headers());
            response(200, fields, Incoming::of_request(request))
        }
        "/headers" => page(200, described(&request)),
        "/stream" => stream(&target),
        "/big" => big(&target),
        "/status" => page(u16::try_from(target.number("code", 200)).unwrap_or(0), "as asked\n".to_owned()),
        "/many-fields" => many_fields(&target),
        "/trailers" => trailers(&target),
        "/field" => match asked_fields(&target) {
            Ok(fields) => {
                let (response, body) = begin(200, fields);
                write(body.finish(Ok(None)));
                response
            }
            Err(error) => page(400, error + "\n"),
        },
        "/count" => page(200, format!("{} {}\n", COUNT.load(Ordering::Relaxed), UNDER_WAY.load(Ordering::Relaxed))),
        "/sleep" => {
            let ms = target.number("ms", 100);
            monotonic_clock::wait_for(ms * NS_PER_MS).await;
            page(200, format!("slept {ms}\n"))
        }
        "/env" => {
            let variables = environment::get_environment().into_iter();
            page(200, lines(variables.map(|(name, value)| format!("{name}={value}"))))
        }
        "/args" => page(200, lines(environment::get_arguments().into_iter())),
        "/file" => file(&target).await,
        "/write" => {
            match overwrite(target.text("path").unwrap_or_default(), target.text("text").unwrap_or_default()).await {
                Ok(()) => page(200, "written\n".to_owned()),
                Err(error) => page(403, error + "\n"),
            }
        }
        "/stdout" => {
            let (mut writer, text) = wit_stream::new();
            let written = stdout::write_via_stream(text);
            writer.write_all(format!("{}\n", target.text("text").unwrap_or_default()).into_bytes()).await;
            drop(writer);
            page(200, written.await.map_or_else(|error| format!("{error:?}\n"), |()| "written\n".to_owned()))
        }
        "/stderr" => {
            complain(target.text("text").unwrap_or_default()).await;
            page(200, "written\n".to_owned())
        }
        "/fetch" => fetch(request, &target).await,
        "/grow" => grow(&target),
        "/leak" => {
            let waits = target.text("what") == Some("waits");
            (0..target.number("n", 100)).for_each(|_| match waits {
                true => mem::forget(wit_stream::new::<u8>()),
                false => mem::forget(Fields::new()),
            });
            page(200, "leaked\n".to_owned())
        }
        "/after" => after(&target),
        "/later" => later(&target),
        "/cut" => cut(&target),
        "/error" => {
            return Err(match target.text("code") {
                Some("connection-refused") => ErrorCode::ConnectionRefused,
                Some("http-response-timeout") => ErrorCode::HttpResponseTimeout,
                _ => ErrorCode::InternalError(Some("as asked".to_owned())),
            });
        }
        "/trap" => core::arch::wasm32::unreachable(),
        "/panic" => panic!("as asked"),
        "/exit" => {
            exit::exit_with_code(u8::try_from(target.number("code", 0)).unwrap_or(1));
            unreachable!("it does not return")
        }
        "/loop" => loop {
            hint::black_box(());
        },
        _ => page(404, "no such page\n".to_owned()),
    })
}

async fn hello(request: Request) -> Response {
    if !matches!(request.get_method(), Method::Post) {
        return page(200, "Hello\n".to_owned());
    }
    let name = Incoming::of_request(request).all().await;
    page(200, format!("👋 Hello {}\n", String::from_utf8_lossy(&name)))
}

fn echo(request: Request) -> Response {
    let (response, body) = begin(200, kept(&request.get_headers()));
    write(Incoming::of_request(request).copy_to(body));
    response
}

/// The fields that go with a body. A server tells beforehand what its trailers are.
fn kept(fields: &Fields) -> Fields {
    let mut pairs = fields.copy_all();
    pairs.retain(|(name, _)| ["content-type", "trailer"].contains(&name.to_lowercase().as_str()));
    Fields::from_list(&pairs).unwrap_or_else(|_| Fields::new())
}

/// Goes on after the response has been returned. A client that is gone is nothing to end over.
fn write(body: impl Future<Output = Result<(), Gone>> + 'static) {
    spawn_local(async move {
        if body.await.is_err() {
            complain("the client is gone").await;
        }
    });
}

fn described(request: &Request) -> String {
    let mut text = format!(
        "method {}\npath {}\nscheme {}\nauthority {}\n",
        method(&request.get_method()),
        request.get_path_with_query().as_deref().unwrap_or("none"),
        match request.get_scheme() {
            Some(Scheme::Http) => "http".to_owned(),
            Some(Scheme::Https) => "https".to_owned(),
            Some(Scheme::Other(name)) => name,
            None => "none".to_owned(),
        },
        request.get_authority().as_deref().unwrap_or("none"),
    );
    for (name, value) in request.get_headers().copy_all() {
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

fn stream(target: &Target) -> Response {
    let (count, ms) = (target.number("n", 5), target.number("ms", 50));
    let (response, mut body) = begin(200, Fields::new());
    write(async move {
        for i in 0..count {
            if i > 0 {
                monotonic_clock::wait_for(ms * NS_PER_MS).await;
            }
            body.write(format!("chunk {i}\n").into_bytes()).await?;
        }
        body.finish(Ok(None)).await
    });
    response
}

fn big(target: &Target) -> Response {
    let bytes = target.number("bytes", 1_000_000);
    let length = target.number("length", bytes).to_string();
    let (response, mut body) = begin(200, fields(&[("content-length", &length)]));
    write(async move {
        write_big(&mut body, bytes).await?;
        body.finish(Ok(None)).await
    });
    response
}

async fn write_big(body: &mut Body, bytes: u64) -> Result<(), Gone> {
    let mut left = bytes;
    while left > 0 {
        let part = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        body.write(vec![b'x'; part]).await?;
        left -= part as u64;
    }
    Ok(())
}

fn many_fields(target: &Target) -> Response {
    let fields = Fields::new();
    for i in 0..target.number("n", 100) {
        if let Err(error) = fields.append(&format!("field-{i}"), format!("value {i}").as_bytes()) {
            return page(500, format!("field {i}: {error:?}\n"));
        }
    }
    let (response, body) = begin(200, fields);
    write(body.finish(Ok(None)));
    response
}

fn trailers(target: &Target) -> Response {
    let fields = Fields::new();
    for i in 0..target.number("n", 100) {
        if let Err(error) = fields.append(&format!("field-{i}"), format!("value {i}").as_bytes()) {
            return page(500, format!("field {i}: {error:?}\n"));
        }
    }
    let (response, body) = begin(200, reply::fields(&[("trailer", "field-0")]));
    write(body.finish(Ok(Some(fields))));
    response
}

/// The fields that a request asks for, or why there is none of them.
fn asked_fields(target: &Target) -> Result<Fields, String> {
    let fields = Fields::new();
    if let Some((name, value)) = target.text("field").and_then(|field| field.split_once(':')) {
        fields.append(name, value.as_bytes()).map_err(|error| format!("{error:?}"))?;
    }
    Ok(fields)
}

async fn file(target: &Target) -> Response {
    match read(target.text("path").unwrap_or_default()).await {
        Ok(bytes) => page(200, String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => page(404, error + "\n"),
    }
}

async fn read(path: &str) -> Result<Vec<u8>, String> {
    let file = open(path, OpenFlags::empty(), DescriptorFlags::READ).await?;
    let (stream, end) = file.read_via_stream(0);
    let bytes = stream.collect().await;
    end.await.map_err(|error| format!("{error:?}"))?;
    Ok(bytes)
}

async fn overwrite(path: &str, text: &str) -> Result<(), String> {
    let file = open(path, OpenFlags::CREATE | OpenFlags::TRUNCATE, DescriptorFlags::WRITE).await?;
    let (mut writer, stream) = wit_stream::new();
    let written = file.write_via_stream(stream, 0);
    writer.write_all(text.as_bytes().to_vec()).await;
    drop(writer);
    written.await.map_err(|error| format!("{error:?}"))
}

/// Opens the file in the folder, of those the guest was given, whose name is the longest that it begins with.
async fn open(path: &str, how: OpenFlags, what: DescriptorFlags) -> Result<Descriptor, String> {
    let folders = preopens::get_directories();
    let found = folders.iter().filter_map(|(folder, name)| {
        let rest = path.strip_prefix(name.trim_end_matches('/'))?;
        Some((folder, rest.strip_prefix('/')?))
    });
    let (folder, rest) = found.min_by_key(|(_, rest)| rest.len()).ok_or("no folder has it")?;
    folder.open_at(PathFlags::SYMLINK_FOLLOW, rest.to_owned(), how, what).await.map_err(|error| format!("{error:?}"))
}

async fn complain(text: &str) {
    let (mut writer, stream) = wit_stream::new();
    let written = stderr::write_via_stream(stream);
    writer.write_all(format!("{text}\n").into_bytes()).await;
    drop(writer);
    _ = written.await;
}

async fn fetch(request: Request, target: &Target) -> Response {
    match fetched(request, target).await {
        Ok(got) => {
            let (status, fields) = (got.get_status_code(), kept(&got.get_headers()));
            let (response, body) = begin(status, fields);
            write(Incoming::of_response(got).copy_to(body));
            response
        }
        Err(error) => page(502, error + "\n"),
    }
}

/// The response, or the name of the error.
async fn fetched(request: Request, target: &Target) -> Result<Response, String> {
    let url = target.text("url").unwrap_or_default();
    let (scheme, rest) = url.split_once("://").ok_or("the url has no scheme")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let method = request.get_method();
    let (body, contents) = Body::new();
    let (outgoing, _sent) = Request::new(asked_fields(target)?, Some(contents.stream), contents.end, timeouts(target));
    outgoing.set_method(&method).map_err(|()| "not a method")?;
    outgoing.set_scheme(Some(&scheme)).map_err(|()| "not a scheme")?;
    outgoing.set_authority(Some(authority)).map_err(|()| "not an authority")?;
    outgoing.set_path_with_query(Some(if path.is_empty() { "/" } else { path })).map_err(|()| "not a path")?;
    write(Incoming::of_request(request).copy_to(body));
    client::send(outgoing).await.map_err(|error| name(&error))
}

fn timeouts(target: &Target) -> Option<RequestOptions> {
    target.text("ms")?;
    let timeout = Some(target.number("ms", 0) * NS_PER_MS);
    let options = RequestOptions::new();
    options.set_connect_timeout(timeout).ok()?;
    options.set_first_byte_timeout(timeout).ok()?;
    options.set_between_bytes_timeout(timeout).ok()?;
    Some(options)
}

fn grow(target: &Target) -> Response {
    let bytes = usize::try_from(target.number("mb", 1) << 20).unwrap_or(usize::MAX);
    let mut memory = Vec::<u8>::new();
    if memory.try_reserve_exact(bytes).is_err() {
        return page(500, "full\n".to_owned());
    }
    memory.resize(bytes, 1);
    hint::black_box(&memory);
    page(200, "grown\n".to_owned())
}

fn after(target: &Target) -> Response {
    let (ms, text) = (target.number("ms", 100), "sent\n");
    let (response, mut body) = begin(200, fields(&[("content-length", &text.len().to_string())]));
    write(async move {
        body.write(text.into()).await?;
        body.finish(Ok(None)).await?;
        let end = monotonic_clock::now() + ms * NS_PER_MS;
        while monotonic_clock::now() < end {
            hint::black_box(());
        }
        complain("after").await;
        Ok(())
    });
    response
}

fn later(target: &Target) -> Response {
    let ms = target.number("ms", 100);
    spawn_local(async move {
        monotonic_clock::wait_for(ms * NS_PER_MS).await;
        complain("later").await;
    });
    page(200, "sent\n".to_owned())
}

fn cut(target: &Target) -> Response {
    let bytes = target.number("bytes", 10);
    let (response, mut body) = begin(200, Fields::new());
    write(async move { write_big(&mut body, bytes).await });
    response
}

fn lines(items: impl Iterator<Item = String>) -> String {
    items.map(|item| item + "\n").collect()
}
