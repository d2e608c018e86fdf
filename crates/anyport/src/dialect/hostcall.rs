//! How a row of a dialect's table becomes a wasmtime function.
//!
//! Owns what all hostcalls share: finding the guest's memory, telling errno from trap.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use wasmtime::{Caller, Extern, Linker, ValType, WasmTyList};
use wiggle::{GuestError, GuestMemory};

use super::signal;
use super::trace::Traced;
use crate::errno::Errno;
use crate::guest::{Failure, Guest};
use crate::memory::{Given, Memory};

/// The store, as a hostcall of a guest sees it.
pub(crate) type Call<'a> = Caller<'a, Guest>;

/// What a shim answers: nothing, or why not.
pub(crate) type Hostcall = Result<(), Fault>;

/// Bad news for a guest: a number in the result, a pointer it should not have passed, or its end.
#[derive(Debug)]
pub(crate) enum Fault {
    Errno(Errno),
    /// The row's dialect says whether that is an errno or a trap.
    Memory(GuestError),
    /// Ends the guest. Written out where it happens: nothing turns into it by itself.
    Trap(wasmtime::Error),
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<GuestError> for Fault {
    fn from(error: GuestError) -> Self {
        Self::Memory(error)
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Errno(errno) => Self::Errno(errno),
            Failure::Memory(error) => Self::Memory(error),
        }
    }
}

/// One hostcall of a dialect, in the order of its specification.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) params: &'static [Param],
    /// Whether it gives an errno; the others give nothing.
    pub(crate) result: bool,
    /// It is there so that guests link which may call it; it does nothing.
    pub(crate) is_absent: bool,
    /// Tells whoever traces this hostcall a line about it.
    pub(crate) tell: fn(fmt::Arguments<'_>),
    /// Puts the function into the linker under the module and the key it is given.
    pub(crate) define: Define,
    /// The same for a module that is told of signals, where that is another function: [`tells`].
    pub(crate) define_telling: Option<Define>,
}

/// How a row's function gets into a linker.
pub(crate) type Define = fn(&mut Linker<Guest>, &'static Row, &'static Table, &str) -> wasmtime::Result<()>;

/// A parameter as the specification names it.
#[derive(Clone, Copy)]
pub(crate) struct Param {
    pub(crate) name: &'static str,
    pub(crate) wide: bool,
}

/// The rows that a dialect gives to one module name.
pub(crate) struct Table {
    pub(crate) dialect: super::Dialect,
    pub(crate) module: &'static str,
    rows: &'static [Row],
    /// Names among them that this dialect has another row for.
    except: &'static [&'static str],
    /// What the dialect answers to a pointer outside of memory, or misaligned.
    pub(crate) bad_pointer: fn(GuestError) -> Fault,
}

impl Table {
    /// All of these rows.
    pub(crate) const fn new(
        dialect: super::Dialect, module: &'static str, rows: &'static [Row], bad_pointer: fn(GuestError) -> Fault,
    ) -> Self {
        Self { dialect, module, rows, except: &[], bad_pointer }
    }

    /// The same without those of these names.
    pub(crate) const fn except(self, except: &'static [&'static str]) -> Self {
        Self { except, ..self }
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &'static Row> + use<> {
        let except = self.except;
        self.rows.iter().filter(move |row| !except.contains(&row.name))
    }
}

impl Row {
    /// The wasm type as `(iiI)i`: `i` is i32, `I` is i64.
    pub(crate) fn signature(&self) -> String {
        let params: String = self.params.iter().map(|param| if param.wide { 'I' } else { 'i' }).collect();
        format!("({params}){}", if self.result { "i" } else { "" })
    }

    /// Whether it sends, or ends what was sent: any other hostcall ends a row of sends.
    pub(crate) fn sends(&self) -> bool {
        matches!(self.name, "fd_write" | "sock_send" | "sock_send_file" | "sock_send_v2" | "sock_shutdown")
    }

    /// Whether a signal interrupts it while it waits. What has moved bytes by then says so: there the wait alone is
    /// interrupted ([`Guest::waits`]), as at a futex.
    pub(crate) fn is_interruptible(&self) -> bool {
        matches!(
            self.name,
            "sock_accept"
                | "sock_accept_v2"
                | "sock_connect"
                | "poll_oneoff"
                | "epoll_wait"
                | "thread_sleep"
                | "thread_join"
                | "proc_join"
                | "resolve"
        )
    }

    /// What the linker knows it by: real guests import one name with two types.
    pub(crate) fn key(&self) -> String {
        format!("{}{}", self.name, self.signature())
    }
}

