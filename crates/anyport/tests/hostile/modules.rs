//! Modules that no compiler makes: mostly valid, with names, types, counts and lengths as an attacker
//! would have them.

use fastrand::Rng;

use crate::wat_support::{Row, rows};

/// Value types: numbers, vectors, references to functions.
const VALUES: [u8; 6] = [0x7f, 0x7e, 0x7d, 0x7c, 0x7b, 0x70];

/// What a section's number, a type, a kind or a flag may be besides what it should: 0x6f is `externref`.
const BYTES: [u8; 9] = [0, 1, 4, 13, 0x40, 0x6f, 0x7f, 0x80, 0xff];

/// Numbers of a small module that may lie.
const DECISIONS: u8 = 60;

/// Section numbers.
const TYPES: u8 = 1;
const IMPORTS: u8 = 2;
const FUNCTIONS: u8 = 3;
const TABLES: u8 = 4;
const MEMORIES: u8 = 5;
const GLOBALS: u8 = 6;
const EXPORTS: u8 = 7;
const START: u8 = 8;
const CODE: u8 = 10;
const DATA: u8 = 11;

/// A module from a seed.
pub(crate) fn module(seed: u64) -> Vec<u8> {
    let mut random = Rng::with_seed(seed);
    // One lie is found where it is; more hide behind the first.
    let lies = match random.u8(..8) {
        0 => Lies::Never,
        1 => Lies::Often,
        _ => Lies::Once { after: random.u8(..DECISIONS) },
    };
    let mut maker = Maker { random, lies, functions: 0, memories: 0, long_names: 2 };
    let known: Vec<&Row> = (0..4).map(|_| &rows()[maker.random.usize(..rows().len())]).collect();
    let mut sections = vec![
        (TYPES, maker.types(&known)),
        (IMPORTS, maker.imports(&known)),
        // Of the type that `_start` has.
        (FUNCTIONS, maker.list(vec![vec![0], vec![0]])),
        (TABLES, maker.tables()),
        (MEMORIES, maker.memories()),
        (GLOBALS, maker.globals()),
        (EXPORTS, maker.exports()),
        (CODE, maker.code()),
        (DATA, maker.data()),
        (0, maker.custom()),
    ];
    if maker.random.u8(..8) == 0 {
        sections.insert(7, (START, number(maker.functions.into())));
    }
    if maker.is_rude() {
        maker.random.shuffle(&mut sections);
    }
    let mut bytes = b"\0asm\x01\0\0\0".to_vec();
    for (id, section) in sections {
        if section.as_slice() != [0] {
            bytes.push(maker.byte(id));
            bytes.extend(maker.count(section.len()));
            bytes.extend(section);
        }
    }
    bytes
}

/// When a number is not what it should be.
enum Lies {
    Never,
    Once {
        /// So many that are as they should be.
        after: u8,
    },
    Often,
}

/// Modules of a few bytes for each of very many things: imports, imports of other types than there are,
/// exports, types, and functions that do nothing.
pub(crate) fn crowds(count: u32) -> [Vec<u8>; 5] {
    let header = || b"\0asm\x01\0\0\0".to_vec();
    let section = |id: u8, items: Vec<u8>, count: u32| {
        let items = [number(count.into()), items].concat();
        [vec![id], number(items.len() as u64), items].concat()
    };
    let types = || section(TYPES, vec![0x60, 0, 0], 1);
    let repeated = |item: &[u8]| item.repeat(count as usize);
    let known = [sized(b"wasi_snapshot_preview1"), sized(b"sock_accept"), vec![0, 0]].concat();
    let exports = (0..count).flat_map(|index| [sized(format!("{index:x}").as_bytes()), vec![0, 0]].concat()).collect();
    let functions = || section(FUNCTIONS, repeated(&[0]), count);
    let code = || section(CODE, repeated(&[2, 0, 0x0b]), count);
    [
        [header(), types(), section(IMPORTS, repeated(&[0, 0, 0, 0]), count)].concat(),
        [header(), types(), section(IMPORTS, repeated(&known), count)].concat(),
        [header(), types(), functions(), section(EXPORTS, exports, count), code()].concat(),
        [header(), section(TYPES, repeated(&[0x60, 0, 0]), count)].concat(),
        [header(), types(), functions(), code()].concat(),
    ]
}

struct Maker {
    random: Rng,
    lies: Lies,
    /// Functions and memories that were imported.
    functions: u32,
    memories: u32,
    /// Names that may yet be very long.
    long_names: u8,
}

