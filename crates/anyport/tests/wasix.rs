//! WASIX: servers that its toolchain made, and each way in which it is not what its headers, its own host, or
//! preview1 say.

mod wasix {
    mod ends;
    mod machine;
    mod servers;
    mod signals;
    mod surprises;
    mod threads;
    mod wasi_threads;
}
