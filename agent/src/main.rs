//! The agent as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    bcp_agent::cli::main(std::env::args_os())
}
