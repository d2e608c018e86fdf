//! A handler as one writes it with waki: a function from a request to a response. Bodies are read and written whole,
//! by calls that block.
//!
//! | route | answer |
//! |---|---|
//! | `/?name=NAME` | `hello NAME` |
//! | `POST /echo` | the body |
//! | `POST /form` | the fields of an encoded form in the order of their names, a line each |
//! | `POST /json` | the counter that the body is, one further |
//! | `/headers` | the authority, then the fields of the request, a line each |
//! | `/fetch?url=URL` | what is there; 502 and the error if nothing |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use waki::header::CONTENT_TYPE;
use waki::{Client, ErrorCode, Method, Request, Response, handler};

#[derive(Serialize, Deserialize)]
struct Counter {
    name: String,
    n: u64,
}

#[handler]
fn answer(request: Request) -> Result<Response, ErrorCode> {
    let query = request.query();
    match (request.method(), request.path()) {
        (Method::Get, "/") => page(200, format!("hello {}\n", query.get("name").map_or("world", |name| name))),
        (Method::Post, "/echo") => echo(request),
        (Method::Post, "/form") => form(request),
        (Method::Post, "/json") => match request.json::<Counter>() {
            Ok(counter) => Response::builder().json(&Counter { n: counter.n + 1, ..counter }).build(),
            Err(error) => page(400, format!("{error}\n")),
        },
        (_, "/headers") => page(200, described(&request)),
        (Method::Get, "/fetch") => fetch(query.get("url").map_or("", |url| url)),
        _ => page(404, "no such page\n".to_owned()),
    }
}

fn echo(request: Request) -> Result<Response, ErrorCode> {
    let kind = request.header(CONTENT_TYPE).cloned();
    let response = Response::builder().headers(kind.map(|kind| (CONTENT_TYPE, kind)));
    response.body(request.body().map_err(failed)?).build()
}

fn form(request: Request) -> Result<Response, ErrorCode> {
    let fields: BTreeMap<_, _> = request.form().map_err(failed)?.into_iter().collect();
    page(200, fields.iter().map(|(name, value)| format!("{name}={value}\n")).collect())
}

fn described(request: &Request) -> String {
    let mut text =
        format!("authority {}\n", request.authority().as_ref().map_or("none", |authority| authority.as_str()));
    for (name, value) in request.headers() {
        text += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    text
}

fn fetch(url: &str) -> Result<Response, ErrorCode> {
    match Client::new().get(url).send() {
        Ok(got) => Response::builder().status_code(got.status_code()).body(got.body().map_err(failed)?).build(),
        Err(error) => page(502, format!("{error}\n")),
    }
}

fn page(status: u16, text: String) -> Result<Response, ErrorCode> {
    Response::builder().status_code(status).header(CONTENT_TYPE, "text/plain; charset=utf-8").body(text).build()
}

fn failed(error: impl ToString) -> ErrorCode {
    ErrorCode::InternalError(Some(error.to_string()))
}
