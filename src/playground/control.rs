//! The control socket: a second terminal asks a running playground. An edge.
//!
//! One JSON [`Request`] a line, one JSON [`Response`] a line, in order, over a unix socket that only this user can reach.
//! Invariants: lines and connections are bounded; a line that is no request is answered with an error and the connection
//! goes on, except after a line that is too long. Called by `mod` (server) and the command line (client).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::task::AbortOnDropHandle;

use super::accept;
use super::run_directory::{RunError, sockets};
use super::status::{CommandError, Request, Response};
use crate::limits::{
    PLAYGROUND_CONTROL_CONNECTIONS, PLAYGROUND_CONTROL_REQUEST_BYTES as REQUEST_BYTES,
    PLAYGROUND_CONTROL_RESPONSE_BYTES as RESPONSE_BYTES,
};

/// Time for an answer: a container that is killed is gone long before.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Time that a connection may stay silent: nobody types requests by hand.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Answers a request.
pub type Handler = Arc<dyn Fn(Request) -> BoxFuture<'static, Response> + Send + Sync>;

/// Why a playground did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// None was found.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The one that was found does not answer.
    #[error("the playground at {} does not answer: {source}", .socket.display())]
    Unreachable {
        /// Its control socket.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It answered that it cannot do that.
    #[error(transparent)]
    Refused(#[from] CommandError),
}

/// Answers on a new socket at this path until the handle is dropped. The socket of a playground that was killed is
/// replaced: the directory is ours alone.
///
/// # Errors
/// If a playground that runs has this socket, or it cannot be bound.
pub fn serve(socket: &Path, handler: Handler) -> io::Result<AbortOnDropHandle<()>> {
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    Ok(AbortOnDropHandle::new(tokio::spawn(accept(listener, handler))))
}

async fn accept(listener: UnixListener, handler: Handler) {
    let accepted = futures::stream::unfold(listener, |listener| async {
        Some((listener.accept().await.map(|(stream, _)| stream), listener))
    });
    let serve = |stream| {
        let answered = answer(stream, Arc::clone(&handler));
        async move {
            if let Err(error) = answered.await {
                tracing::debug!(%error, "a control connection failed");
            }
        }
    };
    accept::accept("the control socket", PLAYGROUND_CONTROL_CONNECTIONS, accepted, serve).await;
}

async fn answer(mut stream: UnixStream, handler: Handler) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    loop {
        let request = tokio::time::timeout(IDLE_TIMEOUT, read_line(&mut reader, REQUEST_BYTES)).await;
        let (response, go_on) = match request.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(None) => return Ok(()),
            Ok(Some(request)) => (handler(request).await, true),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let reason = error.to_string();
                (Response::Error(CommandError::BadRequest { reason }), !is_too_long(&error))
            }
            Err(error) => return Err(error),
        };
        writer.write_all(&line(&response)?).await?;
        if !go_on {
            return Ok(());
        }
    }
}

/// Asks the newest playground, or the one of the run directory given.
///
/// # Errors
/// If there is none, it does not answer in time, or it refuses.
pub async fn ask(chosen: Option<&Path>, request: Request) -> Result<Response, ControlError> {
    for socket in sockets(chosen)? {
        // One that cannot be connected to was killed; the next one may be alive.
        match UnixStream::connect(&socket).await {
            Ok(stream) => {
                let asked = tokio::time::timeout(ANSWER_TIMEOUT, exchange(stream, request)).await;
                return match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                    Ok(Response::Error(refused)) => Err(refused.into()),
                    Ok(response) => Ok(response),
                    Err(source) => Err(ControlError::Unreachable { socket, source }),
                };
            }
            Err(source) if chosen.is_some() => return Err(ControlError::Unreachable { socket, source }),
            Err(error) => tracing::debug!(socket = %socket.display(), %error, "a dead playground's"),
        }
    }
    Err(RunError::NoneRuns(super::run_directory::base()).into())
}

