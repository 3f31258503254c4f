//! What a port scanner and a fuzzer send: frames of HTTP/2 and gRPC, requests of HTTP/1, a TLS greeting and noise; torn, slow, huge and
//! endless. Each attack is one connection for a bounded time, and every choice comes from its seed.
//!
//! What is sent in a second is bounded too: the question is what a member does with it, not how many packets fit through the kernel.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::dice::Dice;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest time of one attack.
const LONGEST: Duration = Duration::from_secs(6);
/// Time between two writes of one attack, most of which are far below 16 KiB.
const PACE: Duration = Duration::from_millis(10);

/// Paths of calls, with bodies that are none. None of them could harm the cluster if a body was one by chance.
const PATHS: [&str; 24] = [
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.KV/Put",
    "/etcdserverpb.KV/Txn",
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseGrant",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Lease/LeaseTimeToLive",
    "/etcdserverpb.Lease/LeaseLeases",
    "/etcdserverpb.Cluster/MemberList",
    "/etcdserverpb.Maintenance/Status",
    "/etcdserverpb.Maintenance/HashKV",
    "/etcdserverpb.Maintenance/Snapshot",
    "/etcdserverpb.Auth/Authenticate",
    "/v3lockpb.Lock/Lock",
    "/v3electionpb.Election/Observe",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/setstone.peer.v1.Raft/Append",
    "/setstone.peer.v1.Raft/Vote",
    "/setstone.peer.v1.Raft/InstallSnapshot",
    "/setstone.peer.v1.Raft/Forward",
    "/setstone.peer.v1.Raft/ReadIndex",
    "/setstone.peer.v1.Membership/Describe",
];

/// The names of the attacks, by number.
pub const NAMES: [&str; 14] = [
    "noise",
    "silence",
    "torn greeting",
    "TLS greeting",
    "HTTP/1 endless headers",
    "HTTP/1 endless body",
    "HTTP/1 odd requests",
    "random frames",
    "flood of one frame",
    "reset at once",
    "endless header block",
    "calls with broken bodies",
    "messages that never end",
    "answers that nobody reads",
];

/// One connection.
struct Attack<'a> {
    stream: TcpStream,
    dice: &'a mut Dice,
    end: Instant,
}

