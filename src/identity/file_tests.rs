#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::*;
use crate::env::files::{File, Lock, Space};

/// A directory in memory that counts what was synced. A file's bytes are kept from its last sync; names from the last sync of
/// the directory.
#[derive(Debug, Default)]
struct Shelf {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What a reader sees now.
    now: BTreeMap<PathBuf, Arc<Mutex<Bytes>>>,
    /// What a power cut leaves.
    durable: BTreeMap<PathBuf, Arc<Mutex<Bytes>>>,
    /// Steps before everything fails.
    steps: Option<usize>,
}

#[derive(Debug, Default, Clone)]
struct Bytes {
    written: Vec<u8>,
    synced: Vec<u8>,
}

impl Shelf {
    fn step(&self) -> io::Result<()> {
        match &mut self.state.lock().steps {
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(steps) => {
                *steps -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn power_cut(&self) {
        let mut state = self.state.lock();
        state.steps = None;
        state.now = state.durable.clone();
        for bytes in state.now.values() {
            let mut bytes = bytes.lock();
            bytes.written = bytes.synced.clone();
        }
    }
}

#[derive(Debug)]
struct Handle(Arc<Mutex<Bytes>>, Arc<Shelf>);

impl File for Handle {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.0.lock();
        let from = bytes.written.get(offset as usize..).unwrap_or_default();
        // Short reads are allowed.
        let count = from.len().min(buffer.len()).min(7);
        buffer[..count].copy_from_slice(&from[..count]);
        Ok(count)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.1.step()?;
        let mut file = self.0.lock();
        let end = offset as usize + bytes.len();
        if file.written.len() < end {
            file.written.resize(end, 0);
        }
        file.written[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        self.1.step()?;
        let mut file = self.0.lock();
        file.synced = file.written.clone();
        Ok(())
    }
    fn allocate(&self, _: u64) -> io::Result<()> {
        unimplemented!("an identity file needs none of it")
    }
    fn set_length(&self, _: u64) -> io::Result<()> {
        unimplemented!("an identity file needs none of it")
    }
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.lock().written.len() as u64)
    }
}

#[derive(Debug, Clone, Default)]
struct Disk(Arc<Shelf>);

impl Files for Disk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn File>> {
        self.0.step()?;
        let mut state = self.0.state.lock();
        let bytes = match how {
            Open::Create => {
                assert!(!state.now.contains_key(path), "created twice");
                let bytes = Arc::<Mutex<Bytes>>::default();
                state.now.insert(path.into(), Arc::clone(&bytes));
                bytes
            }
            _ => Arc::clone(state.now.get(path).ok_or(io::ErrorKind::NotFound)?),
        };
        Ok(Box::new(Handle(bytes, Arc::clone(&self.0))))
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.0.state.lock().now.contains_key(path))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.step()?;
        let mut state = self.0.state.lock();
        let bytes = state.now.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.now.insert(to.into(), bytes);
        Ok(())
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.step()?;
        self.0.state.lock().now.remove(path);
        Ok(())
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        self.0.step()?;
        let mut state = self.0.state.lock();
        state.durable = state.now.clone();
        Ok(())
    }
    fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        unimplemented!("an identity file needs none of it")
    }
    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        unimplemented!("an identity file needs none of it")
    }
    fn remove_dir_all(&self, _: &Path) -> io::Result<()> {
        unimplemented!("an identity file needs none of it")
    }
    fn space(&self, _: &Path) -> io::Result<Space> {
        unimplemented!("an identity file needs none of it")
    }
    fn lock(&self, _: &Path) -> io::Result<Box<dyn Lock>> {
        unimplemented!("an identity file needs none of it")
    }
}

#[derive(Debug)]
struct Seven;
impl Random for Seven {
    fn next_u64(&self) -> u64 {
        7
    }
}

fn setup() -> (Disk, IdentityFile) {
    let disk = Disk::default();
    (disk.clone(), IdentityFile::new(Arc::new(disk), Path::new("/data")))
}

fn put(disk: &Disk, bytes: &[u8]) {
    let bytes = Bytes { written: bytes.to_vec(), synced: bytes.to_vec() };
    disk.0.state.lock().now.insert("/data/identity".into(), Arc::new(Mutex::new(bytes)));
}

fn bytes_of(disk: &Disk) -> Vec<u8> {
    disk.0.state.lock().now[Path::new("/data/identity")].lock().written.clone()
}

