//! What holds of options whatever bytes a guest sets one to: there is one for them or an errno, and an
//! option that was understood is given back as it was.

use fastrand::Rng;

use super::{BINDTODEVICE, LINGER, VALUE_BYTES, decode, encode_option, parse_timeval, timeval};
use crate::errno::Errno;
use crate::rounds;

/// Up to so many bytes, of numbers at their edges.
fn value(random: &mut Rng) -> Vec<u8> {
    const EDGES: [u32; 9] = [0, 0, 1, 2, 999_999, 1_000_000, i32::MAX as u32, 1 << 31, u32::MAX];
    let mut bytes: Vec<u8> = (0..4).flat_map(|_| EDGES[random.usize(..9)].to_le_bytes()).collect();
    bytes.truncate(random.usize(..=VALUE_BYTES as usize));
    bytes
}

#[test]
fn an_option_that_was_understood_is_given_back() {
    let mut understood = 0;
    rounds::play(10_000, |seed| {
        let mut random = Rng::with_seed(seed);
        let (name, value) = (random.u32(..BINDTODEVICE + 2), value(&mut random));
        match decode(name, &value) {
            Ok(option) => {
                let bytes = encode_option(option);
                assert!(bytes.len() == if name == LINGER { 8 } else { 4 });
                assert_eq!(decode(name, &bytes), Ok(option), "{name} {value:?}");
                understood += 1;
            }
            Err(errno) => assert_eq!(errno, Errno::Invalid, "{name} {value:?}"),
        }
    });
    assert!(understood > 0, "none was understood");
}

#[test]
fn a_time_that_was_understood_is_given_back() {
    let mut understood = 0;
    rounds::play(10_000, |seed| {
        let value = value(&mut Rng::with_seed(seed));
        match parse_timeval(&value) {
            Ok(time) => {
                assert_eq!(timeval(time), value);
                understood += 1;
            }
            Err(Errno::Invalid) => assert!(value.len() < 16, "{value:?}"),
            Err(errno) => assert_eq!(errno, Errno::Domain, "{value:?}"),
        }
    });
    assert!(understood > 0, "none was understood");
}
