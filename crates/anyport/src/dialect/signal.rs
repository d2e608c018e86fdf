//! How a guest is told of a signal: an export of its choice is called at the end of a hostcall.

use wasmtime::{Extern, ThrownException, TypedFunc};

use super::hostcall::Call;

/// Calls the guest's handler with each signal that its thread has yet to be told of.
pub(crate) async fn deliver(caller: &mut Call<'_>) -> wasmtime::Result<()> {
    while let Some(signal) = caller.data().signals().and_then(|signals| signals.next()) {
        let Some(handler) = handler(caller) else { continue };
        tracing::debug!("the guest is told of signal {signal}");
        caller.data_mut().handling = Some(signal);
        let told = handler.call_async(&mut *caller, signal).await;
        // Who leaves it by an exception, as `longjmp` does, goes on where that is caught.
        if told.as_ref().err().is_none_or(|error| error.is::<ThrownException>()) {
            caller.data_mut().handling = None;
        }
        told?;
    }
    Ok(())
}

fn handler(caller: &mut Call<'_>) -> Option<TypedFunc<u32, ()>> {
    let name = caller.data().process().ok()?.handler()?;
    match caller.get_export(&name) {
        Some(Extern::Func(function)) => function.typed(&*caller).ok(),
        _ => None,
    }
}
