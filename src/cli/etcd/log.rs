//! The log as `--log-level`, `--log-format` and `--log-outputs` want it.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

use super::super::exit::{Exit, Failure};
use super::super::serve;
use super::options::Options;

/// Where the log goes.
#[derive(Clone, Default)]
struct Outputs {
    stderr: bool,
    stdout: bool,
    files: Vec<Arc<Mutex<File>>>,
}

impl Outputs {
    fn open(outputs: &[String]) -> io::Result<Self> {
        let mut opened = Self::default();
        for output in outputs {
            match output.as_str() {
                "default" | "stderr" | "" => opened.stderr = true,
                "stdout" => opened.stdout = true,
                path => {
                    let file = File::options().append(true).create(true).open(path);
                    let file =
                        file.map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
                    opened.files.push(Arc::new(Mutex::new(file)));
                }
            }
        }
        Ok(opened)
    }
}

impl Write for Outputs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stderr {
            io::stderr().write_all(bytes)?;
        }
        if self.stdout {
            io::stdout().write_all(bytes)?;
        }
        for file in &self.files {
            let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            file.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Outputs {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Starts the log.
pub(super) fn start(options: &Options) -> Result<(), Failure> {
    let level = match options.log_level.as_str() {
        // Whatever is worse than an error ends the process, and says so.
        "dpanic" | "panic" | "fatal" => "error",
        level => level,
    };
    let wrong = |error: String| Failure::new(Exit::Failed, format!("the log cannot be started: {error}"));
    let filter = serve::log_filter(level).map_err(|error| wrong(error.to_string()))?;
    let outputs = Outputs::open(&options.log_outputs).map_err(|error| wrong(error.to_string()))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(outputs);
    let started = if options.log_json { log.json().flatten_event(true).try_init() } else { log.try_init() };
    started.map_err(|error| wrong(error.to_string()))
}
