//! What a session may ask for, by a line over TCP; one line is the answer. `CONTROL` tells it where.
//!
//! * `kill-leader`: kills the leader's process; answers its endpoint
//! * `restart`: starts whoever is down; answers `ok` when all serve
//! * `leader`: answers the endpoint of the leader
//! * `another`: prepares one more member, which the session is to add; answers its peers' `host:port`
//! * `start-added`: starts that member
//! * `forget`: ends it for good

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::cluster::Cluster;

/// Listens until it is dropped.
pub struct Control {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Control {
    /// Listens on behalf of `cluster`.
    pub fn listen(cluster: Arc<Mutex<Cluster>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                // One at a time: a session asks for one thing after the other.
                let _ = stream.and_then(|stream| answer(stream, &cluster));
            }
        });
        Self { address, stopping, thread: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

fn answer(stream: TcpStream, cluster: &Mutex<Cluster>) -> std::io::Result<()> {
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let mut cluster = cluster.lock().unwrap();
    let text = match line.trim() {
        "kill-leader" => {
            let leader = cluster.kill_leader();
            cluster.members()[leader].endpoint()
        }
        "restart" => {
            cluster.restart();
            "ok".to_owned()
        }
        "leader" => cluster.members()[cluster.leader()].endpoint(),
        "another" => cluster.another().peer_url().trim_start_matches("http://").to_owned(),
        "start-added" => {
            cluster.start_added();
            "ok".to_owned()
        }
        "forget" => {
            cluster.forget_last();
            "ok".to_owned()
        }
        other => format!("unknown: {other}"),
    };
    writeln!(&stream, "{text}")
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Wakes it.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