/// The type of a function as [`Row::signature`] writes it; `f F v` and `?` for what no hostcall has.
pub(crate) fn signature_of(params: impl Iterator<Item = ValType>, results: impl Iterator<Item = ValType>) -> String {
    let letter = |kind: ValType| match kind {
        ValType::I32 => 'i',
        ValType::I64 => 'I',
        ValType::F32 => 'f',
        ValType::F64 => 'F',
        ValType::V128 => 'v',
        ValType::Ref(_) => '?',
    };
    let params: String = params.map(letter).collect();
    let results: String = results.map(letter).collect();
    format!("({params}){results}")
}

/// A type that a parameter may have, with its width.
pub(crate) trait Wire: Copy + Into<u64> {
    const WIDE: bool;
}

impl Wire for u32 {
    const WIDE: bool = false;
}

impl Wire for u64 {
    const WIDE: bool = true;
}

/// Declares a [`Row`]: `row!("sock_shutdown"(fd: u32, how: u32) = shutdown)`, with `async` in front
/// where the shim may wait. The shim takes the guest, its memory, and the parameters. With `silent` in front it
/// is one without a result, and what follows defines it.
macro_rules! row {
    ($name:literal ($($param:ident : $kind:ty),*) = $shim:expr) => {{
        use $crate::dialect::hostcall::{Call, Row, Table, enter, given, leave, tells};
        use $crate::dialect::trace::{Traced, is_traced, tell};
        fn call(
            caller: &mut Call<'_>, row: &'static Row, table: &'static Table, sends: bool,
            ($($param,)*): ($($kind,)*),
        ) -> wasmtime::Result<u32> {
            let given = given(caller);
            let (guest, mut memory) = enter(caller, &given, sends);
            let call = is_traced!($name).then(|| Traced::begin(row, &[$(u64::from($param)),*], guest, &memory));
            let outcome = $shim(guest, &mut memory, $($param),*);
            leave(table, call.as_deref(), guest, &memory, outcome)
        }
        Row {
            name: $name,
            params: &[$($crate::dialect::hostcall::row!(@param $param $kind)),*],
            result: true,
            is_absent: false,
            tell: tell!($name),
            define: |linker, row, table, key| {
                let sends = row.sends();
                linker.func_wrap(table.module, key, move |mut caller: Call<'_>, $($param: $kind),*| {
                    call(&mut caller, row, table, sends, ($($param,)*))
                })?;
                Ok(())
            },
            define_telling: Some(|linker, row, table, key| tells(linker, row, table, key, call)),
        }
    }};
    (async $name:literal ($($param:ident : $kind:ty),*) = $shim:expr) => {
        $crate::dialect::hostcall::Row {
            name: $name,
            params: &[$($crate::dialect::hostcall::row!(@param $param $kind)),*],
            result: true,
            is_absent: false,
            tell: $crate::dialect::trace::tell!($name),
            define: |linker, row, table, key| {
                let sends = row.sends();
                let interruptible = row.is_interruptible();
                use $crate::dialect::hostcall::{Call, apart, enter, given, leave};
                use $crate::dialect::signal;
                use $crate::dialect::trace::{Traced, is_traced, watch};
                use $crate::guest::signals::until_signal;
                linker.func_wrap_async(table.module, key, move |mut caller: Call<'_>, ($($param,)*): ($($kind,)*)| {
                    Box::new(async move {
                        let call = std::pin::pin!(async move {
                            let given = given(&mut caller);
                            let (guest, mut memory) = enter(&mut caller, &given, sends);
                            let signals = if interruptible { guest.signals() } else { None };
                            let call = is_traced!($name)
                                .then(|| Traced::begin(row, &[$(u64::from($param)),*], guest, &memory));
                            let shim = until_signal(signals, $shim(guest, &mut memory, $($param),*));
                            let outcome = watch(call.as_deref(), std::pin::pin!(shim)).await;
                            let left = leave(table, call.as_deref(), guest, &memory, outcome);
                            if left.is_ok() && guest.is_signalled() {
                                signal::deliver(&mut caller).await?;
                            }
                            left
                        });
                        apart(call).await
                    })
                })?;
                Ok(())
            },
            define_telling: None,
        }
    };
    (silent $name:literal ($($param:ident : $kind:ty),*) = $define:expr) => {
        $crate::dialect::hostcall::Row {
            name: $name,
            params: &[$($crate::dialect::hostcall::row!(@param $param $kind)),*],
            result: false,
            is_absent: false,
            tell: $crate::dialect::trace::tell!($name),
            define: $define,
            define_telling: None,
        }
    };
    (@param $param:ident $kind:ty) => {
        $crate::dialect::hostcall::Param {
            name: stringify!($param),
            wide: <$kind as $crate::dialect::hostcall::Wire>::WIDE,
        }
    };
}
pub(crate) use row;

