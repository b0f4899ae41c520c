//! `holdfast`: one binary. `daemon` is the daemon, `dev` runs a small cluster on this machine, the rest is the
//! client.

#![allow(clippy::result_large_err, reason = "a Problem is made once for each request that is refused")]

mod accept;
mod agent;
mod ask;
mod cli;
mod config;
mod daemon;
mod disks;
mod doors;
mod event_log;
mod export;
mod history;
mod identity;
mod in_force;
mod inspect;
mod listen;
mod liveness;
mod local;
mod member;
mod memory;
mod node;
mod peer;
mod ports;
mod pulse;
mod repair;
mod rescue;
mod told;
mod watch;
mod watching;

use std::process::ExitCode;

fn main() -> ExitCode {
    if cli::completed() {
        return ExitCode::SUCCESS;
    }
    let args = match cli::parse() {
        Ok(args) => args,
        Err((failure, format)) => {
            cli::out::failed(&failure, format);
            return ExitCode::from(failure.code);
        }
    };
    let output = args.global.output;
    let rt = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(rt) => rt,
        Err(e) => {
            cli::out::note(format_args!("holdfast: threads: {e}"));
            return ExitCode::from(1);
        }
    };
    let code = match rt.block_on(cli::run(args)) {
        Ok(()) => 0,
        Err(e) => {
            cli::out::failed(&e, output);
            e.code
        }
    };
    rt.shutdown_background();
    ExitCode::from(code)
}
