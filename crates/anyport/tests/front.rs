//! What stands between the network and a guest: TLS, the PROXY protocol, limits of requests, what is refused before a
//! guest is called, and clients that mean harm.
//!
//! Each test looks at what a client gets, and at whether the guest was called.

mod support;
mod wat_support;

mod front {
    mod abuse;
    mod conformance;
    mod frames;
    mod health;
    mod limits;
    mod log;
    mod proxy;
    mod service;
    mod tls;
    mod tls_streams;
}
