//! `probes --cost`: what the kernel probes take of the machine, as tables.

use std::time::Duration;

use super::{Target, table};
use crate::api::native::cost::ProbesCost;
use crate::duration;

pub async fn print(target: &Target, window: Duration, json: bool) -> anyhow::Result<()> {
    let path = format!("/v1/probes/cost?seconds={}", window.as_secs_f64());
    let cost: ProbesCost = target.native().get(&path).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&cost)?);
    } else {
        print!("{}", render(&cost));
    }
    Ok(())
}

/// `5s`, `500ms`, `1m` or a number of seconds.
pub fn parse_window(text: &str) -> Result<Duration, String> {
    let allowed = Duration::from_millis(100)..=Duration::from_secs(60);
    let length = duration::parse(text).filter(|length| allowed.contains(length));
    length.ok_or_else(|| "100ms to 60s, such as 5s".into())
}

fn render(cost: &ProbesCost) -> String {
    let percent = |ratio: f64| format!("{:.3} %", ratio * 100.0);
    let mut programs: Vec<Vec<String>> = cost
        .programs
        .iter()
        .map(|program| {
            vec![
                program.name.clone(),
                program.hook.clone(),
                program.runs.to_string(),
                program.ns_per_run.map_or_else(|| "-".into(), |ns| format!("{ns:.0}")),
                percent(program.cpu_ratio),
                table::bytes(program.memory_bytes),
            ]
        })
        .collect();
    programs.push(vec![
        "all".into(),
        String::new(),
        cost.programs.iter().map(|program| program.runs).sum::<u64>().to_string(),
        String::new(),
        percent(cost.cpu_ratio),
        table::bytes(cost.program_bytes),
    ]);
    let mut maps: Vec<Vec<String>> = cost
        .maps
        .iter()
        .map(|map| vec![map.name.clone(), table::bytes(map.memory_bytes)])
        .collect();
    maps.push(vec!["all".into(), table::bytes(cost.map_bytes)]);
    format!(
        "{}\n{}\nmeasured for {:.1} s; a share of 100 % is one of {} CPUs\n",
        table::render(&["PROBE", "HOOK", "RUNS", "NS/RUN", "CPU", "MEMORY"], &programs),
        table::render(&["MAP", "MEMORY"], &maps),
        cost.seconds,
        cost.cpus
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::native::cost::{MapCost, ProgramCost};

    #[test]
    fn a_window_is_a_number_with_a_unit() {
        for (text, expected_ms) in
            [("5s", Some(5000)), ("500ms", Some(500)), ("1m", Some(60_000)), ("2", Some(2000))]
        {
            assert_eq!(parse_window(text).ok(), expected_ms.map(Duration::from_millis), "{text}");
        }
        for text in ["", "s", "-1s", "2m", "10ms", "five", "NaN"] {
            assert!(parse_window(text).unwrap_err().contains("60s"), "{text}");
        }
    }

    #[test]
    fn totals_stand_below_what_they_add_up() {
        let program = |name: &str, runs, run_ns, ns_per_run, cpu_ratio| ProgramCost {
            name: name.into(),
            hook: "tp_btf/x".into(),
            runs,
            run_ns,
            ns_per_run,
            cpu_ratio,
            memory_bytes: 4096,
        };
        let cost = ProbesCost {
            seconds: 5.0,
            cpus: 2,
            cpu_ratio: 0.001,
            map_bytes: 3 << 20,
            program_bytes: 8192,
            programs: vec![
                program("syscall_exit", 1000, 50_000, Some(50.0), 0.001),
                program("disk_issue", 0, 0, None, 0.0),
            ],
            maps: vec![MapCost { name: "syscalls".into(), memory_bytes: 3 << 20 }],
        };
        let expected = "\
PROBE          HOOK       RUNS   NS/RUN   CPU       MEMORY
syscall_exit   tp_btf/x   1000   50       0.100 %   4.0 KiB
disk_issue     tp_btf/x   0      -        0.000 %   4.0 KiB
all                       1000            0.100 %   8.0 KiB

MAP        MEMORY
syscalls   3.0 MiB
all        3.0 MiB

measured for 5.0 s; a share of 100 % is one of 2 CPUs
";
        assert_eq!(render(&cost), expected);
    }
}
