//! What is told of limits: who changed which one from what to what, and who holds it now.
//!
//! Pure. Owns the name and the value that each limit has when it is told ([`values`]), what
//! lies between two sets of them ([`differences`]) and whose value is in force ([`held`]).

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use tenantry_cgroupfs::{CpuMax, Max, Restore};

use crate::{
    engine::Throttled,
    held::{InForce, actuator_of},
    limits::{Limits, merge_resources},
    throttle::{Lease, Owner, bandwidth_of},
    units,
};

/// No limit.
const NONE: &str = "max";
const CPUSET: &str = "cpuset.cpus";
/// v1 alone: whether nobody is killed at the memory limit.
const OOM_CONTROL: &str = "memory.oom_control";
/// Memory and swap together.
const SWAP: &str = "memory.swap.max";

/// One limit that somebody changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LimitChange {
    pub unix_ns: u64,
    pub container: Subject,
    pub party: Party,
    pub kind: ChangeKind,
    #[serde(flatten)]
    pub difference: Difference,
    /// Why, if anybody said so.
    pub reason: String,
    /// How long it holds unless it is renewed; `None`: for good.
    pub lease: Option<Duration>,
    /// The decision behind it, if one is.
    pub cause: Option<Cause>,
}

/// Whose limit it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Subject {
    pub id: String,
    pub name: String,
    pub image: String,
}

/// Who changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Party {
    Operator,
    Controller,
    /// It restores when the agent does not renew a lease.
    Shim,
    /// It takes back what an earlier one left, and everything when it ends.
    Agent,
    /// Who wrote the file behind our back.
    Other,
}

impl Party {
    pub fn as_str(self) -> &'static str {
        match self {
            Party::Operator => "operator",
            Party::Controller => "controller",
            Party::Shim => "shim",
            Party::Agent => "agent",
            Party::Other => "other",
        }
    }
}

impl From<Owner> for Party {
    fn from(owner: Owner) -> Party {
        match owner {
            Owner::Operator => Party::Operator,
            Owner::Controller => Party::Controller,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// The operator's own limit, for good.
    Set,
    /// Held below it for a while, or otherwise than before.
    Throttle,
    /// That was taken back.
    Release,
    /// That ended since nobody renewed it.
    Expire,
    /// Another's value was found there and is left alone.
    Yield,
}

impl ChangeKind {
    pub fn as_str(self) -> &'static str {
        match self {
            ChangeKind::Set => "set",
            ChangeKind::Throttle => "throttle",
            ChangeKind::Release => "release",
            ChangeKind::Expire => "expire",
            ChangeKind::Yield => "yield",
        }
    }
}

/// For whose sake a limit was changed, and by which decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cause {
    pub victim_id: String,
    pub victim_name: String,
    /// One sentence.
    pub message: String,
    /// What was measured, as the decision has it.
    pub evidence: serde_json::Value,
}

/// `max` is no limit. See [`values`] for names and units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub limit: String,
    pub before: String,
    pub after: String,
}

/// What somebody did to some limits at once.
#[derive(Clone, Copy, Debug)]
pub struct Act<'a> {
    pub party: Party,
    pub kind: ChangeKind,
    pub reason: &'a str,
    pub lease: Option<Duration>,
    /// The decisions behind it, by limit.
    pub causes: Option<&'a BTreeMap<String, Cause>>,
}

impl Act<'_> {
    /// An agent that ends leaves nothing throttled.
    pub const AGENT_ENDS: Act<'static> = Act {
        party: Party::Agent,
        kind: ChangeKind::Release,
        reason: "agent ends",
        lease: None,
        causes: None,
    };
    pub const CONTAINER_ENDED: Act<'static> =
        Act { reason: "the container ended", ..Self::AGENT_ENDS };
    /// What an agent left that was killed.
    pub const TAKEN_OVER: Act<'static> =
        Act { reason: "an earlier agent left it throttled", ..Self::AGENT_ENDS };
    /// The agent did not renew in time; the operator's limits were back before it asked.
    pub const LAPSED: Act<'static> = Act {
        party: Party::Shim,
        kind: ChangeKind::Expire,
        reason: "the agent did not renew the lease",
        ..Self::AGENT_ENDS
    };
    pub const FOUND: Act<'static> = Act {
        party: Party::Other,
        kind: ChangeKind::Yield,
        reason: "found in the file, and left alone",
        ..Self::AGENT_ENDS
    };
    pub const SET: Act<'static> =
        Act { party: Party::Operator, kind: ChangeKind::Set, reason: "", ..Self::AGENT_ENDS };

    /// Nobody renewed what this owner held.
    pub fn expired(owner: Owner) -> Act<'static> {
        let kind = ChangeKind::Expire;
        Act { party: owner.into(), kind, reason: "the lease ended", ..Self::AGENT_ENDS }
    }

    pub fn throttle(lease: &Lease) -> Act<'_> {
        Act { kind: ChangeKind::Throttle, lease: Some(lease.time), ..Act::release(lease) }
    }

    /// `lease`: of who wants that.
    pub fn release(lease: &Lease) -> Act<'_> {
        Act {
            party: lease.owner.into(),
            kind: ChangeKind::Release,
            reason: &lease.reason,
            lease: None,
            causes: Some(&lease.causes),
        }
    }
}

