//! What happens in a trial, who is guilty of it, and whether the agent's answer is right.
//! Pure: roles and load come from a generator, so that a seed gives the same trials always.

/// Neighbours of the victim.
pub const NEIGHBOURS: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Cpu,
    Disk,
    Memory,
    Network,
    OwnQuota,
    IdleHost,
    GreedyAlone,
}

impl Kind {
    const ALL: [Kind; 7] = [
        Kind::Cpu,
        Kind::Disk,
        Kind::Memory,
        Kind::Network,
        Kind::OwnQuota,
        Kind::IdleHost,
        Kind::GreedyAlone,
    ];

    /// As a person types it, in small letters with hyphens.
    pub fn named(text: &str) -> Option<Kind> {
        let plain = text.replace('-', "");
        Kind::ALL.into_iter().find(|kind| format!("{kind:?}").to_lowercase() == plain)
    }

    /// What the victim waits for, in the agent's words; `None` where nobody is guilty.
    pub fn resource(self) -> Option<&'static str> {
        match self {
            Kind::Cpu => Some("cpu"),
            Kind::Disk => Some("disk"),
            Kind::Memory => Some("memory"),
            Kind::Network => Some("network"),
            Kind::OwnQuota | Kind::IdleHost | Kind::GreedyAlone => None,
        }
    }

    /// Seconds of load. Memory is looked at closely only after some of it was waited for.
    pub fn load_s(self) -> u64 {
        if self == Kind::Memory { 6 } else { 3 }
    }

    /// What the victim says when it has in memory what it reads; only then do the others begin.
    /// Else they take it while it is written, and the trial is one of a victim that waits for
    /// its own writes.
    pub fn ready_word(self) -> Option<&'static str> {
        (self == Kind::Memory).then_some("prepared_bytes")
    }
}

/// Xorshift.
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// A command for each container that does something in a trial.
#[derive(Debug, PartialEq)]
pub struct Trial {
    pub kind: Kind,
    /// Index of the neighbour that is guilty.
    pub culprit: Option<usize>,
    pub victim: Option<String>,
    pub neighbours: Vec<Option<String>>,
}

pub fn name(neighbour: usize) -> String {
    format!("n{neighbour}")
}

/// `far`: where the narrow link ends.
pub fn plan(dice: &mut Dice, far: &str) -> Trial {
    let kind = match dice.below(14) {
        0..=3 => Kind::Cpu,
        4..=6 => Kind::Disk,
        7..=8 => Kind::Memory,
        9..=10 => Kind::Network,
        11 => Kind::OwnQuota,
        12 => Kind::IdleHost,
        _ => Kind::GreedyAlone,
    };
    let one = dice.below(NEIGHBOURS);
    let (victim, culprit) = parties(kind, dice, far);
    let mut neighbours: Vec<Option<String>> = vec![None; NEIGHBOURS];
    let is_crowded = !matches!(kind, Kind::IdleHost | Kind::GreedyAlone);
    for (n, command) in neighbours.iter_mut().enumerate() {
        if n == one && culprit.is_some() {
            command.clone_from(&culprit);
        } else if is_crowded {
            *command = innocent(kind, dice, far);
        }
    }
    let command = |command: String| timed(kind, &command);
    Trial {
        kind,
        culprit: kind.resource().map(|_| one),
        victim: victim.map(|own| match kind.ready_word() {
            // Its time begins later, and it has an end of its own.
            Some(_) => own,
            None => command(own),
        }),
        neighbours: neighbours.into_iter().map(|own| own.map(command)).collect(),
    }
}

/// What the victim does, and what the one neighbour does that takes much.
fn parties(kind: Kind, dice: &mut Dice, far: &str) -> (Option<String>, Option<String>) {
    match kind {
        Kind::Cpu => {
            let victim = bursts(1, 2000 + dice.below(8000), 5);
            (Some(victim), Some(spin(kind, 1, 1 + dice.below(3))))
        }
        Kind::Disk => {
            let bytes = (1 + dice.below(4)) << 20;
            let victim = forever(&format!("workload directio --path /tmp/v --bytes {bytes}"), "");
            let write = |n| format!("workload noise --write /tmp/n{n} --seconds {}", kind.load_s());
            let writers: Vec<String> = (0..=dice.below(3)).map(write).collect();
            (Some(victim), Some(writers.join(" & ")))
        }
        Kind::Memory => {
            let rate = 40 + dice.below(40);
            let seconds = kind.load_s();
            let victim = format!(
                "workload randread --cached --path /tmp/v --bytes 200m --rate 2000 \
                 --seconds {seconds}"
            );
            let grow =
                format!("workload noise --grow 192m --grow-rate {rate}m --seconds {seconds}");
            (Some(victim), Some(grow))
        }
        Kind::Network => {
            let victim = connections(far, 9001, 100);
            let bulk = connections(far, 9002, 2_000_000 + dice.below(4) * 1_000_000);
            (Some(victim), Some(bulk))
        }
        Kind::OwnQuota => (Some(spin(kind, 1, 1 + dice.below(2))), None),
        Kind::IdleHost => (None, None),
        Kind::GreedyAlone => (None, Some(spin(kind, 3, 1))),
    }
}

