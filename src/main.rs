//! Arguments -> config -> run -> exit code.

fn main() -> std::process::ExitCode {
    setstone::cli::main()
}
