//! A load that remembers, in a pod of its own: writers and readers through the client Service, who note every answer. Another process in
//! the same pod asks it what it saw.
//!
//! ```text
//! setstone-load run ENDPOINT [FOLDER]    until it is told to finish; over TLS with the ca.crt, tls.crt and tls.key of the folder
//! setstone-load mark                     a moment, in milliseconds of this pod's clock
//! setstone-load report SINCE             what was seen since that moment, as JSON
//! setstone-load finish                   stops the load, reads everything, checks it; JSON, exit code 1 if something is wrong
//! setstone-load show FILE                what is in a file: the image has nothing else that could
//! ```

#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod history;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use history::History;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use workers::Target;

/// Where the load is asked.
const CONTROL: (&str, u16) = ("127.0.0.1", 7070);
/// Time for an answer; to finish, everything is read.
const ANSWER: Duration = Duration::from_secs(60);

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["run", endpoint] => run(Target::new(endpoint, None)?).await,
        ["run", endpoint, folder] => run(Target::new(endpoint, Some(folder))?).await,
        ["show", file] => {
            print!("{}", std::fs::read_to_string(file)?);
            Ok(())
        }
        ["mark" | "finish"] | ["report", _] => ask(&words.join(" ")).await,
        _ => {
            Err("usage: setstone-load run ENDPOINT [FOLDER] | mark | report SINCE | finish | show FILE"
                .into())
        }
    }
}

async fn run(target: Target) -> Result<(), Failure> {
    let history = Arc::new(History::default());
    let mut workers = workers::start(&target, &history)?;
    let listener = TcpListener::bind(CONTROL).await?;
    println!("writing to {target}");
    // A first process in a container has no default action for SIGTERM.
    let mut stop = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            _ = stop.recv() => return Ok(()),
        };
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let answer = match line.trim().split(' ').collect::<Vec<_>>()[..] {
            ["mark"] => history::now().to_string(),
            ["report", since] => serde_json::to_string(&history.report(since.parse()?))?,
            ["finish"] => {
                let writes = workers.finish().await;
                let wrong = workers::check(&target, &history, &writes).await;
                serde_json::json!({ "writes": writes.len(), "reads": history.reads(), "wrong": wrong })
                    .to_string()
            }
            _ => "not understood".into(),
        };
        stream.get_mut().write_all(answer.as_bytes()).await?;
        stream.get_mut().shutdown().await?;
    }
}

async fn ask(question: &str) -> Result<(), Failure> {
    let asked = async {
        let mut stream = TcpStream::connect(CONTROL).await?;
        stream.write_all(format!("{question}\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, Failure>(answer)
    };
    println!("{}", tokio::time::timeout(ANSWER, asked).await??);
    Ok(())
}