/// One hostcall that does not wait.
type Plain<P> = fn(&mut Call<'_>, &'static Row, &'static Table, bool, P) -> wasmtime::Result<u32>;

/// Defines such a hostcall for a module that is told of signals, at its end as at that of any other: a loop of nothing
/// else hears of them, too. The handler may wait.
pub(crate) fn tells<P: WasmTyList + Send + 'static>(
    linker: &mut Linker<Guest>, row: &'static Row, table: &'static Table, key: &str, call: Plain<P>,
) -> wasmtime::Result<()> {
    let sends = row.sends();
    linker.func_wrap_async(table.module, key, move |mut caller: Call<'_>, params: P| {
        Box::new(async move {
            let left = call(&mut caller, row, table, sends, params);
            if left.is_ok() && caller.data().is_signalled() {
                apart(std::pin::pin!(signal::deliver(&mut caller))).await?;
            }
            left
        })
    })?;
    Ok(())
}

/// Waits for a hostcall, which a function of its own polls.
///
/// wasmtime polls in a loop on the guest's own stack, which leaves its thread in between and may go on in another: the
/// compiler does not know that. Were the call a part of that loop, where the thread's variables are might be found out
/// once and used in both.
pub(crate) async fn apart<F: Future>(mut call: Pin<&mut F>) -> F::Output {
    poll_fn(|context| poll(call.as_mut(), context)).await
}

#[inline(never)]
fn poll<F: Future>(call: Pin<&mut F>, context: &mut Context<'_>) -> Poll<F::Output> {
    call.poll(context)
}

/// The memory of the guest.
pub(crate) fn given(caller: &mut Caller<'_, Guest>) -> Given {
    match caller.data().memory.clone() {
        // During the start function: the instance, and so its memory, is not handed out yet.
        Given::None => match caller.get_export("memory") {
            Some(Extern::Memory(memory)) => Given::Own(memory),
            _ => Given::None,
        },
        given => given,
    }
}

/// The guest and its memory for one hostcall.
pub(crate) fn enter<'a>(
    caller: &'a mut Caller<'_, Guest>, given: &'a Given, sends: bool,
) -> (&'a mut Guest, Memory<'a>) {
    let (memory, guest) = match given {
        Given::Own(memory) => {
            let (bytes, guest) = memory.data_and_store_mut(caller);
            (GuestMemory::Unshared(bytes), guest)
        }
        Given::Shared(_) => (GuestMemory::Shared(given.cells().unwrap_or_default()), caller.data_mut()),
        // Every pointer is outside of it; calls that pass none work.
        Given::None => (GuestMemory::Unshared(&mut []), caller.data_mut()),
    };
    guest.busy.calls();
    if !sends {
        guest.sending.end();
    }
    (guest, Memory::from(memory))
}

/// The number that the guest gets, or the trap that ends it; told if the call is traced.
pub(crate) fn leave(
    table: &Table, call: Option<&Traced>, guest: &Guest, memory: &Memory<'_>, outcome: Hostcall,
) -> wasmtime::Result<u32> {
    let bad_pointer = matches!(outcome, Err(Fault::Memory(_)));
    let outcome = match outcome {
        Err(Fault::Memory(error)) => Err((table.bad_pointer)(error)),
        outcome => outcome,
    };
    if let Some(call) = call {
        call.end(guest, memory, &outcome, bad_pointer);
    }
    match outcome {
        Ok(()) => Ok(0),
        Err(Fault::Errno(errno)) => Ok(u32::from(errno.number())),
        Err(Fault::Memory(error)) => Err(error.into()),
        Err(Fault::Trap(error)) => Err(error),
    }
}

/// Preview1's answer to a bad pointer: the guest is broken, and ends.
/// <https://github.com/WebAssembly/WASI/blob/wasi-0.1/legacy/tools/witx-docs.md#pointers>
pub(crate) fn trap_on_bad_pointer(error: GuestError) -> Fault {
    match error {
        GuestError::InvalidFlagValue(_) | GuestError::InvalidEnumValue(_) => Fault::Errno(Errno::Invalid),
        GuestError::InvalidUtf8(_) => Fault::Errno(Errno::IllegalSequence),
        GuestError::TryFromIntError(_) => Fault::Errno(Errno::Overflow),
        error => Fault::Trap(error.into()),
    }
}

/// WASIX's: the guest is told, and goes on.
pub(crate) fn errno_on_bad_pointer(error: GuestError) -> Fault {
    match error {
        GuestError::PtrNotAligned(..) | GuestError::PtrOverflow | GuestError::PtrOutOfBounds(_) => {
            Fault::Errno(Errno::Fault)
        }
        error => trap_on_bad_pointer(error),
    }
}