/// One line for each limit. Where a decision stands behind it, that is the reason.
pub fn changes(
    unix_ns: u64,
    container: &Subject,
    act: Act,
    differences: Vec<Difference>,
) -> impl Iterator<Item = LimitChange> {
    differences.into_iter().map(move |difference| {
        let cause = act.causes.and_then(|causes| causes.get(&difference.limit)).cloned();
        let reason = cause.as_ref().map_or(act.reason, |cause| &cause.message).to_owned();
        LimitChange {
            unix_ns,
            container: container.clone(),
            party: act.party,
            kind: act.kind,
            difference,
            reason,
            lease: act.lease,
            cause,
        }
    })
}

/// Each limit that the set names. `cpu.max` is in CPUs, `cpu.weight` and `io.weight` on cgroup
/// v2's scale, memory in bytes, `io.max 8:0 rbps` in bytes and `riops` in operations a second, `net.egress`
/// in bits a second, and behind a colon the burst in bytes where one was chosen.
pub fn values(limits: &Limits) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    let mut put = |limit: &str, value: Option<String>| {
        value.map(|value| values.insert(limit.to_owned(), value));
    };
    let resources = &limits.resources;
    let of_max = |max: Option<Max>| max.map(|max| max.to_string());
    put("cpu.max", resources.cpu.map(cpus));
    put("cpu.weight", resources.cpu_weight.map(|weight| weight.to_string()));
    put("cpu.idle", resources.cpu_idle.map(|idle| u8::from(idle).to_string()));
    put(CPUSET, resources.cpuset_cpus.clone());
    put("memory.max", of_max(resources.memory_max_bytes));
    put(SWAP, of_max(resources.memory_swap_max_bytes));
    put("memory.high", of_max(resources.memory_high_bytes));
    put("memory.low", resources.memory_low_bytes.map(|bytes| bytes.to_string()));
    put(OOM_CONTROL, resources.oom_kill_disable.map(|disabled| u8::from(disabled).to_string()));
    put("io.weight", resources.io_weight.map(|weight| weight.to_string()));
    put("pids.max", of_max(resources.pids_max));
    let own = &limits.bandwidth;
    let rate = |bits: Option<u64>, burst| bits.map(|_| units::render_bandwidth(bits, burst));
    put("net.egress", rate(own.egress_bits_per_s, own.egress_burst_bytes));
    put("net.ingress", rate(own.ingress_bits_per_s, own.ingress_burst_bytes));
    put("net.priority", own.egress_bulk.then(|| "1".to_owned()));
    for io in &resources.io {
        for (rate, max) in ["rbps", "wbps", "riops", "wiops"].iter().zip(io.limits()) {
            put(&format!("io.max {}:{} {rate}", io.major, io.minor), of_max(max));
        }
    }
    values
}

fn cpus(cpu: CpuMax) -> String {
    let cpus = |quota: u64| quota as f64 / cpu.period_usec.max(1) as f64;
    cpu.quota_usec.map_or(NONE.to_owned(), |quota| cpus(quota).to_string())
}

/// What a limit that nobody named is.
fn unnamed(limit: &str) -> &'static str {
    match limit {
        "cpu.weight" | "io.weight" => "100",
        "cpu.idle" | "net.priority" | "memory.low" | OOM_CONTROL => "0",
        CPUSET => "all",
        _ => NONE,
    }
}

/// Each limit that has another value once `after` is held below the operator's limits instead
/// of `before`.
pub fn forced(operator: &Limits, before: &Limits, after: &Limits) -> Vec<Difference> {
    differences(&effective(operator, before), &effective(operator, after))
}

/// Each limit that is not the same in both sets.
pub fn differences(before: &Limits, after: &Limits) -> Vec<Difference> {
    let (mut before, after) = (values(before), values(after));
    after.keys().for_each(|limit| {
        before.entry(limit.clone()).or_insert_with(|| unnamed(limit).to_owned());
    });
    let both = before.into_iter().map(|(limit, before)| {
        let after = after.get(&limit).map_or(unnamed(&limit), String::as_str).to_owned();
        Difference { limit, before, after }
    });
    both.filter(|difference| difference.before != difference.after).collect()
}

