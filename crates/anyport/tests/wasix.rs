//! WASIX: servers that its toolchain made, and each way in which it is not what its headers, its own host, or
//! preview1 say.

mod wat_support;

mod wasix {
    mod calls;
    mod ends;
    mod files;
    mod machine;
    mod processes;
    mod servers;
    mod signals;
    mod surprises;
    mod threads;
    mod waiting;
    mod wasi_threads;
}