impl Maker {
    /// The empty type, which `_start` has, those of some hostcalls, and others.
    fn types(&mut self, known: &[&Row]) -> Vec<u8> {
        let mut types = vec![vec![0x60, 0, 0]];
        for row in known {
            let params: Vec<u8> = row.wide().map(|wide| if wide { 0x7e } else { 0x7f }).collect();
            let results: &[u8] = if row.gives_errno() { &[0x7f] } else { &[] };
            types.push([vec![0x60], sized(&params), sized(results)].concat());
        }
        for _ in 0..self.random.usize(..4) {
            let most = if self.random.u8(..32) == 0 { 1002 } else { 5 };
            let (params, results) = (self.values(most), self.values(most));
            // Structs, arrays, subtypes and groups of them are `0x5f`, `0x5e`, `0x50`, `0x4f` and `0x4e`.
            let form = if self.is_rude() { 0x4d + self.random.u8(..20) } else { 0x60 };
            types.push([vec![form], params, results].concat());
        }
        self.list(types)
    }

    fn values(&mut self, most: usize) -> Vec<u8> {
        let values: Vec<u8> = (0..self.random.usize(..most)).map(|_| self.value()).collect();
        [self.count(values.len()), values].concat()
    }

    fn value(&mut self) -> u8 {
        let value = VALUES[self.random.usize(..VALUES.len())];
        // There are so many that a lie would seldom be told elsewhere.
        if self.random.u8(..16) == 0 { self.byte(value) } else { value }
    }

    fn imports(&mut self, known: &[&Row]) -> Vec<u8> {
        let mut imports = Vec::new();
        for (index, row) in known.iter().enumerate().take(self.random.usize(..5)) {
            self.functions += 1;
            let names = [sized(b"wasi_snapshot_preview1"), sized(row.name.as_bytes())].concat();
            // At times by another row's type.
            let kind = if self.is_rude() { self.random.usize(..6) } else { index + 1 };
            imports.push([names, vec![0, kind.to_le_bytes()[0]]].concat());
        }
        // Most modules ask for nothing else: the others cannot be run, whatever else they have.
        let others = match self.random.u8(..16) {
            0 => self.random.usize(..3000),
            1..5 => self.random.usize(1..4),
            _ => 0,
        };
        for _ in 0..others {
            let description = self.import_description();
            imports.push([self.name(), self.name(), description].concat());
        }
        self.list(imports)
    }

    /// A function, table, memory, global or tag; at times exact, or of no kind that exists.
    fn import_description(&mut self) -> Vec<u8> {
        match self.random.u8(..8) {
            0 => [vec![1], self.table()].concat(),
            1 => {
                self.memories += 1;
                [vec![2], self.limits()].concat()
            }
            2 => vec![3, self.value(), self.random.u8(..2)],
            3 => vec![4, 0, 0],
            4 if self.is_rude() => vec![BYTES[self.random.usize(..BYTES.len())], 0x20],
            _ => {
                self.functions += 1;
                vec![0, 0]
            }
        }
    }

    fn tables(&mut self) -> Vec<u8> {
        let tables = (0..self.random.usize(..3)).map(|_| self.table()).collect();
        self.list(tables)
    }

    fn table(&mut self) -> Vec<u8> {
        let limits = if self.is_rude() { self.limits() } else { vec![1, 1, 2] };
        [vec![0x70], limits].concat()
    }

    fn memories(&mut self) -> Vec<u8> {
        let memories: Vec<Vec<u8>> = (0..self.random.usize(1..3)).map(|_| self.limits()).collect();
        self.list(memories)
    }

    /// Small; at times shared, of 64 bits or with a page's size of its own, or beyond all bounds.
    fn limits(&mut self) -> Vec<u8> {
        let flags = if self.random.u8(..8) == 0 { self.random.u8(..16) } else { self.random.u8(..2) };
        let (least, most) = if self.is_rude() { (self.large(), self.large()) } else { (1, 2) };
        let mut limits = vec![self.byte(flags)];
        limits.extend(number(least));
        if flags & 1 != 0 {
            limits.extend(number(most));
        }
        if flags & 8 != 0 {
            // Its logarithm: 1 or 65,536 bytes.
            limits.extend(number(if self.is_rude() { self.large() } else { 16 }));
        }
        limits
    }

    fn large(&mut self) -> u64 {
        let digits = self.random.u8(1..63);
        self.random.u64(..1 << digits)
    }

    fn globals(&mut self) -> Vec<u8> {
        let globals = (0..self.random.usize(..3)).map(|_| vec![0x7f, self.byte(1), 0x41, 7, 0x0b]).collect();
        self.list(globals)
    }

    fn exports(&mut self) -> Vec<u8> {
        let start = [sized(b"_start"), vec![0], number(self.functions.into())].concat();
        let memory = [sized(b"memory"), vec![2], number(self.memories.into())].concat();
        let mut exports = vec![start, memory];
        for _ in 0..self.random.usize(..3) {
            // A function or a memory, which there are.
            let (name, kind) = (self.name(), 2 * self.random.u8(..2));
            exports.push([name, vec![self.byte(kind), 0]].concat());
        }
        if self.random.u8(..16) == 0 {
            // The one lie that the validator quotes.
            let twice = exports[self.random.usize(..exports.len())].clone();
            exports.push(twice);
        }
        self.list(exports)
    }