/// Runs attack `number` against `to`; how many bytes were sent. An error is the other side's way to end it.
pub fn run(number: usize, to: SocketAddr, dice: &mut Dice) -> u64 {
    let Ok(stream) = TcpStream::connect_timeout(&to, Duration::from_secs(2)) else { return 0 };
    let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
    let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
    let end = Instant::now() + LONGEST.mul_f64(0.1 + dice.fraction() * 0.9);
    let mut attack = Attack { stream, dice, end };
    let mut sent = 0;
    // Whatever comes of it: the other side closes, or time is over.
    let _ = attack.go(number, &mut sent);
    sent
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn headers(stream: u32, path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    let all = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    for (name, value) in all {
        block.extend([0, name.len() as u8]);
        block.extend(name.as_bytes());
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
    }
    frame(1, 4, stream, &block)
}

fn greeting() -> Vec<u8> {
    [PREFACE, &frame(4, 0, 0, &[])].concat()
}

fn message(body: &[u8]) -> Vec<u8> {
    [&[0][..], &(body.len() as u32).to_be_bytes(), body].concat()
}

impl Attack<'_> {
    fn go(&mut self, number: usize, sent: &mut u64) -> io::Result<()> {
        match number {
            0 => self.repeat(sent, |dice| dice.bytes(4_000)),
            1 => self.hold(),
            2 => self.torn(sent),
            3 => {
                let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
                hello.extend(self.dice.bytes(600));
                self.send(&hello, sent)?;
                self.hold()
            }
            4 => {
                self.send(b"GET /health HTTP/1.1\r\n", sent)?;
                self.repeat(sent, |dice| {
                    format!("x-{}: {}\r\n", dice.below(1_000_000), "y".repeat(dice.below(500))).into()
                })
            }
            5 => {
                self.send(
                    b"POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
                    sent,
                )?;
                self.send(b"8\r\n{\"key\":\"\r\n", sent)?;
                self.repeat(sent, |dice| {
                    let size = 1 + dice.below(2_000);
                    format!("{size:x}\r\n{}\r\n", "A".repeat(size)).into()
                })
            }
            6 => self.repeat(sent, odd_request),
            7 => {
                self.send(&greeting(), sent)?;
                self.repeat(sent, random_frame)
            }
            8 => self.flood(sent),
            9 => self.resets(sent),
            10 => {
                self.send(&greeting(), sent)?;
                self.send(&frame(1, 0, 1, &[0x82]), sent)?;
                self.repeat(sent, |dice| {
                    let block = dice.bytes(2_000);
                    frame(9, 0, 1, &block)
                })
            }
            11 => self.broken_calls(sent),
            12 => self.never_ending(sent),
            _ => self.unread(sent),
        }
    }

    fn send(&mut self, bytes: &[u8], sent: &mut u64) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        *sent += bytes.len() as u64;
        Ok(())
    }

    /// Sends what `make` makes until time is over, and reads what there is meanwhile.
    fn repeat(&mut self, sent: &mut u64, mut make: impl FnMut(&mut Dice) -> Vec<u8>) -> io::Result<()> {
        let mut answer = [0; 4096];
        while Instant::now() < self.end {
            let bytes = make(self.dice);
            self.send(&bytes, sent)?;
            match self.stream.read(&mut answer) {
                Ok(0) => return Ok(()),
                Err(error) if !is_nothing(&error) => return Err(error),
                _ => {}
            }
            // The pace is a part of the attack.
            std::thread::sleep(PACE);
        }
        Ok(())
    }

    /// Says nothing more until time is over or the other side has had enough.
    fn hold(&mut self) -> io::Result<()> {
        let mut answer = [0; 4096];
        while Instant::now() < self.end {
            match self.stream.read(&mut answer) {
                Ok(0) => return Ok(()),
                Err(error) if !is_nothing(&error) => return Err(error),
                _ => {}
            }
            // Between two looks at whether the other side has had enough.
            std::thread::sleep(PACE);
        }
        Ok(())
    }

    /// A beginning of something, byte by byte, and then nothing.
    fn torn(&mut self, sent: &mut u64) -> io::Result<()> {
        let whole = match self.dice.below(3) {
            0 => greeting(),
            1 => b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            _ => [greeting(), headers(1, PATHS[0]), frame(0, 1, 1, &message(&[0x0a, 1, b'k']))].concat(),
        };
        let cut = self.dice.below(whole.len());
        for byte in &whole[..cut] {
            self.send(&[*byte], sent)?;
        }
        if self.dice.below(2) == 0 { self.hold() } else { Ok(()) }
    }

    fn flood(&mut self, sent: &mut u64) -> io::Result<()> {
        self.send(&greeting(), sent)?;
        let one = match self.dice.below(7) {
            0 => frame(6, 0, 0, &[7; 8]),
            1 => frame(4, 0, 0, &[0, 4, 0, 0, 255, 255]),
            2 => frame(8, 0, 0, &[0, 0, 0, 1]),
            3 => frame(2, 0, 3, &[0, 0, 0, 3, 0]),
            4 => frame(0, 0, 1, &[]),
            5 => frame(3, 0, 1, &[0, 0, 0, 8]),
            _ => frame(0x42, 0, 0, &[1; 64]),
        };
        let many = one.repeat(200);
        self.repeat(sent, |_| many.clone())
    }

    /// Streams that are opened and reset at once.
    fn resets(&mut self, sent: &mut u64) -> io::Result<()> {
        self.send(&greeting(), sent)?;
        let mut stream = 1;
        self.repeat(sent, |dice| {
            let mut all = Vec::new();
            for _ in 0..20 {
                all.extend(headers(stream, PATHS[dice.below(PATHS.len())]));
                all.extend(frame(3, 0, stream, &[0, 0, 0, 8]));
                stream += 2;
            }
            all
        })
    }

    fn broken_calls(&mut self, sent: &mut u64) -> io::Result<()> {
        self.send(&greeting(), sent)?;
        let mut stream = 1;
        self.repeat(sent, |dice| {
            let mut body = message(&dice.bytes(200));
            match dice.below(5) {
                0 => body[1] = 0xff,
                1 => body[0] = dice.below(256) as u8,
                2 => body.truncate(dice.below(body.len())),
                _ => {}
            }
            let end = u8::from(dice.below(3) != 0);
            let call =
                [headers(stream, PATHS[dice.below(PATHS.len())]), frame(0, end, stream, &body)].concat();
            stream += 2;
            call
        })
    }

    /// One message on many streams, a few bytes at a time, of which the prefix says that much is to come.
    fn never_ending(&mut self, sent: &mut u64) -> io::Result<()> {
        self.send(&greeting(), sent)?;
        for number in 0..50 {
            let stream = 2 * number + 1;
            let path = PATHS[self.dice.below(PATHS.len())];
            self.send(&headers(stream, path), sent)?;
            self.send(&frame(0, 0, stream, &[0, 0, 0x1f, 0xff, 0xff]), sent)?;
        }
        self.repeat(sent, |dice| frame(0, 0, 2 * dice.below(50) as u32 + 1, &dice.bytes(300)))
    }

    /// Asks for all that there is, again and again, and reads nothing.
    fn unread(&mut self, sent: &mut u64) -> io::Result<()> {
        self.send(&greeting(), sent)?;
        // The server may send as much as it likes.
        self.send(&frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]), sent)?;
        self.send(&frame(8, 0, 0, &0x7fff_0000_u32.to_be_bytes()), sent)?;
        let range = message(&[0x0a, 1, 0, 0x12, 1, 0]);
        let watch = message(&[0x0a, 6, 0x0a, 1, 0, 0x12, 1, 0]);
        let mut stream = 1;
        while Instant::now() < self.end {
            let (path, body) = if self.dice.below(4) == 0 { (PATHS[4], &watch) } else { (PATHS[0], &range) };
            self.send(&[headers(stream, path), frame(0, 1, stream, body)].concat(), sent)?;
            stream += 2;
            // The pace is a part of the attack.
            std::thread::sleep(PACE);
        }
        Ok(())
    }
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn odd_request(dice: &mut Dice) -> Vec<u8> {
    let method = ["GET", "POST", "OPTIONS", "TRACE", "", "G\0T", "PRI"][dice.below(7)];
    let path = ["/", "/v3/kv/range", "/metrics", "/../../etc", "*", "/%00%ff", "/v3/watch"][dice.below(7)];
    let length = ["0", "5", "-1", "99999999999999999999", "5, 6", "x"][dice.below(6)];
    let body = ["{}", "[[[[[", "{\"key\":", "\0\0\0\0\0", ""][dice.below(5)];
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}").into()
}

fn random_frame(dice: &mut Dice) -> Vec<u8> {
    let (kind, flags) = (dice.below(12) as u8, dice.below(256) as u8);
    let stream = [0, 1, 2, 3, 5, 0x7fff_ffff, 0x8000_0001][dice.below(7)];
    let payload = dice.bytes(300);
    let mut frame = frame(kind, flags, stream, &payload);
    if dice.below(8) == 0 {
        // A length that is not that of what follows.
        frame[..3].copy_from_slice(&(dice.below(1 << 24) as u32).to_be_bytes()[1..]);
    }
    frame
}
