use std::process::ExitCode;

fn main() -> ExitCode {
    bcp_collector::cli::main(std::env::args_os())
}
