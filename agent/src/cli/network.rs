//! `tenantry network …`: a thin client of `/networks`.

use std::collections::HashMap;

use bollard::Docker;
use bollard::models::{
    EndpointIpamConfig, EndpointSettings, Ipam, IpamConfig, NetworkConnectRequest,
    NetworkCreateRequest, NetworkDisconnectRequest,
};
use bollard::query_parameters as query;
use clap::{Args, Subcommand};

use super::table;

#[derive(Debug, Subcommand)]
pub enum NetworkVerb {
    /// List networks.
    Ls(LsFlags),
    /// Make a network: a bridge of its own, apart from all others.
    Create(CreateFlags),
    /// Show everything that is known about networks, as JSON.
    Inspect(NamesFlags),
    /// Remove networks that no running container is on.
    Rm(NamesFlags),
    /// Put a container on one more network; a running one at once.
    Connect(ConnectFlags),
    /// Take a container off a network; a running one at once.
    Disconnect(DisconnectFlags),
    /// Remove all networks that no running container is on.
    Prune(PruneFlags),
}

#[derive(Debug, Args)]
pub struct LsFlags {
    /// Only ids.
    #[arg(long, short)]
    quiet: bool,
    #[arg(long)]
    json: bool,
    /// name, id, driver, label, scope, type or dangling.
    #[arg(long, short, value_name = "NAME=VALUE")]
    filter: Vec<String>,
}

#[derive(Debug, Args)]
pub struct CreateFlags {
    /// Such as 10.5.0.0/16, and fd00:5::/64 with --ipv6. Default: one that overlaps nothing of
    /// this host.
    #[arg(long, value_name = "SUBNET")]
    subnet: Vec<String>,
    /// The host's own address on it. Default: the subnet's first.
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<String>,
    /// IPv6 addresses besides.
    #[arg(long)]
    ipv6: bool,
    /// The part of the subnet that addresses are given out from.
    #[arg(long, value_name = "SUBNET")]
    ip_range: Option<String>,
    /// Without a way out of it.
    #[arg(long)]
    internal: bool,
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// com.docker.network.bridge.name=NAME or com.docker.network.driver.mtu=BYTES.
    #[arg(long, short, value_name = "NAME=VALUE")]
    opt: Vec<String>,
    name: String,
}

#[derive(Debug, Args)]
pub struct NamesFlags {
    #[arg(required = true)]
    names: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ConnectFlags {
    /// This address and no other.
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// This IPv6 address and no other.
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<String>,
    /// What others on this network may call it besides its name.
    #[arg(long)]
    alias: Vec<String>,
    network: String,
    container: String,
}

#[derive(Debug, Args)]
pub struct DisconnectFlags {
    #[arg(long, short)]
    force: bool,
    network: String,
    container: String,
}

#[derive(Debug, Args)]
pub struct PruneFlags {
    /// label, label! or until.
    #[arg(long, value_name = "NAME=VALUE")]
    filter: Vec<String>,
}

pub async fn network(docker: &Docker, verb: NetworkVerb) -> anyhow::Result<()> {
    match verb {
        NetworkVerb::Ls(flags) => ls(docker, flags).await,
        NetworkVerb::Create(flags) => create(docker, flags).await,
        NetworkVerb::Inspect(flags) => inspect(docker, flags).await,
        NetworkVerb::Rm(flags) => {
            for name in flags.names {
                docker.remove_network(&name).await?;
                println!("{name}");
            }
            Ok(())
        }
        NetworkVerb::Connect(flags) => {
            let endpoint_config = Some(endpoint(flags.ip, flags.ip6, flags.alias));
            let request = NetworkConnectRequest { container: flags.container, endpoint_config };
            Ok(docker.connect_network(&flags.network, request).await?)
        }
        NetworkVerb::Disconnect(flags) => {
            let force = Some(flags.force);
            let request = NetworkDisconnectRequest { container: flags.container, force };
            Ok(docker.disconnect_network(&flags.network, request).await?)
        }
        NetworkVerb::Prune(flags) => {
            let filters = filters(&flags.filter)?;
            let options = query::PruneNetworksOptionsBuilder::new().filters(&filters).build();
            let pruned = docker.prune_networks(Some(options)).await?;
            pruned.networks_deleted.unwrap_or_default().iter().for_each(|name| println!("{name}"));
            Ok(())
        }
    }
}

/// What `run` and `network connect` say of a container on one network.
pub fn endpoint(
    ipv4_address: Option<String>,
    ipv6_address: Option<String>,
    aliases: Vec<String>,
) -> EndpointSettings {
    let ipam = EndpointIpamConfig { ipv4_address, ipv6_address, ..EndpointIpamConfig::default() };
    EndpointSettings {
        ipam_config: (ipam != EndpointIpamConfig::default()).then_some(ipam),
        aliases: (!aliases.is_empty()).then_some(aliases),
        ..EndpointSettings::default()
    }
}

async fn ls(docker: &Docker, flags: LsFlags) -> anyhow::Result<()> {
    let filters = filters(&flags.filter)?;
    let options = query::ListNetworksOptionsBuilder::new().filters(&filters).build();
    let networks = docker.list_networks(Some(options)).await?;
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&networks)?);
        return Ok(());
    }
    let mut rows = Vec::new();
    for network in networks {
        let id: String = network.id.unwrap_or_default().chars().take(12).collect();
        if flags.quiet {
            println!("{id}");
            continue;
        }
        let pools = network.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
        let subnets: Vec<String> = pools.into_iter().filter_map(|pool| pool.subnet).collect();
        let kind = if network.internal == Some(true) { "internal" } else { "" };
        rows.push(vec![
            id,
            network.name.unwrap_or_default(),
            network.driver.unwrap_or_default(),
            subnets.join(","),
            kind.to_owned(),
        ]);
    }
    if !flags.quiet {
        print!("{}", table::render(&["ID", "NAME", "DRIVER", "SUBNET", "KIND"], &rows));
    }
    Ok(())
}

