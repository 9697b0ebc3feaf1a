//! Verbs on the audit file. They read it themselves: no agent is asked.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};

use crate::audit::{self, Head};

#[derive(Debug, Subcommand)]
pub enum AuditVerb {
    /// Check that no line was edited, removed or moved; fails with the first that was.
    Verify(VerifyFlags),
    /// Print the last line's sequence number and hash, to be kept on another machine.
    Head(HeadFlags),
}

#[derive(Debug, Args)]
pub struct VerifyFlags {
    /// Those that were rotated away from it are read, too.
    #[arg(default_value = "/var/lib/tenantry/audit.jsonl")]
    path: PathBuf,
    /// What `audit head` printed before: the line must still be there.
    #[arg(long, value_name = "SEQ:HASH")]
    head: Option<Head>,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct HeadFlags {
    #[arg(default_value = "/var/lib/tenantry/audit.jsonl")]
    path: PathBuf,
}

pub fn audit(verb: &AuditVerb) -> anyhow::Result<ExitCode> {
    match verb {
        AuditVerb::Verify(flags) => verify(flags),
        AuditVerb::Head(flags) => {
            let path = flags.path.display().to_string();
            let last = audit::newest(&flags.path).with_context(|| path.clone())?;
            let last = last.with_context(|| format!("{path} has no line"))?;
            ensure!(last.is_right, "{path}: the last line is not as it was written");
            println!("{}", last.head);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn verify(flags: &VerifyFlags) -> anyhow::Result<ExitCode> {
    let summary =
        audit::verify(&flags.path, flags.head).with_context(|| flags.path.display().to_string())?;
    let code = if summary.wrong.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
        return Ok(code);
    }
    print!("{}", summary.told());
    Ok(code)
}
