//! `holdfast`: one binary. `node` is the daemon, `dev` runs a small cluster on this machine, the rest is the
//! client.

mod accept;
mod agent;
mod api;
mod cli;
mod config;
mod daemon;
mod disks;
mod doors;
mod export;
mod history;
mod http;
mod identity;
mod inspect;
mod listen;
mod member;
mod memory;
mod node;
mod pulse;
mod repair;
mod rescue;
mod told;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args = match cli::parse() {
        Ok(args) => args,
        Err(code) => return code,
    };
    let output = args.output;
    let rt = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(rt) => rt,
        Err(e) => {
            eprintln!("holdfast: {e}");
            return ExitCode::from(1);
        }
    };
    let code = match rt.block_on(cli::run(args)) {
        Ok(()) => 0,
        Err(e) => {
            e.print(output);
            e.code
        }
    };
    rt.shutdown_background();
    ExitCode::from(code)
}
