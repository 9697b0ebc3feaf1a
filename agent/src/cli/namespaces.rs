//! `tenantry namespaces`: what was done in each namespace, and by whom.

use clap::Args;

use super::{Target, table};
use crate::api::native::model::Namespace;

#[derive(Debug, Args)]
pub struct NamespacesFlags {
    /// Only of this type: cgroup, ipc, mnt, net, pid, user or uts.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    #[arg(long)]
    json: bool,
}

pub async fn namespaces(target: &Target, flags: NamespacesFlags) -> anyhow::Result<()> {
    let mut all: Vec<Namespace> = target.native().get("/v1/namespaces").await?;
    all.retain(|namespace| flags.kind.as_ref().is_none_or(|kind| *kind == namespace.kind));
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    print!("{}", render(&all));
    Ok(())
}

/// A guest, whose first process lives elsewhere, is marked with a star.
fn render(all: &[Namespace]) -> String {
    let row = |namespace: &Namespace| {
        let name = |tenant: &crate::api::native::model::NamespaceTenant| {
            format!("{}{}", tenant.name, if tenant.lives_here { "" } else { "*" })
        };
        let names: Vec<String> = namespace.containers.iter().map(name).collect();
        vec![
            namespace.kind.clone(),
            namespace.inode.to_string(),
            namespace.calls.to_string(),
            namespace.errors.to_string(),
            names.join(" "),
        ]
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    table::render(&["TYPE", "INODE", "SYSCALLS", "ERRORS", "CONTAINERS"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::native::model::NamespaceTenant;

    #[test]
    fn guests_are_marked() {
        let tenant = |name: &str, lives_here| NamespaceTenant {
            name: name.into(),
            lives_here,
            ..NamespaceTenant::default()
        };
        let namespace = Namespace {
            kind: "net".into(),
            inode: 4_026_532_300,
            calls: 12,
            errors: 1,
            containers: vec![tenant("web", true), tenant("probe", false)],
        };
        let expected = "TYPE   INODE        SYSCALLS   ERRORS   CONTAINERS\n\
                        net    4026532300   12         1        web probe*\n";
        assert_eq!(render(&[namespace]), expected);
    }
}
