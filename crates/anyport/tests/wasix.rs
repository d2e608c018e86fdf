//! WASIX: servers that its toolchain made, and each way in which it is not what its headers, its own host, or
//! preview1 say.

mod wasix {
    mod machine;
    mod servers;
    mod surprises;
    mod threads;
    mod waiting;
}
