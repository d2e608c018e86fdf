//! A handler as one writes it with wstd: an async `main` for one request, whose every wait is one `poll` of all that
//! it waits for. Bodies are streams; what one needs not look at is passed on as it comes.
//!
//! | route | answer |
//! |---|---|
//! | `/` | `hello from wstd` |
//! | `POST /echo` | the body, each bit as it comes, and the trailers |
//! | `POST /len` | how many bytes the body has |
//! | `/wait?ms=10` | after that time |
//! | `/stream?n=3&ms=10` | so many chunks, with a pause before each |
//! | `/fetch?url=URL` | what is there; 502 and the error if nothing |

use std::borrow::Cow;

use futures_lite::stream;
use wstd::http::{Body, Client, Error, Method, Request, Response, StatusCode, Uri};
use wstd::task::sleep;
use wstd::time::Duration;

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let (head, mut body) = request.into_parts();
    match (&head.method, head.uri.path()) {
        (&Method::GET, "/") => Ok(Response::new("hello from wstd\n".into())),
        (&Method::POST, "/echo") => {
            let mut response = Response::new(body);
            // A server tells beforehand what its trailers are.
            if let Some(names) = head.headers.get("trailer") {
                response.headers_mut().insert("trailer", names.clone());
            }
            Ok(response)
        }
        (&Method::POST, "/len") => page(StatusCode::OK, format!("{}\n", body.contents().await?.len())),
        (&Method::GET, "/wait") => {
            let ms = number(&head.uri, "ms", 10);
            sleep(Duration::from_millis(ms)).await;
            page(StatusCode::OK, format!("waited {ms}\n"))
        }
        (&Method::GET, "/stream") => Ok(Response::new(chunks(number(&head.uri, "n", 3), number(&head.uri, "ms", 10)))),
        (&Method::GET, "/fetch") => match fetched(&head.uri).await {
            Ok(response) => Ok(response),
            Err(error) => page(StatusCode::BAD_GATEWAY, format!("{error}\n")),
        },
        _ => page(StatusCode::NOT_FOUND, "no such page\n".to_owned()),
    }
}

fn chunks(count: u64, ms: u64) -> Body {
    Body::from_stream(stream::unfold(0, move |i| async move {
        if i == count {
            return None;
        }
        sleep(Duration::from_millis(ms)).await;
        Some((format!("chunk {i}\n"), i + 1))
    }))
}

async fn fetched(asked: &Uri) -> Result<Response<Body>, Error> {
    let url = parameter(asked, "url").unwrap_or_default();
    let (head, body) = Client::new().send(Request::get(&*url).body(())?).await?.into_parts();
    // Its fields are about that connection as well as the page; the page is enough here.
    Ok(Response::builder().status(head.status).body(body)?)
}

fn page(status: StatusCode, text: String) -> Result<Response<Body>, Error> {
    Ok(Response::builder().status(status).header("content-type", "text/plain; charset=utf-8").body(text.into())?)
}

fn number(uri: &Uri, name: &str, otherwise: u64) -> u64 {
    parameter(uri, name).and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

fn parameter<'uri>(uri: &'uri Uri, name: &str) -> Option<Cow<'uri, str>> {
    let mut pairs = form_urlencoded::parse(uri.query()?.as_bytes());
    pairs.find_map(|(known, value)| (known == name).then_some(value))
}
