//! The text of the guest: it reads a command from descriptor 2, calls the import or does what else was
//! asked, and answers with four bytes, for ever.
//!
//! Descriptors 0 and 1 are left to the tests. What a hostcall writes where it should not does not
//! derail the guest: the block below [`FREE`] is written anew before each use.

use super::rows::Row;

/// Bytes of a command: its number, then twelve parameters of eight bytes.
pub(super) const COMMAND_BYTES: usize = 8 + 12 * 8;
const COMMAND: u32 = 16;
const PARAMS: u32 = COMMAND + 8;
const ANSWER: u32 = 128;

/// From here on memory is the tests'. Above 1024, below which no pointer to an option's length is one.
pub(super) const FREE: u64 = 2048;
/// Pages that the guest begins with.
pub(super) const PAGES: u64 = 2;

/// The commands beside the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extra {
    /// Sends bytes of memory before the answer.
    Peek,
    /// Takes bytes into memory.
    Poke,
    GrowMemory,
    GrowTable,
    /// Computes for ever.
    Spin,
}

pub(super) const EXTRAS: [Extra; 5] = [Extra::Peek, Extra::Poke, Extra::GrowMemory, Extra::GrowTable, Extra::Spin];

/// The guest's text, with these imports in this order.
pub(super) fn text(rows: &[Row]) -> String {
    let imports: String = rows.iter().enumerate().map(|(index, row)| import(index, row)).collect();
    let calls: String = rows.iter().enumerate().map(|(index, row)| call(index, row)).collect();
    let numbers: String = (0..rows.len()).map(|index| format!(" $op{index}")).collect();
    format!(
        "(module
          (type $op (func (result i32)))
          {imports}
          (import \"wasi_snapshot_preview1\" \"fd_read\" (func $read (param i32 i32 i32 i32) (result i32)))
          (import \"wasi_snapshot_preview1\" \"fd_write\" (func $write (param i32 i32 i32 i32) (result i32)))
          (memory (export \"memory\") {PAGES})
          (table $ops funcref (elem {numbers} $peek $poke $grow_memory $grow_table $spin))
          (table $spare 0 funcref)
          {calls}
          {extras}
          {}
          {}
          (func (export \"_start\")
            (loop $next
              (call $take (i32.const {COMMAND}) (i32.const {COMMAND_BYTES}))
              (i32.store (i32.const {ANSWER})
                (call_indirect $ops (type $op) (i32.load (i32.const {COMMAND}))))
              (call $give (i32.const {ANSWER}) (i32.const 4))
              (br $next))))",
        transfer("take", "read"),
        transfer("give", "write"),
        extras = extras(),
    )
}

fn import(index: usize, row: &Row) -> String {
    let params: String = row.wide().map(|wide| if wide { " i64" } else { " i32" }).collect();
    let result = if row.gives_errno() { "(result i32)" } else { "" };
    let (namespace, name) = (row.namespace(), &row.name);
    format!("(import \"{namespace}\" \"{name}\" (func $row{index} (param{params}) {result}))\n")
}

fn call(index: usize, row: &Row) -> String {
    let params: String = row
        .wide()
        .zip((PARAMS..).step_by(8))
        .map(|(wide, at)| {
            let load = if wide { "i64.load" } else { "i32.load" };
            format!(" ({load} (i32.const {at}))")
        })
        .collect();
    let result = if row.gives_errno() { "" } else { "(i32.const 0)" };
    format!("(func $op{index} (result i32) (call $row{index}{params}) {result})\n")
}

fn extras() -> String {
    let at = format!("(i32.load (i32.const {PARAMS}))");
    let length = format!("(i32.load (i32.const {}))", PARAMS + 8);
    format!(
        "(func $peek (result i32) (call $give {at} {length}) (i32.const 0))
         (func $poke (result i32) (call $take {at} {length}) (i32.const 0))
         (func $grow_memory (result i32) (memory.grow {at}))
         (func $grow_table (result i32) (table.grow $spare (ref.null func) {at}))
         (func $spin (result i32) (loop $again (br $again)) (i32.const 0))"
    )
}

/// Moves all of a range of memory through descriptor 2; ends the guest when the other side is gone.
fn transfer(name: &str, hostcall: &str) -> String {
    format!(
        "(func ${name} (param $at i32) (param $left i32)
           (block $done (loop $more
             (br_if $done (i32.eqz (local.get $left)))
             (i32.store (i32.const 0) (local.get $at))
             (i32.store (i32.const 4) (local.get $left))
             (if (call ${hostcall} (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
             (if (i32.eqz (i32.load (i32.const 8))) (then unreachable))
             (local.set $at (i32.add (local.get $at) (i32.load (i32.const 8))))
             (local.set $left (i32.sub (local.get $left) (i32.load (i32.const 8))))
             (br $more))))"
    )
}
