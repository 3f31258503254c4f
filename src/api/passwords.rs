//! Hashing passwords with bcrypt. It takes long on purpose, so it runs where blocking is allowed, [`limits::PASSWORDS_AT_A_TIME`] at a
//! time: a flood of passwords leaves the processors to those who have tokens. What waits is bounded, and refused beyond that.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};
use tonic::Code;

use super::texts;
use crate::env::{Random, Tasks};
use crate::limits;
use crate::transport::Failure;

/// Bytes of a password that bcrypt looks at.
const PASSWORD_BYTES: usize = 72;

/// Hashes and checks passwords.
#[derive(Debug)]
pub(super) struct Passwords {
    tasks: Arc<dyn Tasks>,
    random: Arc<dyn Random>,
    cost: u32,
    /// One permit for each that waits or is hashed.
    waiting: Arc<Semaphore>,
    /// One permit for each that is hashed.
    running: Arc<Semaphore>,
    /// Of no password, for users that have none: whoever asks must not see by the time whether there is such a user.
    decoy: Bytes,
}

impl Passwords {
    pub(super) fn new(tasks: Arc<dyn Tasks>, random: Arc<dyn Random>, cost: u32) -> Self {
        let decoy = format!("$2b${cost:02}${}", ".".repeat(22 + 31));
        Self {
            tasks,
            random,
            cost,
            waiting: Arc::new(Semaphore::new(limits::PASSWORDS_WAITING)),
            running: Arc::new(Semaphore::new(limits::PASSWORDS_AT_A_TIME)),
            decoy: decoy.into(),
        }
    }

    /// The hash of a new password.
    pub(super) async fn hash(&self, password: String) -> Result<Bytes, Failure> {
        if password.len() > PASSWORD_BYTES {
            // The text is Go's, and the code what etcd makes of it.
            return Err(Failure::new(Code::Unknown, "bcrypt: password length exceeds 72 bytes"));
        }
        let mut salt = [0; 16];
        for half in salt.chunks_exact_mut(8) {
            half.copy_from_slice(&self.random.next_u64().to_le_bytes());
        }
        let cost = self.cost;
        let hash = self.run(move || bcrypt::hash_with_salt(password, cost, salt)).await?;
        match hash {
            Ok(hash) => Ok(hash.to_string().into()),
            Err(error) => Err(Failure::new(Code::Internal, format!("the password was not hashed: {error}"))),
        }
    }

    /// Whether a password is that of a hash. Without a hash it is not, after as long a time.
    pub(super) async fn is_of(&self, password: String, hash: Option<Bytes>) -> Result<bool, Failure> {
        let is_decoy = hash.is_none();
        let hash = hash.unwrap_or_else(|| self.decoy.clone());
        let matches = self.run(move || matches(&password, &hash)).await?;
        Ok(matches && !is_decoy)
    }

    /// Runs `job` where it may block, when it is its turn.
    async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
        let too_many = || Failure::from(texts::TOO_MANY_REQUESTS);
        let waiting = Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| too_many())?;
        let turn = tokio::time::timeout(limits::REQUEST_TIMEOUT, Arc::clone(&self.running).acquire_owned());
        let turn = turn.await.map_err(|_| too_many())?.map_err(|_| too_many())?;
        let (result, done) = oneshot::channel();
        self.tasks
            .blocking(Box::new(move || {
                // Whoever asked may have gone; the turn lasts as long as the work.
                let _ = result.send(job());
                drop((waiting, turn));
            }))
            .await;
        done.await.map_err(|_| Failure::from(texts::STOPPED))
    }
}

fn matches(password: &str, hash: &[u8]) -> bool {
    let Ok(hash) = std::str::from_utf8(hash) else { return false };
    // Compared in constant time by the library.
    password.len() <= PASSWORD_BYTES && is_affordable(hash) && bcrypt::verify(password, hash).unwrap_or(false)
}

/// It is a hash, of no more work than a password may take.
fn is_affordable(hash: &str) -> bool {
    hash.parse::<bcrypt::HashParts>().is_ok_and(|parts| parts.get_cost() <= limits::BCRYPT_COST_MAX)
}

/// A hash that a client made, as it sends it.
///
/// # Errors
/// It is none.
pub(super) fn given(hash: &str) -> Result<Bytes, Failure> {
    let decoded = STANDARD.decode(hash).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    decoded
        .filter(|hash| is_affordable(hash))
        .map(Bytes::from)
        .ok_or_else(|| texts::INVALID_AUTH_MANAGEMENT.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::random::SystemRandom;
    use crate::env::tasks::Threads;

    fn passwords() -> Passwords {
        Passwords::new(Arc::new(Threads), Arc::new(SystemRandom), limits::BCRYPT_COST_MIN)
    }

    #[tokio::test]
    async fn a_password_is_that_of_its_hash_and_no_other() {
        let passwords = passwords();
        let long = "x".repeat(72);
        for password in ["", "pw", "ü\0x", long.as_str()] {
            let hash = passwords.hash(password.into()).await.unwrap();
            assert!(hash.starts_with(b"$2b$04$") && hash.len() == 60);
            assert!(passwords.is_of(password.into(), Some(hash.clone())).await.unwrap(), "{password:?}");
            assert!(!passwords.is_of(format!("{password}y"), Some(hash.clone())).await.unwrap());
            assert_ne!(passwords.hash(password.into()).await.unwrap(), hash, "salted");
        }
        assert_eq!(passwords.hash("x".repeat(73)).await.unwrap_err().code, Code::Unknown);
        assert!(!passwords.is_of("pw".into(), None).await.unwrap());
        assert!(!passwords.is_of("pw".into(), Some("none".into())).await.unwrap());
        assert!(passwords.decoy.len() == 60 && is_affordable(std::str::from_utf8(&passwords.decoy).unwrap()));
    }

    #[test]
    fn hashes_of_go_are_understood_and_those_that_cost_too_much_are_not() {
        // Of golang.org/x/crypto/bcrypt for "pw", cost 4; and the example of bcrypt's paper.
        let hash = b"$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
        assert!(matches("U*U", hash));
        assert!(!matches("U*V", hash));
        let encode = |text: &str| STANDARD.encode(text);
        assert!(given(&encode(std::str::from_utf8(hash).unwrap())).is_ok());
        let costly = std::str::from_utf8(hash).unwrap().replace("$05$", "$31$");
        for refused in [encode(&costly), encode("x"), "?".into(), String::new()] {
            assert!(given(&refused).is_err(), "{refused}");
        }
        assert!(!matches("U*U", costly.as_bytes()), "in no time");
    }

    #[tokio::test]
    async fn a_flood_is_refused_and_the_rest_is_done() {
        let passwords = Arc::new(passwords());
        let asked: Vec<_> = (0..limits::PASSWORDS_WAITING + 10)
            .map(|_| {
                let passwords = Arc::clone(&passwords);
                tokio::spawn(async move { passwords.hash("pw".into()).await })
            })
            .collect();
        let mut refused = 0;
        for asked in asked {
            match asked.await.unwrap() {
                Ok(hash) => assert_eq!(hash.len(), 60),
                Err(failure) => {
                    assert_eq!(failure, Failure::from(texts::TOO_MANY_REQUESTS));
                    refused += 1;
                }
            }
        }
        assert!((1..=10).contains(&refused), "{refused}");
        assert!(passwords.hash("pw".into()).await.is_ok(), "there is room again");
    }
}
