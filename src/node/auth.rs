//! How passwords are hashed and tokens made, from the configuration.

use std::path::Path;
use std::sync::Arc;

use crate::api::Authenticator;
use crate::api::tokens::Signed;
use crate::config::{AuthConfig, Jwt, Tokens};
use crate::env::real_files::RealFiles;
use crate::env::{Env, files};
use crate::error::Error;

/// Longest file with a key, in bytes: a key of RSA has some thousand.
const KEY_FILE_BYTES: u64 = 64 << 10;

/// # Errors
/// [`Error::Start`]: a key that cannot be read or used.
pub(super) async fn authenticator(config: &AuthConfig, env: &Env) -> Result<Authenticator, Error> {
    let signed = match &config.tokens {
        Tokens::Simple => None,
        Tokens::Jwt(jwt) => {
            let (jwt, clock) = (jwt.clone(), env.clock.clone());
            let signed = super::blocking(env, move || {
                let Jwt { method, public_key, private_key, ttl } = jwt;
                let (public, private) = (key(public_key.as_deref())?, key(private_key.as_deref())?);
                Signed::new(&method, public.as_deref(), private.as_deref(), ttl, clock)
                    .map_err(|error| Error::Start(format!("auth-token: {error}")))
            });
            Some(signed.await?)
        }
    };
    Ok(Authenticator::new(Arc::clone(&env.tasks), Arc::clone(&env.random), config.bcrypt_cost, signed))
}

/// What a file with a key holds. Of the real file system, whatever the store lives on: who names a file of keys has put it there.
fn key(path: Option<&Path>) -> Result<Option<Vec<u8>>, Error> {
    let Some(path) = path else { return Ok(None) };
    let content = files::read_small(&RealFiles, path, KEY_FILE_BYTES)
        .map_err(|error| Error::Start(format!("auth-token: {}: {error}", path.display())))?;
    Ok(Some(content))
}
