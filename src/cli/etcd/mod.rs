//! `setstone etcd`: the same server behind etcd's command line, so that scripts and test harnesses that launch `etcd` can launch this
//! instead. Also what the program is if it is called by the name `etcd`.
//!
//! * `flags`: etcd's flags, and what is done with each: one table
//! * `parse`: words and variables; `file`: the configuration file; `values`: numbers, times and URLs as Go reads them
//! * `options`, `tls`: what they say, typed and checked; `config`: the node's configuration, filled from there
//! * `log`: where the log goes

mod config;
mod file;
mod flags;
mod log;
mod options;
mod parse;
#[cfg(test)]
mod tests;
mod tls;
mod values;

use std::fmt::Write as _;
use std::io::Write;

use clap::Args;

use super::exit::{Exit, Failure};
use super::serve;
use crate::node::ETCD_VERSION;
use flags::{Does, FLAGS, Kind};
use options::Options;
use parse::{Asked, Values};

/// Runs a member behind etcd's command line: `setstone etcd --help` lists etcd's flags and what is done with each
#[derive(Args, Clone, Debug)]
#[command(
    disable_help_flag = true,
    after_help = "\
Examples:
  setstone etcd --name a --data-dir /var/lib/a
  setstone etcd --name a --initial-advertise-peer-urls http://10.0.0.1:2380 \\
    --initial-cluster a=http://10.0.0.1:2380,b=http://10.0.0.2:2380,c=http://10.0.0.3:2380
  setstone etcd --version"
)]
pub(super) struct Arguments {
    /// etcd's flags
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    words: Vec<String>,
}

/// The words after `etcd`, if that is what the process is called for: `setstone etcd …`, or a link to it named `etcd`. Before any other
/// parser sees them, because Go's words are not everybody's.
pub(super) fn called_for(mut words: impl Iterator<Item = std::ffi::OsString>) -> Option<Vec<String>> {
    let text = |word: std::ffi::OsString| word.to_string_lossy().into_owned();
    let program = text(words.next()?);
    let mut words = words.map(text).peekable();
    let is_etcd = std::path::Path::new(&program).file_name().is_some_and(|name| name == "etcd");
    if is_etcd || words.next_if(|word| word == "etcd").is_some() { Some(words.collect()) } else { None }
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    words(&arguments.words, out)
}

/// Does what the words say.
pub(super) fn words(words: &[String], out: &mut dyn Write) -> Result<Exit, Failure> {
    let usage = |error: parse::ParseError| Failure::usage(format!("{error}\n{HINT}"));
    let values = match parse::words(words).map_err(usage)? {
        Asked::Help => {
            out.write_all(help().as_bytes())?;
            return Ok(Exit::Ok);
        }
        Asked::Version => {
            out.write_all(version().as_bytes())?;
            return Ok(Exit::Ok);
        }
        Asked::Serve(values) => values,
    };
    let (values, mut said) = all_values(values)?;
    let options = Options::new(&values).map_err(|error| Failure::new(Exit::Failed, error))?;
    let (config, more) = config::config(&options).map_err(|error| Failure::new(Exit::Failed, error))?;
    said.extend(more);
    log::start(&options)?;
    for (flag, text, by) in values.all() {
        if let Does::Nothing(why) = flag.does
            && text != flag.default
        {
            said.push(format!("{by} changes nothing: {why}"));
        }
    }
    for text in said {
        tracing::warn!("{text}");
    }
    serve::etcd(config)
}

const HINT: &str = "`setstone etcd --help` lists the flags";

/// The file counts alone, if there is one; else words before variables, as in etcd. Also what should be said about them.
fn all_values(values: Values) -> Result<(Values, Vec<String>), Failure> {
    let lookup = |name: &str| std::env::var(name).ok();
    let path = match values.text("config-file") {
        "" => lookup(&flags::variable("config-file")).unwrap_or_default(),
        path => path.to_owned(),
    };
    if path.is_empty() {
        let values = parse::variables(values, &lookup)
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
        let said = parse::unrecognized(names).into_iter();
        return Ok((values, said.map(|name| format!("unrecognized environment variable {name}")).collect()));
    }
    let wrong = |error: String| Failure::new(Exit::Failed, format!("{path}: {error}"));
    let text = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
    let (values, unknown) = file::read(&text).map_err(|error| wrong(error.to_string()))?;
    let mut said: Vec<String> = unknown.iter().map(|key| format!("{path}: {key} is no setting")).collect();
    said.push(format!(
        "loaded server configuration from {path}, other configuration command line flags and environment variables will be ignored \
         if provided"
    ));
    Ok((values, said))
}

/// etcd's lines, as far as they can be true, and our own.
fn version() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!(
        "etcd Version: {ETCD_VERSION}\nGit SHA: Not provided (Setstone, with the API of this etcd)\nGo Version: none (Rust)\nGo OS/Arch: {}/{arch}\nSetstone Version: {}\n",
        std::env::consts::OS,
        env!("CARGO_PKG_VERSION"),
    )
}

/// The table, for people.
fn help() -> String {
    let mut text = String::from(
        "Usage:\n\n  setstone etcd [flags]\n    Start a member behind etcd's command line.\n\n  setstone etcd --version\n    Show the version \
         of the etcd whose API this is.\n\nEach flag is also a variable: --some-flag is ETCD_SOME_FLAG. What was experimental is known by both \
         names.\n",
    );
    let kinds = [
        ("Flags", Does::Used("")),
        ("Taken, and without effect", Does::Nothing("")),
        ("Refused, unless they have this value", Does::Refused("")),
    ];
    // Writing into a String cannot fail.
    for (title, kind) in kinds {
        let _ = writeln!(text, "\n{title}:");
        let belongs =
            |flag: &&flags::Flag| std::mem::discriminant(&flag.does) == std::mem::discriminant(&kind);
        for flag in FLAGS.iter().filter(belongs) {
            let choices = match flag.kind {
                Kind::Choice(choices) => format!(" ({})", choices.join(", ")),
                _ => String::new(),
            };
            let _ = writeln!(text, "  --{} '{}'{choices}", flag.name, flag.default);
            let (Does::Used(why) | Does::Nothing(why) | Does::Refused(why)) = flag.does;
            if !why.is_empty() {
                let _ = writeln!(text, "    {why}");
            }
        }
    }
    text
}
