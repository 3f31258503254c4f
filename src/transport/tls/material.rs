//! rustls' configurations, made of files and made anew when these change.
//!
//! A file that changed for the worse changes nothing: what was made before stays, and it is said once. Files that belong together are
//! replaced one after the other, or all at once behind a link; so what was read must be the same when it is read once more.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;

use super::any_name::AnyName;
use super::anyone::Anyone;
use super::{Allowed, ClientTls, Identity, KeyPair, Protocol, Tls, pem, roots, self_signed};
use crate::env::{Clock, Files, Tasks, files};
use crate::limits;

/// Why there is no TLS.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or used.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What is configured cannot be.
    #[error("{0}")]
    Settings(String),
}

/// What configurations are made of.
#[derive(Clone, Debug)]
enum Recipe {
    /// To accept connections, and to make them if it says so; the hosts are those of a self-signed certificate.
    Port { tls: Tls, hosts: Vec<String>, connects: bool },
    /// To make connections.
    Client(ClientTls),
}

/// Certificates and what belongs to them, as of now. Cheap to clone; clones share what is made.
#[derive(Clone)]
pub struct Material(Arc<Inner>);

struct Inner {
    recipe: Recipe,
    files: Arc<dyn Files>,
    clock: Arc<dyn Clock>,
    made: RwLock<Made>,
    seen: Mutex<Seen>,
}

/// What was made.
struct Made {
    server: Option<Arc<ServerConfig>>,
    client: Option<Clients>,
    /// When a certificate of its own making is replaced.
    until_millis: u64,
}

/// The client's side.
struct Clients {
    /// Servers by their names.
    named: Arc<ClientConfig>,
    /// Servers of which it is to be learned who they are.
    of_any_name: Arc<ClientConfig>,
}

/// What the files held when `made` was made, and what was said of them since.
struct Seen {
    contents: Contents,
    complaint: Option<String>,
}

/// What files hold.
type Contents = BTreeMap<PathBuf, Vec<u8>>;

/// A certificate with the chain above it, and its key.
type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("recipe", &self.0.recipe).finish_non_exhaustive()
    }
}

