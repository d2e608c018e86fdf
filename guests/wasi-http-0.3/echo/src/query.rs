//! What a request asks for: its path, and its parameters after the `?`.

pub struct Target {
    pub path: String,
    parameters: Vec<(String, String)>,
}

impl Target {
    pub fn new(path_with_query: &str) -> Self {
        let (path, query) = path_with_query.split_once('?').unwrap_or((path_with_query, ""));
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        Self {
            path: path.to_owned(),
            parameters: pairs.map(|(name, value)| (name.to_owned(), decoded(value))).collect(),
        }
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The parameter as a number; `otherwise` where it is missing, or none.
    pub fn number(&self, name: &str, otherwise: u64) -> u64 {
        self.text(name).and_then(|value| value.parse().ok()).unwrap_or(otherwise)
    }
}

/// With each %XX as the byte it stands for.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).and_then(|hex| u8::from_str_radix(str::from_utf8(hex).ok()?, 16).ok());
        match hex {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
