//! The binary. All code is in the library.

/// The allocator of the whole process. The feature `override` of the crate replaces `malloc`, so SQLite uses it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    posthaste::cli::run()
}
