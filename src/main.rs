//! The binary: everything is in the library.

/// SQLite's too: the crate's `override` puts it in the place of the C library's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    posthaste::cli::run()
}
