//! Who is hurt by whom, and with which limit on the culprit an operator would help; and who
//! is not hurt by anybody.

/// Where a culprit's work is read, of its first process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Seconds of CPU, `/proc/PID/stat`.
    Cpu,
    /// Bytes to the disk, `/proc/PID/io`.
    Written,
    /// Bytes out of its interface, `/proc/PID/net/dev`.
    Sent,
    /// Bytes of memory that it touched for the first time, `/proc/PID/stat`.
    Touched,
}

/// What is done with a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All arms, and the goals.
    Culprit,
    /// The same, where memory is on cgroup v2: on v1 no limit is there that does not kill.
    Memory,
    /// The controller's arm alone: nobody may be limited or named.
    NobodyGuilty,
}

/// In commands, `{server}` and `{sink}` are the addresses of the victim's server and of a
/// container that takes a stream, `{disk}` the disk, `{10%}` a part of its speed, bytes a
/// second.
#[derive(Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub what: &'static str,
    pub kind: Kind,
    /// The victim's server, if it has one beside its load.
    pub server: &'static [&'static str],
    /// What the server is run with.
    pub server_flags: &'static [&'static str],
    /// The victim's clients, if there is a victim.
    pub load: &'static [&'static str],
    pub culprit: &'static [&'static str],
    /// How many containers do that: more than one is guilty together.
    pub culprits: usize,
    /// What each is run with.
    pub flags: &'static [&'static str],
    pub work: Work,
    /// What an operator would try, the loosest first: given when the container is run, or, with
    /// `--for`, as soon as it runs.
    pub limits: &'static [&'static [&'static str]],
    /// The victim's, in the policy.
    pub objectives: &'static str,
    /// What all containers together may have.
    pub memory_bytes: Option<u64>,
    /// So long after its begin a culprit does no harm yet.
    pub harmless_s: u64,
}

/// A third of a core at 400 requests a second, by the rounds of hashing for each.
const SERVER: &[&str] = &["workload", "serve", "8080", "--work", "180000"];
const CLIENTS: &[&str] = &["workload", "load", "{server}:8080", "--rate", "400"];

const T1: Scenario = Scenario {
    name: "T1",
    what: "a request server at 30 % of a core against four spinners",
    kind: Kind::Culprit,
    server: SERVER,
    server_flags: &[],
    load: CLIENTS,
    culprit: &["workload", "noise", "--spin", "1"],
    culprits: 4,
    flags: &[],
    work: Work::Cpu,
    limits: CPUS,
    // A stall of the server is felt by all requests behind it, so the queue's p99 alone is
    // well long before theirs is.
    objectives: "run_queue_p99_ms = 1.0\npressure_cpu = 0.02\ndisk_p99_ms = 2.0",
    memory_bytes: None,
    harmless_s: 0,
};

/// A file that lies in memory, and a neighbour that grows until half of it is left there,
/// frees all and begins anew. `memory.high`, which holds it back where `memory.max` would kill
/// it, an operator sets for a time.
const T4: Scenario = Scenario {
    kind: Kind::Memory,
    server: &[],
    load: &[
        "workload",
        "randread",
        "--cached",
        "--path",
        "/data/reads",
        "--bytes",
        "96m",
        "--rate",
        "200",
    ],
    culprits: 1,
    work: Work::Touched,
    limits: &[
        &["--memory", "96m", "--for", "600s"],
        &["--memory", "80m", "--for", "600s"],
        &["--memory", "64m", "--for", "600s"],
        &["--memory", "48m", "--for", "600s"],
    ],
    objectives: "pressure_memory = 0.01",
    memory_bytes: Some(192 << 20),
    // At a tenth of the disk's speed it takes some seconds until memory is full.
    harmless_s: 8,
    ..T1
};

/// Of a core, a thousandth: somebody who is there, and innocent.
const QUIET: &[&str] = &["workload", "noise", "--spin", "1", "--on-ms", "1", "--off-ms", "1000"];

pub const SCENARIOS: &[Scenario] = &[
    T1,
    Scenario {
        name: "T2",
        what: "the same against four spinners, 100 ms on, 400 off",
        culprit: &["workload", "noise", "--spin", "1", "--on-ms", "100", "--off-ms", "400"],
        ..T1
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
        culprits: 1,
        work: Work::Written,
        limits: &[
            &["--io-write", "{disk}:400m"],
            &["--io-write", "{disk}:200m"],
            &["--io-write", "{disk}:100m"],
            &["--io-write", "{disk}:50m"],
            &["--io-write", "{disk}:25m"],
            &["--io-write", "{disk}:12m"],
        ],
        ..T1
    },
    Scenario {
        name: "T4-10",
        what: "reads from memory against a neighbour that grows at 10 % of the disk's speed",
        culprit: &["workload", "noise", "--grow", "144m", "--grow-rate", "{10%}"],
        ..T4
    },
    Scenario {
        name: "T4-25",
        what: "the same at 25 % of the disk's speed",
        culprit: &["workload", "noise", "--grow", "144m", "--grow-rate", "{25%}"],
        ..T4
    },
    Scenario {
        name: "T4-50",
        what: "the same at 50 % of the disk's speed",
        culprit: &["workload", "noise", "--grow", "144m", "--grow-rate", "{50%}"],
        ..T4
    },
    Scenario {
        name: "T5",
        what: "a request server against a bulk stream",
        server: &["workload", "serve", "8080", "--work", "2000"],
        culprit: &["workload", "noise", "--stream", "{sink}:9000"],
        culprits: 1,
        work: Work::Sent,
        limits: &[
            &["--egress", "8gbit"],
            &["--egress", "4gbit"],
            &["--egress", "2gbit"],
            &["--egress", "1gbit"],
            &["--egress", "500mbit"],
            &["--egress", "200mbit"],
        ],
        ..T1
    },
    Scenario {
        name: "T6",
        what: "a request server that its own quota holds back, and a spinner on the other CPU",
        kind: Kind::NobodyGuilty,
        server: &["taskset", "1", "workload", "serve", "8080", "--work", "180000"],
        server_flags: &["--cpus", "0.2"],
        load: &["taskset", "1", "workload", "load", "{server}:8080", "--rate", "400"],
        culprit: &["taskset", "2", "workload", "noise", "--spin", "1"],
        culprits: 1,
        ..T1
    },
    Scenario {
        name: "T7",
        what: "a request server beside one who sleeps, with what the hypervisor takes",
        kind: Kind::NobodyGuilty,
        culprit: QUIET,
        culprits: 1,
        ..T1
    },
    Scenario {
        name: "T8",
        what: "one that spins with four threads, and nobody who minds",
        kind: Kind::NobodyGuilty,
        culprit: &["workload", "noise", "--spin", "4"],
        culprits: 1,
        server: &[],
        load: &[],
        ..T1
    },
];

/// Of each of four.
const CPUS: &[&[&str]] = &[
    &["--cpus", "0.4"],
    &["--cpus", "0.25"],
    &["--cpus", "0.18"],
    &["--cpus", "0.1"],
    &["--cpus", "0.05"],
    &["--cpus", "0.025"],
];

impl Scenario {
    /// Victim and clients are one application, and the culprit may be limited for its sake.
    pub fn policy(&self) -> String {
        format!(
            "mode = \"enforce\"\n\
             [[rule]]\nclass = \"protected\"\nname = [\"victim\", \"clients\"]\n\
             [rule.objectives]\n{}\n\
             [[rule]]\nclass = \"best-effort\"\nname = [\"culprit*\"]\n\
             [rule.floors]\ncpu_cores = 0.025\n",
            self.objectives
        )
    }
}
