//! The xcron server.

fn main() -> std::process::ExitCode {
    xcron::cli::main()
}
