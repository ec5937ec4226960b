use std::process::ExitCode;

fn main() -> ExitCode {
    bcp_collector::ctl::main(std::env::args_os())
}