impl Material {
    /// Of a port that accepts connections. `hosts` are those that a self-signed certificate is for. Blocks while it reads files.
    ///
    /// # Errors
    /// What is wrong with the settings, or with which file.
    pub fn of_port(
        tls: &Tls,
        hosts: Vec<String>,
        files: Arc<dyn Files>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TlsError> {
        tls.validate().map_err(TlsError::Settings)?;
        Self::new(Recipe::Port { tls: tls.clone(), hosts, connects: false }, files, clock)
    }

    /// Of members, who accept connections and make them.
    ///
    /// # Errors
    /// As [`Material::of_port`].
    pub fn of_peers(
        tls: &Tls,
        hosts: Vec<String>,
        files: Arc<dyn Files>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TlsError> {
        tls.validate().map_err(TlsError::Settings)?;
        Self::new(Recipe::Port { tls: tls.clone(), hosts, connects: true }, files, clock)
    }

    /// Of a client.
    ///
    /// # Errors
    /// As [`Material::of_port`].
    pub(super) fn of_client(
        tls: ClientTls,
        files: Arc<dyn Files>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TlsError> {
        Self::new(Recipe::Client(tls), files, clock)
    }

    fn new(recipe: Recipe, files: Arc<dyn Files>, clock: Arc<dyn Clock>) -> Result<Self, TlsError> {
        let contents = read(&recipe, &*files)?;
        let made = make(&recipe, &contents, &clock)?;
        let seen = Seen { contents, complaint: None };
        Ok(Self(Arc::new(Inner { recipe, files, clock, made: RwLock::new(made), seen: Mutex::new(seen) })))
    }

    /// Looks at the files until `stop`.
    pub async fn keep(self, tasks: Arc<dyn Tasks>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(limits::TLS_LOOK_INTERVAL) => {}
            }
            let material = self.clone();
            tasks.blocking(Box::new(move || material.look())).await;
        }
    }

    /// Looks at the files once, and makes anew what is made of them if they have changed. Blocks while it reads them.
    pub(super) fn look(&self) {
        let Inner { recipe, files, clock, made, seen } = &*self.0;
        let mut seen = seen.lock();
        let is_due = made.read().until_millis <= clock.unix_millis();
        let result = match read(recipe, &**files) {
            Ok(contents) if contents == seen.contents && !is_due => {
                seen.complaint = None;
                return;
            }
            // They are being replaced; the next look sees what they become.
            Ok(contents) if read(recipe, &**files).as_ref() != Ok(&contents) => return,
            Ok(contents) => make(recipe, &contents, clock).map(|new| (contents, new)),
            Err(error) => Err(error),
        };
        match result {
            Ok((contents, new)) => {
                *made.write() = new;
                *seen = Seen { contents, complaint: None };
                tracing::info!(files = %names(recipe), "certificates have changed; new connections use them");
            }
            Err(error) => {
                let complaint = error.to_string();
                if seen.complaint.as_ref() != Some(&complaint) {
                    tracing::warn!(%error, "certificates have changed and cannot be used; the ones before stay");
                    seen.complaint = Some(complaint);
                }
            }
        }
    }

    /// For the server's side of a handshake. `None`: it makes connections only.
    pub(super) fn server(&self) -> Option<Arc<ServerConfig>> {
        self.0.made.read().server.clone()
    }

    /// For the client's side. `None`: it accepts connections only.
    pub(super) fn client(&self) -> Option<Arc<ClientConfig>> {
        self.0.made.read().client.as_ref().map(|clients| clients.named.clone())
    }

    /// The same for a server whose name is not known: whoever connects looks at its certificate.
    pub(super) fn client_of_any_name(&self) -> Option<Arc<ClientConfig>> {
        self.0.made.read().client.as_ref().map(|clients| clients.of_any_name.clone())
    }

    /// Which certificates are taken.
    pub(super) fn allowed(&self) -> &Allowed {
        match &self.0.recipe {
            Recipe::Port { tls, .. } => &tls.allowed,
            Recipe::Client(_) => &Allowed::Any,
        }
    }
}

impl Recipe {
    fn paths(&self) -> Vec<&Path> {
        let (identity, outgoing, others) = match self {
            Self::Port { tls, .. } => {
                let identity = match &tls.identity {
                    Identity::Files(pair) => Some(pair),
                    Identity::SelfSigned { .. } => None,
                };
                (identity, tls.outgoing.as_ref(), [tls.trusted_ca.as_ref(), tls.crl.as_ref()])
            }
            Self::Client(tls) => (tls.identity.as_ref(), None, [tls.trusted_ca.as_ref(), None]),
        };
        let pairs = identity.into_iter().chain(outgoing);
        let pairs = pairs.flat_map(|KeyPair { certificate, key }| [certificate, key]);
        pairs.chain(others.into_iter().flatten()).map(PathBuf::as_path).collect()
    }
}

fn names(recipe: &Recipe) -> String {
    recipe.paths().iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn wrong(path: &Path, reason: &impl ToString) -> TlsError {
    TlsError::File { path: path.display().to_string(), reason: reason.to_string() }
}

fn read(recipe: &Recipe, from: &dyn Files) -> Result<Contents, TlsError> {
    let mut contents = Contents::new();
    for path in recipe.paths() {
        let read =
            files::read_small(from, path, limits::TLS_FILE_BYTES).map_err(|error| wrong(path, &error))?;
        contents.insert(path.to_owned(), read);
    }
    Ok(contents)
}

/// The content of a file as `parse` reads it.
fn parsed<T>(
    contents: &Contents,
    path: &Path,
    parse: impl Fn(&[u8]) -> Result<T, String>,
) -> Result<T, TlsError> {
    parse(contents.get(path).map_or(&[], Vec::as_slice)).map_err(|reason| wrong(path, &reason))
}

fn shown(contents: &Contents, pair: &KeyPair) -> Result<Shown, TlsError> {
    let chain = parsed(contents, &pair.certificate, pem::certificates)?;
    Ok((chain, parsed(contents, &pair.key, pem::private_key)?))
}

/// Wall-clock time for rustls.
#[derive(Debug)]
struct Now(Arc<dyn Clock>);

impl TimeProvider for Now {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.unix_millis())))
    }
}

fn make(recipe: &Recipe, contents: &Contents, clock: &Arc<dyn Clock>) -> Result<Made, TlsError> {
    match recipe {
        Recipe::Port { tls, hosts, connects } => port(tls, hosts, *connects, contents, clock),
        Recipe::Client(tls) => {
            let servers = match &tls.trusted_ca {
                _ if tls.takes_any_server => Servers::Any,
                Some(path) => Servers::Signed(parsed(contents, path, pem::authorities)?),
                None => Servers::Signed(roots::system().map_err(TlsError::Settings)?),
            };
            let identity = tls.identity.as_ref().map(|pair| shown(contents, pair)).transpose()?;
            let path = tls.identity.as_ref().map(|pair| pair.key.as_path());
            let client = client(&Protocol::default(), servers, Vec::new(), identity, clock)
                .map_err(|error| unusable(path, &error))?;
            Ok(Made { server: None, client: Some(client), until_millis: u64::MAX })
        }
    }
}

