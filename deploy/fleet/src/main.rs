use std::process::ExitCode;

fn main() -> ExitCode {
    bcp_fleet::cli::main(std::env::args_os())
}
