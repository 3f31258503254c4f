//! The engine of a simulation, where sled cannot run: a map in memory, and a file to which each batch is appended and which
//! nobody syncs. So it comes back from a crash with any part of what it held, and from a clean close with all of it.
//!
//! As sled does, it notices by a checksum that bytes were changed. A file that ends early is an earlier state.

use std::io;
use std::ops::{Bound, ControlFlow};
use std::path::Path;

use bytes::{Buf, BufMut, Bytes};
use parking_lot::Mutex;

use super::{Batch, Engine, EngineError, MemoryEngine, Result};
use crate::env::Files;
use crate::env::files::{File, Open};

/// Name of the file.
pub const NAME: &str = "journal";
/// Bytes before each batch: its length and its checksum.
const HEADER: usize = 8;

/// See the module.
#[derive(Debug)]
pub struct JournalEngine {
    map: MemoryEngine,
    /// The file and its end; `None` once it is closed.
    file: Mutex<Option<(Box<dyn File>, u64)>>,
}

impl JournalEngine {
    /// Reads the file in `directory`, or begins one.
    pub fn open(files: &dyn Files, directory: &Path) -> Result<Self> {
        let path = directory.join(NAME);
        let file = match files.open(&path, Open::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => files.open(&path, Open::Create)?,
            opened => opened?,
        };
        let mut bytes = vec![0; file.length()? as usize];
        file.read_at(&mut bytes, 0)?;
        let map = MemoryEngine::new();
        let mut position = 0;
        while let Some(body) = next_batch(&bytes, position)? {
            position += HEADER + body.len();
            map.commit(decode(Bytes::copy_from_slice(body))?)?;
        }
        file.set_length(position as u64)?;
        Ok(Self { map, file: Mutex::new(Some((file, position as u64))) })
    }
}

fn damaged() -> EngineError {
    EngineError::Damaged("a batch of the journal".into())
}

/// The batch at a position; `None` at the end.
fn next_batch(bytes: &[u8], position: usize) -> Result<Option<&[u8]>> {
    let rest = bytes.get(position..).unwrap_or_default();
    let Some((mut header, rest)) = rest.split_at_checked(HEADER) else { return Ok(None) };
    let (length, crc) = (header.get_u32_le() as usize, header.get_u32_le());
    let Some(body) = rest.get(..length) else { return Ok(None) };
    if length == 0 || crc32c::crc32c(body) != crc {
        return Err(damaged());
    }
    Ok(Some(body))
}

fn encode(batch: &Batch) -> Vec<u8> {
    let mut body = Vec::new();
    let mut push = |bytes: &[u8]| {
        body.put_u32_le(bytes.len() as u32);
        body.put_slice(bytes);
    };
    push(&(batch.puts.len() as u32).to_le_bytes());
    for (key, value) in &batch.puts {
        push(key);
        push(value);
    }
    for key in &batch.deletes {
        push(key);
    }
    let mut framed = Vec::with_capacity(HEADER + body.len());
    framed.put_u32_le(body.len() as u32);
    framed.put_u32_le(crc32c::crc32c(&body));
    framed.put_slice(&body);
    framed
}

fn decode(mut body: Bytes) -> Result<Batch> {
    let mut next = || {
        let length = body.try_get_u32_le().map_err(|_| damaged())? as usize;
        if length > body.len() { Err(damaged()) } else { Ok((body.split_to(length), body.is_empty())) }
    };
    let (mut count, mut at_end) = next()?;
    let puts = count.try_get_u32_le().map_err(|_| damaged())?;
    let mut batch = Batch::default();
    for _ in 0..puts {
        let (key, _) = next()?;
        let (value, end) = next()?;
        batch.puts.push((key, value));
        at_end = end;
    }
    while !at_end {
        let (key, end) = next()?;
        batch.deletes.push(key);
        at_end = end;
    }
    Ok(batch)
}

impl Engine for JournalEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.map.get(key)
    }

    fn floor(&self, end: Bound<&[u8]>) -> Result<Option<(Bytes, Bytes)>> {
        self.map.floor(end)
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(Bytes, Bytes) -> ControlFlow<()>,
    ) -> Result<()> {
        self.map.scan(from, to, visit)
    }

    fn commit(&self, batch: Batch) -> Result<()> {
        let framed = encode(&batch);
        let mut guard = self.file.lock();
        let (file, end) = guard.as_mut().ok_or(EngineError::Closed)?;
        file.write_at(&framed, *end)?;
        *end += framed.len() as u64;
        self.map.commit(batch)
    }

    fn flush(&self) -> Result<()> {
        self.map.flush()
    }

    fn size_on_disk(&self) -> Result<u64> {
        self.file.lock().as_ref().map(|(_, end)| *end).ok_or(EngineError::Closed)
    }

    fn close(&self) -> Result<()> {
        self.file.lock().take();
        self.map.close()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::env::simulated_files::SimulatedFiles;

    fn put(key: &'static str, value: &'static str) -> Batch {
        Batch { puts: vec![(key.into(), value.into())], deletes: Vec::new() }
    }

    #[test]
    fn comes_back_whole_shorter_or_not_at_all() {
        let files = SimulatedFiles::new(1);
        let root = Path::new("/");
        let engine = JournalEngine::open(&files, root).unwrap();
        engine.commit(put("a", "1")).unwrap();
        let first = engine.size_on_disk().unwrap();
        engine.commit(Batch { deletes: vec!["a".into()], ..put("b", "") }).unwrap();
        let end = engine.size_on_disk().unwrap();
        engine.close().unwrap();
        assert!(matches!(engine.get(b"b"), Err(EngineError::Closed)));

        let again = JournalEngine::open(&files, root).unwrap();
        assert_eq!((again.get(b"a").unwrap(), again.get(b"b").unwrap()), (None, Some("".into())));
        again.close().unwrap();

        files.corrupt(&root.join(NAME), end - 1).unwrap();
        assert!(matches!(JournalEngine::open(&files, root), Err(EngineError::Damaged(_))));

        files.open(&root.join(NAME), Open::Write).unwrap().set_length(end - 1).unwrap();
        let earlier = JournalEngine::open(&files, root).unwrap();
        assert_eq!(earlier.get(b"a").unwrap(), Some("1".into()));
        assert_eq!(earlier.size_on_disk().unwrap(), first);
    }
}
