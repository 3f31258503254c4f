//! What panics say in a simulation: runtimes pass on that there was one, not which.

use std::cell::RefCell;
use std::panic::PanicHookInfo;
use std::sync::Once;

use crate::env::simulated;

thread_local! {
    static SAID: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// From now on, what is said by panics in threads that simulate is kept, and not printed.
pub(super) fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
            if simulated::is_running() {
                SAID.with_borrow_mut(|said| said.push(panic.to_string().replace('\n', ": ")));
            } else {
                before(panic);
            }
        }));
    });
}

/// What was said in this thread since it was taken last.
pub(super) fn take() -> Vec<String> {
    SAID.take()
}
