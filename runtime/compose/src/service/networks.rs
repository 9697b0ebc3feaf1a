//! The networks that a service is on, what it publishes, and how it finds names.

use std::collections::BTreeMap;

use bollard_stubs::models::PortMap;

use super::{Context, Parts, list};
use crate::error::Result;
use crate::node::{At, Fields};
use crate::ports;

/// A service on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    pub aliases: Vec<String>,
    pub ipv4: Option<String>,
    pub ipv6: Option<String>,
    pub mac: Option<String>,
    /// The highest is the one that a container begins on.
    pub priority: i64,
}

type Links = Vec<(String, String)>;

pub fn read(
    fields: &mut Fields<'_>,
    context: &Context<'_>,
    parts: &mut Parts,
) -> Result<(BTreeMap<String, Attachment>, Links)> {
    let host = &mut parts.host;
    host.dns = list(fields, "dns")?;
    host.dns_search = list(fields, "dns_search")?;
    host.dns_options = list(fields, "dns_opt")?;
    host.extra_hosts = fields.read("extra_hosts", extra_hosts)?;
    parts.body.exposed_ports = list(fields, "expose")?;
    host.port_bindings = fields.read("ports", |at| {
        let mut map = PortMap::new();
        at.list()?.iter().try_for_each(|at| port(at, &mut map))?;
        Ok(map)
    })?;
    let links = fields.strings("links")?.unwrap_or_default();
    let link = |text: &String| match text.split_once(':') {
        Some((of, alias)) => (of.to_owned(), alias.to_owned()),
        None => (text.clone(), text.clone()),
    };
    let links = links.iter().map(link).collect();
    let mac = fields.string("mac_address")?;
    let mode = fields.get("network_mode");
    let said = fields.get("networks");
    if let Some(mode) = mode {
        if said.is_some() {
            return Err(mode.invalid("either networks or network_mode, not both"));
        }
        host.network_mode = Some(mode.string()?);
        return Ok((BTreeMap::new(), links));
    }
    let mut attachments = match said {
        None => BTreeMap::from([("default".to_owned(), Attachment::default())]),
        Some(at) => attachments(&at, context)?,
    };
    if let Some(first) = attachments.values_mut().max_by_key(|attachment| attachment.priority) {
        first.mac = first.mac.take().or(mac);
    }
    Ok((attachments, links))
}

fn attachments(at: &At<'_>, context: &Context<'_>) -> Result<BTreeMap<String, Attachment>> {
    let known = |at: &At<'_>, name: &str| match context.networks.contains_key(name) {
        true => Ok(name.to_owned()),
        false => Err(at.invalid(format!("the network {name:?} is not among the file's networks"))),
    };
    if !at.is_map() {
        let one = |at: &At<'_>| Ok((known(at, at.text()?)?, Attachment::default()));
        return at.list()?.iter().map(one).collect();
    }
    let one = |(name, at): (&str, At<'_>)| Ok((known(&at, name)?, attachment(&at)?));
    at.entries()?.into_iter().map(one).collect()
}

fn attachment(at: &At<'_>) -> Result<Attachment> {
    if at.node.is_null() {
        return Ok(Attachment::default());
    }
    let mut fields = at.fields()?;
    let attachment = Attachment {
        aliases: fields.strings("aliases")?.unwrap_or_default(),
        ipv4: fields.string("ipv4_address")?,
        ipv6: fields.string("ipv6_address")?,
        mac: fields.string("mac_address")?,
        priority: fields.read("priority", |at| at.number("a number"))?.unwrap_or(0),
    };
    fields.ignore(&["gw_priority"]);
    fields.refuse(&["link_local_ips", "driver_opts", "interface_name"], "not supported")?;
    fields.finish()?;
    Ok(attachment)
}

/// `HOST:CONTAINER/PROTOCOL` and all its kin, or the long form.
fn port(at: &At<'_>, map: &mut PortMap) -> Result<()> {
    if !at.is_map() {
        return ports::bind(map, at.text()?).map_err(|wrong| at.invalid(wrong.to_string()));
    }
    let mut fields = at.fields()?;
    let target = fields.string("target")?;
    let published = fields.string("published")?;
    let address = fields.string("host_ip")?;
    let protocol = fields.string("protocol")?.unwrap_or_else(|| "tcp".into());
    fields.ignore(&["mode", "name", "app_protocol"]);
    fields.finish()?;
    let target = target.ok_or_else(|| at.invalid("target is missing: the container's port"))?;
    let address = match address {
        Some(address) if address.contains(':') => format!("[{address}]:"),
        Some(address) => format!("{address}:"),
        None => String::new(),
    };
    let published = match (published, address.as_str()) {
        (None, "") => String::new(),
        (published, _) => format!("{}:", published.unwrap_or_default()),
    };
    let text = format!("{address}{published}{target}/{protocol}");
    ports::bind(map, &text).map_err(|wrong| at.invalid(wrong.to_string()))
}

/// As the Engine API has them: `NAME:ADDRESS`.
fn extra_hosts(at: &At<'_>) -> Result<Vec<String>> {
    if at.is_map() {
        let mut all = Vec::new();
        for (name, at) in at.entries()? {
            all.extend(at.one_or_more()?.into_iter().map(|address| format!("{name}:{address}")));
        }
        return Ok(all);
    }
    let one = |at: &At<'_>| {
        at.parsed("NAME=ADDRESS or NAME:ADDRESS", |text| {
            let (name, address) = text.split_once(['=', ':'])?;
            Some(format!("{name}:{address}"))
        })
    };
    at.list()?.iter().map(one).collect()
}