/// The operator's limits with what is held below them.
pub fn effective(operator: &Limits, force: &Limits) -> Limits {
    let mut limits = operator.clone();
    merge_resources(&mut limits.resources, &force.resources);
    limits.bandwidth = bandwidth_of(&operator.bandwidth, &force.bandwidth);
    limits
}

/// What somebody else was found to have written over `force`, in the words of the files.
pub fn found(force: &Limits, others: &[InForce]) -> Vec<Difference> {
    let forced = values(force);
    let row = |file: &InForce| {
        let limit = file.actuator.as_str();
        let ours = forced.iter().filter(|(name, _)| name.starts_with(limit));
        let before: Vec<&str> = ours.map(|(_, value)| value.as_str()).collect();
        let after = file.now.trim().replace('\n', "; ");
        Difference { limit: limit.to_owned(), before: before.join("; "), after }
    };
    others.iter().map(row).collect()
}

/// What an earlier agent left to be restored, in the words of the files.
pub fn noted(restores: &[Restore]) -> Vec<Difference> {
    let row = |restore: &Restore| {
        let limit = actuator_of(&restore.path)?.as_str().to_owned();
        let before = restore.only_over.join(" or ");
        Some(Difference { limit, before, after: restore.text.clone() })
    };
    restores.iter().filter_map(row).collect()
}

/// One limit now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeldLimit {
    pub limit: String,
    /// The operator's.
    pub wish: String,
    /// What the kernel says; `None` if it does not run, or the kernel has no such file.
    pub in_force: Option<String>,
    /// Whose value that is. The shim and the agent only restore: they hold nothing.
    pub holder: Party,
    /// Whether it is the throttle's, with its lease and its reason.
    pub throttled: bool,
}

/// Each limit that the operator or a throttle has named, and what nobody named and is in force
/// all the same. `now`: as read from the kernel; `None` if nothing runs.
pub fn held(
    operator: &Limits,
    throttled: Option<&Throttled>,
    now: Option<&Limits>,
) -> Vec<HeldLimit> {
    let wishes = values(operator);
    let force = throttled.map(|throttled| values(&throttled.force)).unwrap_or_default();
    let is_idle = force.get("cpu.idle").is_some_and(|idle| idle == "1");
    let read = now.map(values).unwrap_or_default();
    let is_limit = |(limit, value): &(&String, &String)| *value != unnamed(limit);
    // The kernel fills these in by itself.
    let is_own = |(limit, _): &(&String, &String)| *limit != CPUSET && *limit != SWAP;
    let named = wishes.iter().filter(is_limit).chain(&force);
    let found = read.iter().filter(is_limit).filter(is_own);
    let mut limits: Vec<&String> = named.chain(found).map(|(limit, _)| limit).collect();
    limits.sort_unstable();
    limits.dedup();
    let row = |limit: &String| {
        let wish = wishes.get(limit).map_or(unnamed(limit), String::as_str);
        let has_file = read.contains_key(limit) || limit.starts_with("io.max ");
        let in_force = match now {
            // Bandwidth has no file: what was set last is in force.
            Some(_) if limit.starts_with("net.") => {
                Some(force.get(limit).map_or(wish, String::as_str))
            }
            // An idle group has no weight.
            Some(_) if has_file && !(is_idle && limit == "cpu.weight") => {
                Some(read.get(limit).map_or(unnamed(limit), String::as_str))
            }
            _ => None,
        };
        let forced = force.get(limit).map(String::as_str);
        let is_value = |wanted: &str| in_force.is_some_and(|now| is_same(limit, wanted, now));
        let holder = match throttled {
            Some(throttled) if forced.is_some_and(is_value) => throttled.owner.into(),
            _ if in_force.is_none() || is_value(wish) => Party::Operator,
            _ => Party::Other,
        };
        HeldLimit {
            limit: limit.clone(),
            wish: wish.to_owned(),
            in_force: in_force.map(str::to_owned),
            holder,
            throttled: forced.is_some_and(is_value),
        }
    };
    limits.into_iter().map(row).collect()
}

/// The kernel counts memory in whole pages.
fn is_same(limit: &str, wanted: &str, now: &str) -> bool {
    let pages =
        |text: &str| text.parse::<u64>().map(|bytes| bytes / rustix::param::page_size() as u64);
    wanted == now
        || limit.starts_with("memory.")
            && matches!((pages(wanted), pages(now)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
#[path = "limit_changes_tests.rs"]
mod tests;