/// One who does the same beside the culprit, but little of it; who is busy elsewhere; who
/// wakes now and then; or nobody.
fn innocent(kind: Kind, dice: &mut Dice, far: &str) -> Option<String> {
    match (dice.below(5), kind) {
        (0, _) => Some(spin(kind, 2, 1)),
        (1, _) => Some(forever("sleep 0.05", "")),
        (2, Kind::Cpu) => Some(bursts(1, 500, 50)),
        (2, Kind::Disk) => {
            Some(forever("workload directio --path /tmp/i --bytes 131072", "sleep 0.3"))
        }
        (2, Kind::Memory) => Some(forever("workload memory --bytes 2m --seconds 1", "")),
        (2, Kind::Network) => {
            let few = format!("workload connections --to {far}:9003 --count 1 --bytes 500");
            Some(forever(&few, "sleep 0.3"))
        }
        _ => None,
    }
}

/// Some rounds of work on the CPUs of `mask`, then so many milliseconds of sleep.
fn bursts(mask: u32, rounds: usize, sleep_ms: usize) -> String {
    let work = format!("i=0; while [ $i -lt {rounds} ]; do i=$((i+1)); done");
    format!(
        "taskset -p {mask} $$ > /dev/null; {}",
        forever(&work, &format!("sleep 0.{sleep_ms:03}"))
    )
}

fn spin(kind: Kind, mask: u32, threads: usize) -> String {
    let seconds = kind.load_s();
    format!("taskset {mask} workload spin --seconds {seconds} --threads {threads}")
}

fn connections(far: &str, port: u16, bytes: usize) -> String {
    format!("exec workload connections --to {far}:{port} --count 1000000 --bytes {bytes}")
}

fn forever(command: &str, then: &str) -> String {
    let then = if then.is_empty() { String::new() } else { format!(" {then};") };
    format!("while :; do {command};{then} done")
}

fn timed(kind: Kind, command: &str) -> String {
    // Ends loops, and who has no end of its own; what a loop has begun is short.
    format!("timeout {} sh -c '{command}'", kind.load_s())
}

/// Victim, culprit, resource, as `culprits` of `/v1/blame` has them.
pub type Named = [String; 3];

/// Whether the real culprit was named, and whether somebody was who is not. That the culprit
/// waits for its victim in turn is no error, nor are neighbours who load the same CPU.
pub fn judge(trial: &Trial, named: &[Named]) -> (bool, bool) {
    let (Some(culprit), Some(resource)) = (trial.culprit.map(name), trial.kind.resource()) else {
        let works = |who: &str| {
            let index = (0..NEIGHBOURS).find(|n| name(*n) == who);
            index.is_some_and(|n| trial.neighbours[n].is_some())
        };
        let innocent = |one: &Named| one[0] == "victim" || one[1] == "victim" || !works(&one[0]);
        return (!named.iter().any(innocent), named.iter().any(innocent));
    };
    let of_victim = || named.iter().filter(|one| one[0] == "victim" && one[2] == resource);
    (of_victim().any(|one| one[1] == culprit), of_victim().any(|one| one[1] != culprit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plans() -> Vec<Trial> {
        let mut dice = Dice(7);
        (0..300).map(|_| plan(&mut dice, "10.0.0.2")).collect()
    }

    #[test]
    fn the_same_seed_plans_the_same_trials_and_each_has_one_culprit_or_none() {
        assert_eq!(plans(), plans());
        for trial in plans() {
            assert_eq!(trial.culprit.is_some(), trial.kind.resource().is_some(), "{trial:?}");
            if let Some(culprit) = trial.culprit {
                assert!(trial.victim.is_some() && trial.neighbours[culprit].is_some(), "{trial:?}");
            }
        }
        let kinds: std::collections::BTreeSet<Kind> = plans().iter().map(|one| one.kind).collect();
        assert_eq!(kinds, Kind::ALL.into_iter().collect());
    }

    #[test]
    fn a_kind_is_found_by_its_name() {
        let check = |text, expected| assert_eq!(Kind::named(text), expected, "{text:?}");
        check("memory", Some(Kind::Memory));
        check("own-quota", Some(Kind::OwnQuota));
        check("greedy-alone", Some(Kind::GreedyAlone));
        check("", None);
        check("disc", None);
    }

    #[test]
    fn each_contested_resource_has_innocents_that_use_a_little_of_it() {
        let little = |kind: Kind, part: &str| {
            let has = |trial: &Trial| {
                let others = trial.neighbours.iter().enumerate();
                let others = others.filter(|(n, _)| Some(*n) != trial.culprit);
                others.filter_map(|(_, command)| command.as_ref()).any(|c| c.contains(part))
            };
            assert!(plans().iter().any(|trial| trial.kind == kind && has(trial)), "{kind:?}");
        };
        little(Kind::Cpu, "-lt 500");
        little(Kind::Disk, "--bytes 131072");
        little(Kind::Memory, "--bytes 2m");
        little(Kind::Network, ":9003");
    }

    #[test]
    fn only_who_is_guilty_may_be_named_for_the_victim() {
        let trial = |culprit: Option<usize>| Trial {
            kind: if culprit.is_some() { Kind::Cpu } else { Kind::IdleHost },
            culprit,
            victim: None,
            neighbours: vec![None; NEIGHBOURS],
        };
        let named = |victim: &str, culprit: &str| [victim, culprit, "cpu"].map(str::to_owned);
        let check = |culprit: Option<usize>, given: &[Named], expected: (bool, bool)| {
            assert_eq!(judge(&trial(culprit), given), expected, "{culprit:?}, {given:?}");
        };
        check(Some(2), &[named("victim", "n2")], (true, false));
        check(Some(2), &[named("victim", "n1")], (false, true));
        check(Some(2), &[named("n2", "victim")], (false, false));
        check(Some(2), &[["victim", "n2", "disk"].map(str::to_owned)], (false, false));
        check(None, &[named("victim", "n1")], (false, true));
        check(None, &[], (true, false));
    }
}
