//! How the program is linked.

fn main() {
    // For a fixed address: RATIONALE.md, "Why is the shim linked for a fixed address?".
    println!("cargo::rustc-link-arg-bins=-no-pie");
    println!("cargo::rerun-if-changed=build.rs");
}
