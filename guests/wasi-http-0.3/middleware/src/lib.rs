//! A middleware of wasi:http 0.3: it is a handler, and it asks a handler. What runs is a composition of it with the
//! one behind it, here `../echo`.
//!
//! | route | answer |
//! |---|---|
//! | `/denied` | 403 of its own: the handler behind it hears nothing |
//! | all else | that of the handler behind it, with the field `x-middleware: passed` |

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{spawn_local, wit_future, wit_stream};

mod behind {
    // The crate has a handler to export, and none to import. This one is made from the interfaces that the crate ships,
    // which guests/build.sh puts into `wit`, and shares its types, so that what is asked can be handed on.
    wasip3::wit_bindgen::generate!({
        path: "wit",
        inline: "
            package anyport:middleware;

            world middleware {
                import wasi:http/handler@0.3.2;
            }
        ",
        with: { "wasi:http/types@0.3.2": wasip3::http::types, "wasi:clocks/types@0.3.2": wasip3::clocks::types },
        generate_all,
        runtime_path: "wasip3::wit_bindgen::rt",
    });

    pub use wasi::http::handler::handle;
}

wasip3::http::service::export!(Middleware);

struct Middleware;

impl wasip3::exports::http::handler::Guest for Middleware {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        if target.split('?').next() == Some("/denied") {
            return denied();
        }
        marked(behind::handle(request).await?)
    }
}

/// The same response with a field more. The fields of a response cannot be changed once it is made, so a new one takes
/// over the body and the trailers as they are.
fn marked(response: Response) -> Result<Response, ErrorCode> {
    let status = response.get_status_code();
    let fields = response.get_headers().clone();
    fields.append("x-middleware", b"passed").map_err(failed)?;

    let (report, reported) = wit_future::new(|| Ok(()));
    let (body, trailers) = Response::consume_body(response, reported);
    let (response, sent) = Response::new(fields, Some(body), trailers);
    response.set_status_code(status).map_err(|()| failed("its status cannot be passed on"))?;
    // Whoever made the body is told what became of it.
    spawn_local(async move {
        _ = report.write(sent.await).await;
    });
    Ok(response)
}

fn denied() -> Result<Response, ErrorCode> {
    let text = "denied\n";
    let fields = Fields::new();
    fields.append("content-type", b"text/plain; charset=utf-8").map_err(failed)?;
    fields.append("content-length", text.len().to_string().as_bytes()).map_err(failed)?;

    let (mut writer, body) = wit_stream::new();
    let (end, trailers) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(fields, Some(body), trailers);
    response.set_status_code(403).map_err(|()| failed("403 is no status"))?;
    spawn_local(async move {
        writer.write_all(text.as_bytes().to_vec()).await;
        drop(writer);
        _ = end.write(Ok(None)).await;
    });
    Ok(response)
}

fn failed(error: impl std::fmt::Debug) -> ErrorCode {
    ErrorCode::InternalError(Some(format!("{error:?}")))
}
