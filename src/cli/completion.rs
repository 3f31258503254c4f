//! `setstone completion`: a script that makes a shell complete our commands.

use std::io::Write;

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;

use super::Cli;
use super::exit::{Exit, Failure};

/// Prints a completion script for a shell
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  source <(setstone completion bash)
  setstone completion zsh > ~/.zfunc/_setstone
  setstone completion fish > ~/.config/fish/completions/setstone.fish")]
pub(super) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    pub shell: Supported,
}

/// Shells that are supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Supported {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    let shell = match arguments.shell {
        Supported::Bash => Shell::Bash,
        Supported::Zsh => Shell::Zsh,
        Supported::Fish => Shell::Fish,
    };
    // The generator panics when its output cannot be written, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "setstone", &mut script);
    out.write_all(&script)?;
    Ok(Exit::Ok)
}