async fn exchange(mut stream: UnixStream, request: Request) -> io::Result<Response> {
    stream.write_all(&line(&request)?).await?;
    let response = read_line(&mut BufReader::new(stream), RESPONSE_BYTES).await?;
    response.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn line(value: &impl serde::Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// A line was longer than allowed.
#[derive(Debug, thiserror::Error)]
#[error("a line of more than {0} bytes")]
struct TooLong(usize);

fn is_too_long(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<TooLong>)
}

/// One line as a value; `None` at the end of the stream.
async fn read_line<T: DeserializeOwned>(
    reader: &mut (impl AsyncBufRead + Unpin),
    limit: usize,
) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    let read = reader.take(limit as u64 + 1).read_until(b'\n', &mut line).await?;
    if read == 0 {
        return Ok(None);
    }
    if read > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, TooLong(limit)));
    }
    let parsed = serde_json::from_slice(&line);
    parsed.map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Refuses every kill, naming what was asked.
    fn refuses() -> Handler {
        Arc::new(|request| {
            Box::pin(async move {
                Response::Error(match request {
                    Request::Kill { ordinal } => CommandError::NoSuchPod { ordinal, replicas: 3 },
                    Request::DeletePod { ordinal } => CommandError::Terminating { ordinal },
                    Request::Scale { replicas } => CommandError::TooMany { replicas, most: 50 },
                    Request::DeleteVolume { ordinal } => CommandError::NoSuchVolume { ordinal },
                    _ => CommandError::Stopping,
                })
            })
        })
    }

    #[tokio::test]
    async fn requests_and_typed_errors_come_across() {
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path();
        let _server = serve(&run.join("control.sock"), refuses()).unwrap();
        let error = ask(Some(run), Request::Kill { ordinal: 7 }).await.unwrap_err();
        assert!(
            matches!(error, ControlError::Refused(CommandError::NoSuchPod { ordinal: 7, replicas: 3 })),
            "{error}"
        );
        let error = ask(Some(run), Request::Status).await.unwrap_err();
        assert_eq!(error.to_string(), "the playground is stopping");
    }

    #[tokio::test]
    async fn what_is_no_request_is_answered_and_the_connection_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let _server = serve(&socket, refuses()).unwrap();
        let mut stream = BufReader::new(UnixStream::connect(&socket).await.unwrap());
        let bad = [
            "\n",
            "nonsense\n",
            "{}\n",
            "{\"op\":\"dance\"}\n",
            "{\"op\":\"kill\"}\n",
            "{\"op\":\"kill\",\"ordinal\":-1}\n",
            "{\"op\":\"kill\",\"ordinal\":65536}\n",
            "\u{0}\n",
        ];
        for line in bad {
            stream.write_all(line.as_bytes()).await.unwrap();
            let answer: Response = read_line(&mut stream, RESPONSE_BYTES).await.unwrap().unwrap();
            assert!(
                matches!(answer, Response::Error(CommandError::BadRequest { .. })),
                "{line:?}: {answer:?}"
            );
        }
        stream.write_all(b"{\"op\":\"delete-pod\",\"ordinal\":2}\n").await.unwrap();
        let answer: Response = read_line(&mut stream, RESPONSE_BYTES).await.unwrap().unwrap();
        assert_eq!(answer, Response::Error(CommandError::Terminating { ordinal: 2 }));
        // A line without an end is given up, after an answer.
        stream.write_all(&[b' '; REQUEST_BYTES + 1]).await.unwrap();
        let answer: Response = read_line(&mut stream, RESPONSE_BYTES).await.unwrap().unwrap();
        assert!(matches!(answer, Response::Error(CommandError::BadRequest { .. })), "{answer:?}");
        assert_eq!(stream.read_u8().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_playground_that_was_killed_is_unreachable() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let error = ask(Some(directory.path()), Request::Status).await.unwrap_err();
        assert!(matches!(&error, ControlError::Unreachable { socket: at, .. } if *at == socket), "{error}");
        // The next playground takes its place, and only that of one that is dead.
        let _server = serve(&socket, refuses()).unwrap();
        assert_eq!(serve(&socket, refuses()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let error = ask(Some(directory.path()), Request::Status).await.unwrap_err();
        assert!(matches!(error, ControlError::Refused(CommandError::Stopping)), "{error}");
    }
}