fn prepared() -> Identity {
    Identity {
        cluster: ClusterId(0xc1),
        supersedes: vec![ClusterId(0xa), ClusterId(0xb)],
        node_id: NodeId::new(2, 1),
        ordinal: 2,
        state: DiskState::Prepared {
            voters: Membership::all_vote(vec![Member {
                node_id: NodeId::new(2, 1),
                name: "s-2".into(),
                peer_address: "s-2.p:2380".into(),
                client_urls: vec!["http://s-2.p:2379".into()],
            }]),
        },
        boot: 5,
    }
}

#[test]
fn what_was_stored_is_loaded() {
    let (_, file) = setup();
    assert_eq!(file.load().unwrap(), None);
    for state in [
        prepared().state,
        DiskState::Joining { nonce: u64::MAX },
        DiskState::Member,
        DiskState::Lost { reason: "rolled back".into(), successor: None },
        DiskState::Lost { reason: "rolled back".into(), successor: Some(7) },
    ] {
        let identity = Identity { state, ..prepared() };
        file.store(&identity).unwrap();
        assert_eq!(file.load().unwrap(), Some(identity));
    }
}

/// The format of version 1, byte by byte. If this fails, the format has changed: raise the version and keep reading this one.
#[test]
fn the_format_is_the_one_that_was_released() {
    let fixture = "5345544944454e540100000065000000e75befc7\
                   09c10000000000000012100a000000000000000b00000000000000190100000000000200\
                   20022805323b0a0a0a080100000000000200122d0901000000000002001203732d321a0a\
                   732d322e703a323338302211687474703a2f2f732d322e703a32333739";
    let (disk, file) = setup();
    file.store(&prepared()).unwrap();
    let hex = bytes_of(&disk).iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    assert_eq!(hex, fixture);
    let bytes: Vec<u8> = (0..fixture.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&fixture[at..at + 2], 16).unwrap())
        .collect();
    put(&disk, &bytes);
    assert_eq!(file.load().unwrap(), Some(prepared()));
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let (disk, file) = setup();
    file.store(&prepared()).unwrap();
    let good = bytes_of(&disk);
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        put(&disk, &bad);
        assert!(file.load().is_err(), "bit {bit}");
    }
    for length in 0..good.len() {
        put(&disk, &good[..length]);
        assert!(file.load().is_err(), "cut to {length}");
    }
    let longer = [good.as_slice(), &[0]].concat();
    put(&disk, &longer);
    assert!(matches!(file.load(), Err(IdentityError::Damaged { .. })));
}

#[test]
fn another_version_is_named() {
    let (disk, file) = setup();
    file.store(&prepared()).unwrap();
    let mut bytes = bytes_of(&disk);
    bytes[8] = 9;
    put(&disk, &bytes);
    assert_eq!(
        file.load().unwrap_err().to_string(),
        "/data/identity: format version 9; this version of setstone supports 1"
    );
    put(&disk, b"something else entirely");
    assert!(matches!(file.load(), Err(IdentityError::NotAnIdentity { .. })));
    put(&disk, &vec![0; limits::IDENTITY_BYTES + 1]);
    assert!(matches!(file.load(), Err(IdentityError::Damaged { .. })));
}

#[test]
fn a_power_cut_leaves_the_one_before_or_the_one_after() {
    let after = Identity { boot: 6, ..prepared() };
    for steps in 0.. {
        let (disk, file) = setup();
        file.store(&prepared()).unwrap();
        disk.0.state.lock().steps = Some(steps);
        let stored = file.store(&after);
        disk.0.power_cut();
        let found = file.load().unwrap().unwrap();
        if stored.is_ok() {
            assert_eq!(found, after, "acknowledged after {steps} steps");
            assert!(steps >= 5, "open, write, sync, rename and directory sync are five");
            break;
        }
        assert!(found == prepared() || found == after, "half an identity after {steps} steps");
        // And the remains do not stand in the way.
        file.store(&after).unwrap();
        assert_eq!(file.load().unwrap(), Some(after.clone()));
    }
}

#[test]
fn each_start_raises_the_boot_durably() {
    let (disk, file) = setup();
    file.store(&prepared()).unwrap();
    let (raised, boot) = file.raise_boot(&prepared(), &Seven).unwrap();
    assert_eq!(boot, Boot { number: 6, random: 7 });
    disk.0.power_cut();
    assert_eq!(file.load().unwrap(), Some(raised.clone()));
    assert_eq!(raised.boot, 6);
    let last = Identity { boot: u64::MAX, ..prepared() };
    assert!(matches!(file.raise_boot(&last, &Seven), Err(IdentityError::BootExhausted { .. })));
}
