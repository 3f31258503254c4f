#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
use super::*;
use crate::env::files::{File, Lock, Space};
use crate::env::simulated_files::{Crash, SimulatedFiles};

/// The simulated disk, whose files give a few bytes at a time: short reads are allowed.
#[derive(Debug, Clone)]
struct Disk(SimulatedFiles);

#[derive(Debug)]
struct Handle(Box<dyn File>);

impl File for Handle {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let count = buffer.len().min(7);
        self.0.read_at(&mut buffer[..count], offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn allocate(&self, length: u64) -> io::Result<()> {
        self.0.allocate(length)
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_length(length)
    }
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }
}

impl Files for Disk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn File>> {
        Ok(Box::new(Handle(self.0.open(path, how)?)))
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.exists(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(path)
    }
    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        self.0.sync_dir(directory)
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.0.list(directory)
    }
    fn create_dir_all(&self, directory: &Path) -> io::Result<()> {
        self.0.create_dir_all(directory)
    }
    fn remove_dir_all(&self, directory: &Path) -> io::Result<()> {
        self.0.remove_dir_all(directory)
    }
    fn space(&self, directory: &Path) -> io::Result<Space> {
        self.0.space(directory)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.0.lock(path)
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
    let disk = Disk(SimulatedFiles::new(1));
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    (disk.clone(), IdentityFile::new(Arc::new(disk), Path::new("/data")))
}

fn put(disk: &Disk, bytes: &[u8]) {
    let path = Path::new("/data/identity");
    if disk.exists(path).unwrap() {
        disk.remove_file(path).unwrap();
    }
    disk.open(path, Open::Create).unwrap().write_at(bytes, 0).unwrap();
}

fn bytes_of(disk: &Disk) -> Vec<u8> {
    let file = disk.0.open(Path::new("/data/identity"), Open::Read).unwrap();
    let mut bytes = vec![0; file.length().unwrap() as usize];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
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
        last_stop: None,
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
    for keep in [Crash::LoseAll, Crash::KeepAll].into_iter().chain((0..8).map(Crash::Seeded)) {
        a_power_cut(keep);
    }
}

fn a_power_cut(keep: Crash) {
    let after = Identity { boot: 6, ..prepared() };
    for steps in 0.. {
        let (disk, file) = setup();
        file.store(&prepared()).unwrap();
        disk.0.stop_after(steps);
        let stored = file.store(&after);
        disk.0.crash(keep);
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
    disk.0.crash(Crash::LoseAll);
    assert_eq!(file.load().unwrap(), Some(raised.clone()));
    assert_eq!(raised.boot, 6);
    let last = Identity { boot: u64::MAX, ..prepared() };
    assert!(matches!(file.raise_boot(&last, &Seven), Err(IdentityError::BootExhausted { .. })));
}
