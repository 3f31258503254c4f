//! Arguments -> config -> run -> exit code.

/// How many arenas it has and when it gives memory back stands in `.cargo/config.toml`.
#[cfg(unix)]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    setstone::cli::main()
}
