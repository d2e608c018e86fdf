//! What a guest must not reach: files outside of its directories, writes to read-only ones, and a
//! network that nobody allowed. The known escapes of other runtimes are here by their names.

mod wat_support;

mod sandbox {
    mod files;
    mod network;
    mod read_only;
}
