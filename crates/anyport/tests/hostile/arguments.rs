//! What a hostile guest passes: mostly what gets past the first check, at times what no compiler would.

use std::ops::Range;

use fastrand::Rng;

use crate::wat_support::Row;

/// The end of the guest's two pages of memory.
const END: u64 = 2 << 16;

/// Buffers and addresses: a pointer and a length at every multiple of eight.
const PAIRS: Range<u64> = 2048..6144;
/// Of 48 bytes.
const SUBSCRIPTIONS: Range<u64> = 6144..8064;
/// Of 28 bytes: the hints and the list of a lookup.
const NODES: Range<u64> = 8064..9184;
const TEXT: Range<u64> = 9184..9696;
/// Numbers of four bytes: what options are set to.
const VALUES: Range<u64> = 9696..9952;

const POINTERS: [u64; 22] = [
    0,
    1,
    4,
    1023,
    1024,
    END / 2 - 4,
    END / 2 - 2,
    END / 2,
    END - 128,
    END - 48,
    END - 32,
    END - 8,
    END - 4,
    END - 2,
    END - 1,
    END,
    END + 1,
    END + 4,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffc,
    0xffff_ffff,
];
const LENGTHS: [u64; 15] =
    [0, 1, 3, 4, 16, 48, 128, 1023, 1024, 1025, 40_064, END, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
const DESCRIPTORS: [u64; 8] = [11, 63, 64, 99, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff];
const WIDE: [u64; 7] = [0, 1, 1 << 31, 1 << 32, i64::MAX as u64, 1 << 63, u64::MAX];

/// Whether a hostcall may end its guest.
pub(crate) fn ends(row: &Row) -> bool {
    row.name.starts_with("proc_") || ["thread_exit", "thread_signal"].contains(&&*row.name)
}

pub(crate) struct Arguments {
    random: Rng,
    /// Of so many numbers, one is one that no compiler would pass.
    politeness: u8,
}

impl Arguments {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let politeness = [10, 60, 250][random.usize(..3)];
        Self { random, politeness }
    }

    /// The parameters of a call.
    pub(crate) fn of(&mut self, row: &Row) -> Vec<u64> {
        let wide: Vec<bool> = row.wide().collect();
        let files = row.name.starts_with("path_") || row.name == "fd_readdir";
        let param = |(name, wide): (&String, bool)| if wide { self.wide() } else { self.param(name, files) };
        row.params.iter().zip(wide).map(param).collect()
    }

    /// Whether the guest waits for nothing: blocking calls end most lives.
    pub(crate) fn is_patient(&mut self) -> bool {
        self.random.u8(..4) > 0
    }

    /// The order of the calls: each row so many times, and what ends the guest at last.
    pub(crate) fn deck(&mut self, rows: &[Row], turns: usize) -> Vec<usize> {
        let mut deck: Vec<usize> = (0..rows.len()).cycle().take(turns * rows.len()).collect();
        self.random.shuffle(&mut deck);
        let last: Vec<usize> = deck.extract_if(.., |number| ends(&rows[*number])).collect();
        deck.extend(last);
        deck
    }

    /// Where to write what to the guest's memory, for the parameters to point to.
    pub(crate) fn memory(&mut self) -> (u64, Vec<u8>) {
        let mut bytes = Vec::new();
        for _ in PAIRS.step_by(8) {
            let length = if self.random.bool() { self.pick(&[4, 16, 128]) } else { self.length() };
            bytes.extend(words(&[self.buffer(length), length]));
        }
        for _ in SUBSCRIPTIONS.step_by(48) {
            bytes.extend(self.subscription());
        }
        for at in NODES.step_by(28) {
            let next = if self.random.bool() { at + 28 } else { self.pointer(NODES) };
            let small = self.random.u64(..3) << 16 | self.random.u64(..3) << 24 | self.flags();
            let address = self.pointer(PAIRS);
            let length = self.length();
            bytes.extend(words(&[small, self.random.u64(..3), 16, address, self.pointer(TEXT), length, next]));
        }
        for _ in TEXT {
            bytes.push(b"././//file0127.1:\0l\xff"[self.random.usize(..19)]);
        }
        for _ in VALUES.step_by(4) {
            let value = self.pick(&[0, 0, 1, 2, 1000, 999_999, 1_000_000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]);
            bytes.extend(words(&[value]));
        }
        (PAIRS.start, bytes)
    }

    /// Most have an end: a clock that is due soon.
    fn subscription(&mut self) -> Vec<u8> {
        let kind = self.random.u64(..3);
        let subject = if kind == 0 { self.random.u64(..2) } else { self.descriptor(false) };
        let timeout = if self.is_rude() { self.wide() } else { self.random.u64(..5_000_000) };
        let kind = if self.is_rude() { self.random.u64(..256) } else { kind };
        [self.random.u64(..), kind, subject, timeout, 0, self.random.u64(..2)]
            .into_iter()
            .flat_map(u64::to_le_bytes)
            .collect()
    }

    fn param(&mut self, name: &str, files: bool) -> u64 {
        if (name.ends_with("fd") && !name.starts_with("ro_")) || name == "to" {
            return self.descriptor(files);
        }
        if self.is_rude() {
            return [self.descriptor(false), self.random.u64(..0x100), self.length()][self.random.usize(..3)];
        }
        match name {
            "af_family" | "sock_type" | "id" | "how" => self.random.u64(..4),
            "level" => 0,
            "name" => self.random.u64(..16),
            "port" => self.pick(&[0, 0, 53, 80, 65_535]),
            "value" => self.pointer(VALUES),
            "nsubscriptions" => self.random.u64(..8),
            "hints" | "ro_res" => self.pointer(NODES),
            "subscriptions" => SUBSCRIPTIONS.start + 48 * self.random.u64(..32),
            _ if name.contains("flags") && !name.starts_with("ro_") => self.flags(),
            _ if name.contains("len") && !name.starts_with("ro_") => self.length(),
            _ if name.contains("path") || name == "node" || name == "service" => self.pointer(TEXT),
            _ if name.contains("code") || name == "sig" || name == "rval" => self.random.u64(..0x200),
            _ => self.pointer(PAIRS),
        }
    }

    fn is_rude(&mut self) -> bool {
        self.random.u8(..self.politeness) == 0
    }

    fn pick(&mut self, numbers: &[u64]) -> u64 {
        numbers[self.random.usize(..numbers.len())]
    }

    /// For files, mostly the directory; never 2, on which the guest hears what to do.
    fn descriptor(&mut self, files: bool) -> u64 {
        match self.random.u8(..16) {
            _ if self.is_rude() => self.pick(&DESCRIPTORS),
            0 => self.random.u64(..2),
            1..12 if files => 4,
            _ => self.random.u64(3..11),
        }
    }

    fn pointer(&mut self, within: Range<u64>) -> u64 {
        match self.random.u8(..8) {
            _ if !self.is_rude() => self.random.u64(within) & !7,
            0..4 => self.pick(&POINTERS),
            _ => self.random.u64(within),
        }
    }

    /// A pointer to so many bytes; at times to the last ones of memory, or one too far.
    fn buffer(&mut self, length: u64) -> u64 {
        if !self.is_rude() {
            return self.pointer(PAIRS);
        }
        let last = END.saturating_sub(length);
        self.pick(&[last.saturating_sub(1), last, last + 1])
    }

    fn length(&mut self) -> u64 {
        if self.is_rude() { self.pick(&LENGTHS) } else { self.random.u64(..20) }
    }

    fn flags(&mut self) -> u64 {
        match self.random.u8(..4) {
            _ if self.is_rude() => self.random.u64(..0x1_0000_0000),
            0 => 1 << self.random.u64(..6),
            1 => self.random.u64(..16),
            _ => 0,
        }
    }

    fn wide(&mut self) -> u64 {
        if self.random.bool() { self.random.u64(..1 << 29) } else { self.pick(&WIDE) }
    }
}

fn words(numbers: &[u64]) -> impl Iterator<Item = u8> + '_ {
    numbers.iter().flat_map(|number| number.to_le_bytes().into_iter().take(4))
}
