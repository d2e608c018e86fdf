//! Components that answer HTTP requests: what a client gets, what a guest may not do to others, and when it ends.
//!
//! Each body runs for `wasi:http` 0.2 and 0.3, unless it says why not. Programs of CGI have theirs in `cgi.rs`.

mod services {
    mod answers;
    mod bodies;
    mod cgi;
    mod cgi_threads;
    mod ends;
    mod faults;
    mod instances;
    mod limits;
    pub(crate) mod service;
}