fn unusable(path: Option<&Path>, error: &rustls::Error) -> TlsError {
    match path {
        Some(path) => wrong(path, &error),
        None => TlsError::Settings(error.to_string()),
    }
}

fn port(
    tls: &Tls,
    hosts: &[String],
    connects: bool,
    contents: &Contents,
    clock: &Arc<dyn Clock>,
) -> Result<Made, TlsError> {
    let now = clock.unix_millis();
    let (mine, until_millis, key_path) = match &tls.identity {
        Identity::Files(pair) => (shown(contents, pair)?, u64::MAX, Some(pair.key.as_path())),
        Identity::SelfSigned { validity } => {
            let (certificate, key) = self_signed::make(hosts, now, *validity).map_err(TlsError::Settings)?;
            let half = u64::try_from(validity.as_millis() / 2).unwrap_or(u64::MAX);
            ((vec![certificate], key), now.saturating_add(half), None)
        }
    };
    let authorities =
        tls.trusted_ca.as_ref().map(|path| parsed(contents, path, pem::authorities)).transpose()?;
    let crls = tls.crl.as_ref().map(|path| parsed(contents, path, pem::revocation_lists)).transpose()?;
    let crls = crls.unwrap_or_default();
    let lists = |error: rustls::server::VerifierBuilderError| {
        wrong(tls.crl.as_deref().or(tls.trusted_ca.as_deref()).unwrap_or(Path::new("")), &error)
    };
    let provider = tls.protocol.provider();
    let verifier = match &authorities {
        Some(authorities) if tls.demands_certificates => Some(
            WebPkiClientVerifier::builder_with_provider(Arc::new(authorities.clone()), provider.clone())
                .with_crls(crls.clone())
                // A list names what was revoked; of what it does not speak it says nothing.
                .allow_unknown_revocation_status()
                .build()
                .map_err(lists)?,
        ),
        _ => None,
    };
    let failed = |error: rustls::Error| unusable(key_path, &error);
    let builder = ServerConfig::builder_with_details(provider, Arc::new(Now(clock.clone())))
        .with_protocol_versions(&tls.protocol.versions())
        .map_err(failed)?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let copy = (mine.0.clone(), mine.1.clone_key());
    let mut server = builder.with_single_cert(mine.0, mine.1).map_err(failed)?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // See the folder: nobody comes in by what was seen before.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let mut made = Made { server: Some(Arc::new(server)), client: None, until_millis };
    if connects {
        let servers = match (&tls.identity, authorities) {
            // Their certificates are of their own making, too.
            (Identity::SelfSigned { .. }, _) => Servers::Any,
            (_, Some(authorities)) => Servers::Signed(authorities),
            (_, None) => Servers::Signed(roots::system().map_err(TlsError::Settings)?),
        };
        let identity = tls.outgoing.as_ref().map(|pair| shown(contents, pair)).transpose()?.unwrap_or(copy);
        let path = tls.outgoing.as_ref().map(|pair| pair.key.as_path()).or(key_path);
        let client = client(&tls.protocol, servers, crls, Some(identity), clock)
            .map_err(|error| unusable(path, &error))?;
        made.client = Some(client);
    }
    Ok(made)
}

/// Which servers are taken.
enum Servers {
    Any,
    Signed(RootCertStore),
}

fn client(
    protocol: &Protocol,
    servers: Servers,
    crls: Vec<CertificateRevocationListDer<'static>>,
    identity: Option<Shown>,
    clock: &Arc<dyn Clock>,
) -> Result<Clients, rustls::Error> {
    let provider = protocol.provider();
    let builder = ClientConfig::builder_with_details(provider.clone(), Arc::new(Now(clock.clone())))
        .with_protocol_versions(&protocol.versions())?;
    let (builder, verifier) = match servers {
        Servers::Any => {
            (builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider))), None)
        }
        Servers::Signed(authorities) => {
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(authorities), provider)
                .with_crls(crls)
                .allow_unknown_revocation_status()
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
            (builder.with_webpki_verifier(verifier.clone()), Some(verifier))
        }
    };
    let mut client = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    client.alpn_protocols = vec![b"h2".to_vec()];
    client.resumption = Resumption::disabled();
    let mut of_any_name = client.clone();
    if let Some(verifier) = verifier {
        of_any_name.dangerous().set_certificate_verifier(Arc::new(AnyName(verifier)));
    }
    Ok(Clients { named: Arc::new(client), of_any_name: Arc::new(of_any_name) })
}
