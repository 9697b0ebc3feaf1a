//! `tenantry limit`: change a running container's limits, and say what was
//! written where.

use clap::Args;
use tenantry_container::Limit;
use tenantry_container::units::{self, Device};

use super::trace::parse_seconds;
use super::{Target, flags::LimitArgs, table};
use crate::api::native::model::{
    Applied, IoLimit, LimitsAnswer, LimitsRequest, ThrottleAnswer, ThrottleRequest,
};

#[derive(Debug, Args)]
pub struct LimitFlags {
    name: String,
    #[command(flatten)]
    limits: LimitArgs,
    /// Only for this long, such as 10m, and not above the limits: afterwards they are as
    /// before. `--memory` is then the size above which memory is reclaimed (cgroup v2).
    #[arg(long = "for", value_name = "TIME", value_parser = parse_seconds)]
    lasting: Option<u64>,
    /// With --for: run only where no other container wants to.
    #[arg(long, requires = "lasting")]
    cpu_idle: bool,
    /// With --for: send after everybody else, where the host's queue knows classes
    /// (pfifo_fast, prio).
    #[arg(long, requires = "lasting")]
    egress_bulk: bool,
    /// With --for: a note for whoever wonders.
    #[arg(long, requires = "lasting", default_value = "")]
    reason: String,
    /// End what --for began.
    #[arg(long, conflicts_with = "lasting")]
    release: bool,
    #[arg(long)]
    json: bool,
}

pub async fn limit(target: &Target, flags: LimitFlags) -> anyhow::Result<()> {
    let path = format!("/v1/containers/{}/throttle", flags.name);
    if flags.release {
        return print_throttle(target.native().delete(&path).await?, flags.json);
    }
    if let Some(lease_seconds) = flags.lasting {
        let request = for_a_while(request(&flags.limits)?, &flags, lease_seconds)?;
        return print_throttle(target.native().put(&path, &request).await?, flags.json);
    }
    let request = request(&flags.limits)?;
    let path = format!("/v1/containers/{}/limits", flags.name);
    let answer: LimitsAnswer = if request == LimitsRequest::default() {
        target.native().get(&path).await?
    } else {
        target.native().patch(&path, &request).await?
    };
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    if answer.applied.is_empty() {
        println!("{}", serde_json::to_string_pretty(&answer.limits)?);
        return Ok(());
    }
    print_applied(answer.applied);
    Ok(())
}

fn print_applied(applied: Vec<Applied>) {
    let rows: Vec<Vec<String>> = applied
        .into_iter()
        .map(|applied| vec![applied.resource, applied.read_back, applied.actuator])
        .collect();
    print!("{}", table::render(&["LIMIT", "NOW", "ACTUATOR"], &rows));
}

fn print_throttle(answer: ThrottleAnswer, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    if !answer.applied.is_empty() {
        print_applied(answer.applied);
    }
    match answer.throttle {
        Some(throttle) => {
            let ends = throttle.ends_in_seconds.round();
            println!("held for {ends} s: {}", throttle.actuators.join(", "));
        }
        None => println!("not held"),
    }
    Ok(())
}

/// What the flags mean with `--for`: tighter, or as it is.
fn for_a_while(
    limits: LimitsRequest,
    flags: &LimitFlags,
    lease_seconds: u64,
) -> anyhow::Result<ThrottleRequest> {
    anyhow::ensure!(limits.pids.is_none(), "--pids cannot be limited for a while");
    let number = |flag: &str, value: Option<Option<u64>>| match value {
        Some(None) => anyhow::bail!("{flag}: \"max\" cannot be had for a while"),
        value => Ok(value.flatten()),
    };
    let burst = limits.egress_burst_bytes.or(limits.ingress_burst_bytes);
    anyhow::ensure!(burst.is_none(), "a burst cannot be chosen for a while; leave out :BURST");
    anyhow::ensure!(limits.cpus != Some(None), "--cpus: \"max\" cannot be had for a while");
    Ok(ThrottleRequest {
        cpus: limits.cpus.flatten(),
        cpu_weight: None,
        cpu_idle: flags.cpu_idle,
        memory_high_bytes: number("--memory", limits.memory_bytes)?,
        egress_bits_per_second: number("--egress", limits.egress_bits_per_second)?,
        ingress_bits_per_second: number("--ingress", limits.ingress_bits_per_second)?,
        io_weight: None,
        egress_bulk: flags.egress_bulk,
        io: limits.io,
        lease_seconds,
        reason: flags.reason.clone(),
    })
}

