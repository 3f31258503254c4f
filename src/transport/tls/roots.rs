//! The authorities that the system trusts, for servers of which nobody said who signed for them.

use rustls::RootCertStore;

/// Those that can be used.
///
/// # Errors
/// There are none.
pub(super) fn system() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    // A system's list has some that no library takes.
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(format!("the system trusts no authority; name a file of them. {}", why.join("; "))
            .trim()
            .into());
    }
    Ok(store)
}
