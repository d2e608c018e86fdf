//! What guests of `wasi:http` get and servers see when a guest sends HTTP requests of its own.
//!
//! The guests are ours, `guests/wasi-http-0.2/echo` and its like of 0.3: the route `/fetch` sends a request and
//! passes the answer on, or says the error's name. The server is played by the test.
#![allow(clippy::duplicate_mod, reason = "the same tests for each version")]

#[path = "requests"]
mod of_02 {
    const GUEST: &str = "wasi-http-0.2/echo";

    mod bodies;
    mod client;
    mod connections;
    mod refusals;
    mod simulated;
    mod timeouts;
    mod tls;
    mod upstream;
}

#[path = "requests"]
mod of_03 {
    const GUEST: &str = "wasi-http-0.3/echo";

    mod bodies;
    mod client;
    mod connections;
    mod refusals;
    mod simulated;
    mod timeouts;
    mod tls;
    mod upstream;
}