    fn code(&mut self) -> Vec<u8> {
        let bodies = (0..2).map(|_| self.body()).collect();
        self.list(bodies)
    }

    /// No locals, and nothing done; else bytes for instructions, or locals without end.
    fn body(&mut self) -> Vec<u8> {
        let mut body = if self.is_rude() { [vec![1], self.count(50_001), vec![0x7f]].concat() } else { vec![0] };
        if self.is_rude() {
            body.extend((0..self.random.usize(..32)).map(|_| self.random.u8(..)));
        }
        body.push(0x0b);
        [self.count(body.len()), body].concat()
    }

    fn data(&mut self) -> Vec<u8> {
        let text = self.name();
        let segments = if self.random.bool() { vec![[vec![0, 0x41, 8, 0x0b], text].concat()] } else { Vec::new() };
        self.list(segments)
    }

    /// Names of functions, which backtraces have, or anything.
    fn custom(&mut self) -> Vec<u8> {
        let names = [vec![1, 0], self.name()].concat();
        let subsection = [vec![1], self.count(names.len()), names].concat();
        let section = if self.random.bool() { sized(b"name") } else { self.name() };
        [section, subsection].concat()
    }

    /// With its length; what a terminal would obey or nobody expects, at times not UTF-8.
    fn name(&mut self) -> Vec<u8> {
        let texts: [&[u8]; 14] = [
            b"",
            b"env",
            b"memory",
            b"wasi_snapshot_preview1",
            b"wasi_unstable",
            b"sock_accept",
            b"_start",
            b"\x1b[2J\x1b]0;owned\x07",
            b"line\nanother\r\n\0error: forged",
            "\u{202e}gpj.\u{2066}exe\u{2028}".as_bytes(),
            "\u{9b}31m\u{85}\u{feff}\u{200b}\u{e0041}".as_bytes(),
            "\u{10ffff}n\u{303}\u{1f980}".as_bytes(),
            b"`'\"$(reboot)\\",
            b"\xff\xfe\xc0\x80",
        ];
        // The last is for those who lie.
        let most = if self.is_rude() { texts.len() } else { texts.len() - 1 };
        let mut text = texts[self.random.usize(..most)].to_vec();
        if self.long_names > 0 && self.random.u8(..16) == 0 {
            self.long_names -= 1;
            // 100,000 bytes are the most that a name may have.
            text = text.repeat([10, 1000, 4000, 20_000][self.random.usize(..4)]);
        }
        // Unlike all others, else a second export of the name would be an error in most modules.
        text.extend(format!("{:x}", self.random.u32(..)).bytes().take(self.random.usize(..9)));
        [self.count(text.len()), text].concat()
    }

    /// A vector of these, with their number in front.
    fn list(&mut self, items: Vec<Vec<u8>>) -> Vec<u8> {
        [self.count(items.len()), items.concat()].concat()
    }

    /// A number of things or bytes that follow; at times another, or as no compiler writes it.
    fn count(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = number(count as u64);
        if self.is_rude() {
            match self.random.u8(..5) {
                0 => return hostile(&mut self.random),
                1 => return number((count as u64).wrapping_add(1)),
                2 => return number((count as u64).saturating_sub(1)),
                // The same in more bytes: five are the most for 32 bits.
                _ => lengthen(&mut bytes, self.random.usize(..6)),
            }
        }
        bytes
    }

    fn byte(&mut self, byte: u8) -> u8 {
        if self.is_rude() { BYTES[self.random.usize(..BYTES.len())] } else { byte }
    }

    fn is_rude(&mut self) -> bool {
        match &mut self.lies {
            Lies::Never => false,
            Lies::Often => self.random.u8(..8) == 0,
            lies @ Lies::Once { after: 0 } => {
                *lies = Lies::Never;
                true
            }
            Lies::Once { after } => {
                *after -= 1;
                false
            }
        }
    }
}

/// A length that is past every end, or does not end itself.
pub(crate) fn hostile(random: &mut Rng) -> Vec<u8> {
    let numbers = [1 << 7, 100_001, 1_000_001, i32::MAX as u64, u32::MAX.into(), 1 << 32, u64::MAX];
    match random.usize(..=numbers.len()) {
        0 => vec![0x80; random.usize(1..12)],
        at => number(numbers[at - 1]),
    }
}

/// LEB128.
pub(crate) fn number(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// The same number in so many bytes more.
fn lengthen(bytes: &mut Vec<u8>, more: usize) {
    for _ in 0..more {
        *bytes.last_mut().expect("it has a byte") |= 0x80;
        bytes.push(0);
    }
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [number(bytes.len() as u64), bytes.to_vec()].concat()
}
