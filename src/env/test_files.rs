//! A file system for tests that need none: it refuses everything.

use std::io;
use std::path::Path;

use super::files::{File, Files, Lock, Open, Space};

#[derive(Debug)]
pub(crate) struct NoFiles;

macro_rules! none {
    ($($name:ident($($argument:ty),*) -> $result:ty;)*) => {
        impl Files for NoFiles {
            $(fn $name(&self, $(_: $argument),*) -> io::Result<$result> {
                Err(io::ErrorKind::Unsupported.into())
            })*
        }
    };
}

none! {
    open(&Path, Open) -> Box<dyn File>;
    list(&Path) -> Vec<String>;
    exists(&Path) -> bool;
    create_dir_all(&Path) -> ();
    rename(&Path, &Path) -> ();
    remove_file(&Path) -> ();
    remove_dir_all(&Path) -> ();
    sync_dir(&Path) -> ();
    space(&Path) -> Space;
    lock(&Path) -> Box<dyn Lock>;
}
