//! The command line: parses it and runs the command. Commands of a cluster are requests to its REST API; nothing
//! here decides what they mean. Exit codes: 0 done · 1 failed · 2 wrong usage · 3 not found · 4 refused in the
//! present state · 5 no node answered, or try again later · 6 accepted, but not done yet · 7 no right to do this.

pub mod args;
mod client;
mod cluster;
mod complete;
mod context;
mod dev;
pub mod failure;
mod fleet;
mod format;
mod http;
mod job;
mod kinds;
mod list;
mod local;
mod man;
pub mod out;
mod progress;
mod session;
mod table;
mod volume;
mod watch;
mod yaml;

use args::*;
use clap::{CommandFactory, Parser};
use context::Said;
use failure::{Failure, usage};
use out::{Format, Out};
use session::Session;

fn logging(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("HOLDFAST_LOG").unwrap_or_else(|_| "info".into());
    let sub = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json { sub.json().init() } else { sub.with_ansi(false).init() }
}

/// Answers a shell's completion script, if one asks; then nothing else is to be done.
pub fn completed() -> bool {
    complete::answered(Cli::command)
}

/// Parses the command line. Help is printed here. Wrong usage is a failure, in the format that the words ask for
/// although they cannot be parsed.
pub fn parse() -> Result<Cli, (Failure, Format)> {
    Cli::try_parse().map_err(|e| {
        if !e.use_stderr() {
            let mut out = Out::new(Format::Text);
            let text = if out.on_terminal() { e.render().ansi().to_string() } else { e.render().to_string() };
            let done = out.print(text).and_then(|()| out.flush());
            return (done.err().unwrap_or(Failure::quiet()), Format::Text);
        }
        let text = e.render().to_string();
        let text = text.trim_end().trim_start_matches("error: ");
        let json = json_wanted(std::env::args_os().map(|a| a.to_string_lossy().into_owned()));
        (usage(text), if json { Format::Json } else { Format::Text })
    })
}

/// Whether a command line that cannot be parsed asks for JSON.
fn json_wanted(words: impl Iterator<Item = String>) -> bool {
    let words: Vec<String> = words.collect();
    let one = |w: &String| ["-ojson", "-o=json", "--output=json"].contains(&w.as_str());
    words.iter().any(one) || words.windows(2).any(|w| ["-o", "--output"].contains(&w[0].as_str()) && w[1] == "json")
}

/// Runs the command that was parsed.
pub async fn run(cli: Cli) -> Result<(), Failure> {
    let g = cli.global;
    match cli.command {
        Commands::Status(w) => of_cluster(&g, async |s| cluster::status(s, &w).await).await,
        Commands::Health(a) => of_cluster(&g, async |s| cluster::health(s, a).await).await,
        Commands::Volume(v) => of_cluster(&g, async |s| volume::run(s, v).await).await,
        Commands::Disk(d) => of_cluster(&g, async |s| fleet::disk(s, d).await).await,
        Commands::Job(j) => of_cluster(&g, async |s| job::run(s, j).await).await,
        Commands::Event(e) => of_cluster(&g, async |s| cluster::events(s, e).await).await,
        Commands::Cluster(c) => of_cluster(&g, async |s| cluster::run(s, c).await).await,
        Commands::Node(n) => match n.command {
            Some(sub) => of_cluster(&g, async |s| fleet::node(s, sub).await).await,
            None => daemon(n.run).await,
        },
        Commands::Daemon(a) => daemon(*a).await,
        other => elsewhere(&g, other).await,
    }
}

/// Runs a command of a cluster, and hands what it printed to the reader also when it failed.
async fn of_cluster(g: &Global, command: impl AsyncFnOnce(&mut Session) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut s = Session::new(g)?;
    let done = command(&mut s).await;
    s.out.flush().and(done)
}

/// Runs a command that asks no node.
async fn elsewhere(g: &Global, command: Commands) -> Result<(), Failure> {
    if g.dry_run {
        return Err(usage("--dry-run: only changes of a running cluster know it"));
    }
    let mut out = Out::new(g.output);
    let done = match command {
        Commands::Policy(PolicyCommand::Attributes) => local::attributes(&mut out),
        Commands::Context(c) => context::run(c, &Said::here(g.endpoint.clone(), g.context.clone()), &mut out),
        Commands::Dev(a) => dev::run(a, &mut out).await,
        Commands::Inspect(i) => local::inspect(i, &mut out),
        Commands::Rescue(r) => local::rescue(r, &mut out).await,
        Commands::Completions { shell } => complete::script(shell, &mut out),
        Commands::Man { dir } => man::run(Cli::command(), dir.as_deref(), &mut out),
        // `run` has taken all others.
        _ => Ok(()),
    };
    out.flush().and(done)
}

async fn daemon(a: crate::config::NodeArgs) -> Result<(), Failure> {
    let cfg = crate::config::Config::load(a).map_err(usage)?;
    logging(cfg.json_logs);
    Ok(crate::daemon::run(cfg).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_command_line_fit_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn old_forms_are_understood() {
        let parsed = |words: &str| Cli::try_parse_from(words.split(' ')).is_ok();
        for words in [
            "holdfast node --config x",
            "holdfast daemon --config x",
            "holdfast events --follow",
            "holdfast event list",
            "holdfast disk drain 3 --cancel",
            "holdfast disk undrain 3",
            "holdfast node activate n1",
            "holdfast volume list -o wide --sort -size -l app=web,!x",
            "holdfast health mute NODE_DOWN --for 2h --reason r",
            "holdfast job pause",
        ] {
            assert!(parsed(words), "{words}");
        }
        assert!(!parsed("holdfast volume list -o xml"));
    }

    #[test]
    fn json_is_known_to_be_wanted_in_what_cannot_be_parsed() {
        let wanted = |words: &str| json_wanted(words.split(' ').map(String::from));
        assert!(wanted("volume lst -o json") && wanted("x --output=json") && wanted("-ojson"));
        assert!(!wanted("volume lst json") && !wanted("-o text"));
    }
}
