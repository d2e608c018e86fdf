//! The bytes that behaviour guests make and sum up.

/// What `source N` answers.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    let mut period = Vec::with_capacity(251);
    let mut byte = 7_u8;
    for _ in 0..251 {
        period.push(byte);
        byte = if byte < 251 - 31 { byte + 31 } else { byte - (251 - 31) };
    }
    let mut bytes = period.repeat(length / period.len() + 1);
    bytes.truncate(length);
    bytes
}

/// FNV-1a, 32 bits.
pub(crate) fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(2_166_136_261, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(16_777_619))
}

/// What `sink N` answers to these bytes.
pub(crate) fn sunk(bytes: &[u8]) -> String {
    format!("sunk {} {:08x}", bytes.len(), fnv(bytes))
}

/// As `assert_eq!`, for what is too long to print.
pub(crate) fn assert_same(found: &[u8], wanted: &[u8]) {
    if found == wanted {
        return;
    }
    let at = found.iter().zip(wanted).take_while(|(found, wanted)| found == wanted).count();
    let near = |bytes: &[u8]| String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 40)]).into_owned();
    panic!(
        "{} bytes instead of {}, other ones from {at} on: {:?} instead of {:?}",
        found.len(),
        wanted.len(),
        near(found),
        near(wanted),
    );
}
