//! The xcron server.

/// A create makes some forty small allocations, on one thread, that are freed on another: the system's allocator
/// took a fifth of the server's time at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    xcron::cli::main()
}