async fn create(docker: &Docker, flags: CreateFlags) -> anyhow::Result<()> {
    let ipam = Ipam {
        config: Some(pools(flags.subnet, flags.gateway, flags.ip_range)?),
        ..Ipam::default()
    };
    let request = NetworkCreateRequest {
        name: flags.name,
        internal: Some(flags.internal),
        enable_ipv6: Some(flags.ipv6),
        ipam: Some(ipam),
        labels: Some(pairs(&flags.label)),
        options: Some(pairs(&flags.opt)),
        ..NetworkCreateRequest::default()
    };
    println!("{}", docker.create_network(request).await?.id);
    Ok(())
}

/// One of each family.
fn pools(
    subnets: Vec<String>,
    gateways: Vec<String>,
    ip_range: Option<String>,
) -> anyhow::Result<Vec<IpamConfig>> {
    let (mut four, mut six) = (IpamConfig::default(), IpamConfig::default());
    four.ip_range = ip_range;
    for (texts, of) in [
        (subnets, (|pool| &mut pool.subnet) as fn(&mut IpamConfig) -> &mut Option<String>),
        (gateways, |pool| &mut pool.gateway),
    ] {
        for text in texts {
            let pool = if text.contains(':') { &mut six } else { &mut four };
            if let Some(first) = of(pool).replace(text) {
                anyhow::bail!("{first} is followed by another of its kind: one of each family");
            }
        }
    }
    let pools = [four, six].into_iter().filter(|pool| *pool != IpamConfig::default());
    Ok(pools.collect())
}

async fn inspect(docker: &Docker, flags: NamesFlags) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for name in &flags.names {
        all.push(docker.inspect_network(name, None::<query::InspectNetworkOptions>).await?);
    }
    println!("{}", serde_json::to_string_pretty(&all)?);
    Ok(())
}

fn pairs(texts: &[String]) -> HashMap<String, String> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_owned(), value.to_owned())
    };
    texts.iter().map(pair).collect()
}

fn filters(texts: &[String]) -> anyhow::Result<HashMap<String, Vec<String>>> {
    let mut filters: HashMap<String, Vec<String>> = HashMap::new();
    for text in texts {
        let Some((name, value)) = text.split_once('=') else {
            anyhow::bail!("--filter {text:?} is not allowed: NAME=VALUE");
        };
        filters.entry(name.to_owned()).or_default().push(value.to_owned());
    }
    Ok(filters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_and_labels_are_names_and_values() {
        let two = filters(&["label=a=b".into(), "label=c".into()]).unwrap();
        assert_eq!(two["label"], ["a=b", "c"]);
        assert!(filters(&["web".into()]).unwrap_err().to_string().contains("web"));
        assert_eq!(pairs(&["a=b=c".into(), "d".into()])["a"], "b=c");
    }

    #[test]
    fn an_endpoint_says_only_what_was_asked_for() {
        assert_eq!(endpoint(None, None, vec![]), EndpointSettings::default());
        let asked = endpoint(Some("10.0.0.9".into()), None, vec!["db".into()]);
        assert_eq!(asked.ipam_config.unwrap().ipv4_address.as_deref(), Some("10.0.0.9"));
        assert_eq!(asked.aliases.unwrap(), ["db"]);
    }

    #[test]
    fn subnets_and_gateways_find_each_other_by_their_family() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let made =
            pools(texts(&["fd00:5::/64", "10.5.0.0/16"]), texts(&["fd00:5::9"]), None).unwrap();
        assert_eq!(made[0].subnet.as_deref(), Some("10.5.0.0/16"));
        assert_eq!(
            (made[0].gateway.as_deref(), made[1].gateway.as_deref()),
            (None, Some("fd00:5::9"))
        );
        assert!(pools(vec![], vec![], None).unwrap().is_empty());
        assert!(pools(texts(&["10.5.0.0/16", "10.6.0.0/16"]), vec![], None).is_err());
    }
}
