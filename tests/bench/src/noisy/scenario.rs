//! Who is hurt by whom, and with which limit on the culprit an operator would help.

/// Where the culprit's work is read, of its first process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Seconds of CPU, `/proc/PID/stat`.
    Cpu,
    /// Bytes to the disk, `/proc/PID/io`.
    Written,
    /// Bytes out of its interface, `/proc/PID/net/dev`.
    Sent,
}

#[derive(Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub what: &'static str,
    /// The victim's server, if it has one beside its load.
    pub server: &'static [&'static str],
    /// The victim's clients; `{server}` is the server's address.
    pub load: &'static [&'static str],
    pub culprit: &'static [&'static str],
    /// What it is run with.
    pub flags: &'static [&'static str],
    pub work: Work,
    /// What an operator would try, the loosest first; `{disk}` is the disk.
    pub limits: &'static [&'static [&'static str]],
}

/// The weight that four containers have, with a spinner each.
const OF_FOUR: &[&str] = &["--cpu-shares", "4096"];

/// Rounds of hashing for each request: a third of a core at 400 a second.
const REQUEST: &str = "180000";

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "T1",
        what: "a request server at 30 % of a core against four spinners",
        server: &["workload", "serve", "8080", "--work", REQUEST],
        load: &["workload", "load", "{server}:8080", "--rate", "400"],
        culprit: &["workload", "noise", "--spin", "4"],
        flags: OF_FOUR,
        work: Work::Cpu,
        limits: CPUS,
    },
    Scenario {
        name: "T2",
        what: "the same against four spinners, 100 ms on, 400 off",
        server: &["workload", "serve", "8080", "--work", REQUEST],
        load: &["workload", "load", "{server}:8080", "--rate", "400"],
        culprit: &["workload", "noise", "--spin", "4", "--on-ms", "100", "--off-ms", "400"],
        flags: OF_FOUR,
        work: Work::Cpu,
        limits: CPUS,
    },
    Scenario {
        name: "T3",
        what: "4 KiB random reads against a sequential writer",
        server: &[],
        load: &[
            "workload",
            "randread",
            "--path",
            "/data/reads",
            "--bytes",
            "256m",
            "--rate",
            "200",
        ],
        culprit: &["workload", "noise", "--write", "/data/writes"],
        flags: &[],
        work: Work::Written,
        limits: &[
            &["--io-write", "{disk}:400m"],
            &["--io-write", "{disk}:200m"],
            &["--io-write", "{disk}:100m"],
            &["--io-write", "{disk}:50m"],
            &["--io-write", "{disk}:25m"],
            &["--io-write", "{disk}:12m"],
        ],
    },
    Scenario {
        name: "T5",
        what: "a request server against a bulk stream",
        server: &["workload", "serve", "8080", "--work", "2000"],
        load: &["workload", "load", "{server}:8080", "--rate", "400"],
        culprit: &["workload", "noise", "--stream", "{sink}:9000"],
        flags: &[],
        work: Work::Sent,
        limits: &[
            &["--egress", "8gbit"],
            &["--egress", "4gbit"],
            &["--egress", "2gbit"],
            &["--egress", "1gbit"],
            &["--egress", "500mbit"],
            &["--egress", "200mbit"],
        ],
    },
];

const CPUS: &[&[&str]] = &[
    &["--cpus", "1.5"],
    &["--cpus", "1.0"],
    &["--cpus", "0.7"],
    &["--cpus", "0.4"],
    &["--cpus", "0.2"],
    &["--cpus", "0.1"],
];
