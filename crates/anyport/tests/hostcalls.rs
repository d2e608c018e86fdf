//! Every hostcall by itself, called by a guest on strings: what it gives, what it changes, and what it
//! answers when it is called wrongly.

mod wat_support;

mod hostcalls {
    mod addresses;
    mod datagrams;
    mod descriptors;
    mod linking;
    mod lookup;
    mod options;
    mod pacing;
    mod paths;
    mod pointers;
    mod polling;
    mod process;
    mod streams;
}