fn request(args: &LimitArgs) -> anyhow::Result<LimitsRequest> {
    let cpus = args.cpus.as_deref().map(|text| units::parse_cpus_limit("--cpus", text));
    let memory = args.memory.as_deref().map(|text| units::parse_bytes_limit("--memory", text));
    let pids = args.pids.as_deref().map(|text| units::parse_count_limit("--pids", text));
    let bandwidth = |flag, text: &Option<String>| -> anyhow::Result<_> {
        let parsed = text.as_deref().map(|text| units::parse_bandwidth(flag, text)).transpose()?;
        Ok(parsed.map_or((None, None), |(rate, burst)| (Some(nullable(rate)), burst)))
    };
    let (egress_bits_per_second, egress_burst_bytes) = bandwidth("--egress", &args.egress)?;
    let (ingress_bits_per_second, ingress_burst_bytes) = bandwidth("--ingress", &args.ingress)?;
    Ok(LimitsRequest {
        cpus: cpus.transpose()?.map(nullable),
        memory_bytes: memory.transpose()?.map(nullable),
        pids: pids.transpose()?.map(nullable),
        egress_bits_per_second,
        ingress_bits_per_second,
        egress_burst_bytes,
        ingress_burst_bytes,
        io: io(args)?,
    })
}

/// In JSON a lifted limit is `null`.
fn nullable<T>(limit: Limit<T>) -> Option<T> {
    match limit {
        Limit::Unlimited => None,
        Limit::Value(value) => Some(value),
    }
}

fn io(args: &LimitArgs) -> anyhow::Result<Vec<IoLimit>> {
    let mut limits = Vec::new();
    for text in &args.io_read {
        let (device, rate) = units::parse_device_rate("--io-read", text)?;
        of_device(&mut limits, device).read_bytes_per_second = Some(nullable(rate));
    }
    for text in &args.io_write {
        let (device, rate) = units::parse_device_rate("--io-write", text)?;
        of_device(&mut limits, device).write_bytes_per_second = Some(nullable(rate));
    }
    for text in &args.io_read_ops {
        let (device, rate) = units::parse_device_ops("--io-read-ops", text)?;
        of_device(&mut limits, device).read_ops_per_second = Some(nullable(rate));
    }
    for text in &args.io_write_ops {
        let (device, rate) = units::parse_device_ops("--io-write-ops", text)?;
        of_device(&mut limits, device).write_ops_per_second = Some(nullable(rate));
    }
    Ok(limits)
}

/// Each device has one entry, however many flags name it.
fn of_device(limits: &mut Vec<IoLimit>, device: Device) -> &mut IoLimit {
    let device = match device {
        Device::Path(path) => path.display().to_string(),
        Device::Number { major, minor } => format!("{major}:{minor}"),
    };
    let known = limits.iter().position(|limit| limit.device == device);
    let index = known.unwrap_or_else(|| {
        limits.push(IoLimit { device, ..IoLimit::default() });
        limits.len() - 1
    });
    &mut limits[index]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readmes_example_becomes_numbers() {
        let args = LimitArgs {
            cpus: Some("0.5".into()),
            memory: Some("256m".into()),
            io_read: vec!["/dev/vda:10m".into()],
            io_write: vec!["/dev/vda:max".into()],
            egress: Some("20mbit:64k".into()),
            ingress: Some("max".into()),
            ..LimitArgs::default()
        };
        let expected = LimitsRequest {
            cpus: Some(Some(0.5)),
            memory_bytes: Some(Some(256 << 20)),
            egress_bits_per_second: Some(Some(20_000_000)),
            ingress_bits_per_second: Some(None),
            egress_burst_bytes: Some(64 << 10),
            io: vec![IoLimit {
                device: "/dev/vda".into(),
                read_bytes_per_second: Some(Some(10 << 20)),
                write_bytes_per_second: Some(None),
                ..IoLimit::default()
            }],
            ..LimitsRequest::default()
        };
        assert_eq!(request(&args).unwrap(), expected);
    }
}
