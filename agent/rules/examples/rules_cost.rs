//! What the default rules cost for an event that matches none: nanoseconds by kind.
//!
//! `cargo run --release --example rules_cost -p tenantry-rules`

use std::hint::black_box;
use std::time::Instant;

use tenantry_rules::{DEFAULT, RuleSet};

#[path = "../tests/support/mod.rs"]
mod support;

const ROUNDS: u32 = 200_000;
const REPEATS: usize = 7;

fn main() {
    let rules = RuleSet::build(&[DEFAULT]).expect("the default set is right");
    println!("{} rules", rules.rules().len());
    for text in [
        "exec process.executable=/usr/sbin/nginx process.args=nginx|-g|daemon process.parent.name=tenantry-shim process.ancestors.name=tenantry-shim|systemd",
        "exit process.exit_code=0 process.name=nginx",
        "open event.outcome=success file.path=/var/lib/app/data/table/000123.sst file.flags=O_RDWR|O_CREAT process.name=app",
        "file event.outcome=success syscall.name=rename file.path=/var/lib/app/data/a file.target_path=/var/lib/app/data/b process.name=app",
        "connect event.outcome=success destination.ip=10.88.0.7 destination.port=5432 process.name=app",
        "connect event.outcome=success destination.path=/run/mysqld/mysqld.sock process.name=app",
        "credentials event.outcome=success syscall.name=setuid process.name=app",
    ] {
        let event = support::event(text);
        assert!(support::matching(&rules, &event).is_empty(), "{text}");
        let mut best_ns = f64::INFINITY;
        for _ in 0..REPEATS {
            let begun = Instant::now();
            for _ in 0..ROUNDS {
                black_box(rules.matches(black_box(&event)).count());
            }
            best_ns = best_ns.min(begun.elapsed().as_nanos() as f64 / f64::from(ROUNDS));
        }
        println!("{best_ns:7.1} ns  {}", text.split(" process.").next().unwrap_or(text));
    }
}
