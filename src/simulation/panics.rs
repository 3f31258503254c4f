//! What panics say in a simulation: runtimes pass on that there was one, not which.

use std::cell::RefCell;
use std::panic::PanicHookInfo;
use std::sync::Once;

use crate::env::simulated;

thread_local! {
    static SAID: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// What the standard library says of a panic on the way of another, after which the process ends.
const ENDS_THE_PROCESS: [&str; 2] =
    ["panic in a destructor during cleanup", "panic in a function that cannot unwind"];

/// From now on, what is said by panics in threads that simulate is kept, and not printed.
pub(super) fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
            if !simulated::is_running() {
                return before(panic);
            }
            let text = panic.to_string().replace('\n', ": ");
            if ENDS_THE_PROCESS.iter().any(|ending| text.contains(ending)) {
                // Nobody can take it any more.
                for said in take() {
                    eprintln!("panic: {said}");
                }
                return before(panic);
            }
            SAID.with_borrow_mut(|said| said.push(text));
        }));
    });
}

/// What was said in this thread since it was taken last.
pub(super) fn take() -> Vec<String> {
    SAID.take()
}
