//! `cargo xtask bench [run] [syscalls] [sched] [redis] [idle] [scrape] [blame] [bandwidth]
//! [audit] [images] [noisy]`: what tenantry costs, beside peers, in one run on one machine; without a name all
//! but `noisy`. `record` measures nothing: it writes the decision logs that tests replay.
//!
//! Prints ratios with their spread and asserts nothing: a noisy machine makes no
//! failure, and an absolute time proves nothing. Peers are Debian's packages.

mod audit;
mod bandwidth;
mod blame;
mod idle;
mod images;

mod noisy;
mod order;
mod peers;
mod programs;
mod record;
mod redis;
mod run;
mod sched;
mod scrape;
mod spread;
mod syscalls;

use std::process::ExitCode;

const USAGE: &str = "usage: tenantry-bench [run] [syscalls] [sched] [redis] [idle] [scrape] [blame] [bandwidth] [audit] [images] [noisy] [record]";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        // Runs inside the process that is measured.
        ["measure", call, rest @ ..] => {
            syscalls::measure(call, rest.first().copied()).map(|nanos| println!("{nanos}"))
        }
        [] => run(&[
            "run",
            "syscalls",
            "sched",
            "redis",
            "idle",
            "scrape",
            "blame",
            "bandwidth",
            "audit",
            "images",
        ]),
        names => run(names),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(names: &[&str]) -> anyhow::Result<()> {
    if let Some(why) = tenantry_e2e::obstacle() {
        anyhow::bail!("{why}");
    }
    let uname = rustix::system::uname();
    let cpus = std::thread::available_parallelism()?;
    println!("kernel {}, {cpus} CPUs\n", uname.release().to_string_lossy());
    for name in names {
        match *name {
            "audit" => audit::run()?,
            "run" => run::run()?,
            "syscalls" => syscalls::run()?,
            "sched" => sched::run()?,
            "redis" => redis::run()?,
            "idle" => idle::run()?,
            "images" => images::run()?,
            "scrape" => scrape::run()?,
            "noisy" => noisy::run()?,
            "blame" => blame::run()?,
            "bandwidth" => bandwidth::run()?,
            "record" => record::run()?,
            other => anyhow::bail!("no such benchmark: {other}\n{USAGE}"),
        }
        println!();
    }
    Ok(())
}
