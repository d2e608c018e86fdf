//! `Expect: 100-continue`: a client that waits for a word of ours before it sends the body of its request.
//! <https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1>
//!
//! hyper says it when the guest asks for the body, unless the head of the answer has gone before: nothing may come
//! between the two. Some guests write that head first, and read then. Their client would wait in vain, curl for a
//! second.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use http::header::EXPECT;
use http::{Request, Response, Version};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::answer::Answer;
use super::request::{Blame, Refused};
use super::upload::Fate;

/// Whether a client waits for the word.
pub(super) fn is_expected<B>(request: &Request<B>) -> bool {
    let expects = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    request.version() == Version::HTTP_11 && request.headers().get(EXPECT).is_some_and(expects)
}

/// How long an answer is kept back at most: as long as curl waits for the word.
const HELD: Duration = Duration::from_secs(1);

/// Keeps an answer back while its guest may yet ask for the body of the request: until it does, gives the body up, or
/// writes some of the answer.
///
/// One that has broken off by then is none.
pub(super) async fn hold(mut answer: Response<Answer>, fate: &Fate) -> Result<Response<Answer>, Refused> {
    if let Answer::Streamed(streamed) = answer.body_mut()
        && !streamed.has_no_body()
    {
        let decided = poll_fn(|context| {
            // First: the guest goes on as its answer is asked for.
            let has_begun = streamed.poll_begun(context).is_ready();
            if fate.poll_settled(context).is_ready() || has_begun { Poll::Ready(()) } else { Poll::Pending }
        });
        // If it does none of that, its client has the head.
        let _ = timeout(HELD, decided).await;
        // Has hyper look at what was asked for, before it has a head to write.
        yield_now().await;
        if let Some(why) = streamed.failure() {
            return Err(Refused::Error(Blame::Guest, why));
        }
    }
    Ok(answer)
}
