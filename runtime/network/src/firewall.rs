//! Our nftables table: masquerade for what leaves the bridge, accept for what
//! is forwarded from and to it, the last class for what some containers send.
//!
//! That class is set at the forward hook: the kernel gives each packet that it forwards the
//! priority of its TOS field, and does so before, so that whatever a veth's own filters say is
//! lost. A container's packets have its address there still; masquerade comes after.
//!
//! Owns exactly one table of family `ip`; replaced and removed as a whole, in
//! one transaction. No other table is read or written. An `accept` here does not
//! overrule a `drop` in somebody else's table: nftables asks every base chain.
//! Runs the `nft` program (5 ms): no crate speaks NAT over netlink.

use std::net::Ipv4Addr;

use nftables::batch::Batch;
use nftables::expr::{Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, Prefix};
use nftables::helper::{
    DEFAULT_ARGS, NftablesError, apply_ruleset_with_args, get_current_ruleset_with_args,
};
use nftables::schema::{
    Chain, Element, NfListObject, NfObject, Nftables, Rule, Set, SetType, SetTypeValue, Table,
};
use nftables::stmt::{Mangle, Match, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use crate::error::{Error, Result};
use crate::subnet::Ipv4Subnet;

/// The kernel's `srcnat` and `filter` priorities.
const SRCNAT_PRIORITY: i32 = 100;
const FILTER_PRIORITY: i32 = 0;
/// The set of the addresses whose packets go last.
const BULK: &str = "bulk";
/// `TC_PRIO_BULK` as nft writes it.
const BULK_PRIORITY: &str = "0:2";

/// Blocking.
pub(crate) fn install(table: &str, bridge: &str, subnet: Ipv4Subnet) -> Result<()> {
    apply("install", table, &render_install(table, bridge, subnet))
}

/// Blocking; no error if the table is gone already.
pub(crate) fn remove(table: &str) -> Result<()> {
    apply("remove", table, &render_remove(table).to_nftables())
}

/// Blocking; an address that is there already is as good.
pub(crate) fn add_bulk(table: &str, address: Ipv4Addr) -> Result<()> {
    let mut batch = Batch::new();
    batch.add(bulk_element(table, address));
    apply("change", table, &batch.to_nftables())
}

/// Blocking; no error if the address, or the table, is gone already.
pub(crate) fn remove_bulk(table: &str, address: Ipv4Addr) -> Result<()> {
    let mut batch = Batch::new();
    batch.add(bulk_element(table, address));
    batch.delete(bulk_element(table, address));
    match apply("change", table, &batch.to_nftables()) {
        Err(error) if has_table(table)? => Err(error),
        _ => Ok(()),
    }
}

/// # Errors
/// [`Error::Firewall`] if nobody can tell.
pub(crate) fn has_table(table: &str) -> Result<bool> {
    let listed = get_current_ruleset_with_args(Some(nft()), ["list", "tables", "ip"]);
    let listed = listed.map_err(|e| firewall_error("list", table, e))?;
    let is_it = |object: &NfObject<'_>| match object {
        NfObject::ListObject(NfListObject::Table(found)) => found.name == table,
        _ => false,
    };
    Ok(listed.objects.iter().any(is_it))
}

/// By the `PATH`; a shim runs us without one.
fn nft() -> &'static str {
    const USUAL: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "/usr/local/sbin/nft"];
    let there = || USUAL.into_iter().find(|path| std::path::Path::new(path).exists());
    match std::env::var_os("PATH") {
        None => there().unwrap_or("nft"),
        Some(_) => "nft",
    }
}

/// Blocking.
///
/// # Errors
/// [`Error::Firewall`], also if there is no such table.
pub(crate) fn is_bulk(table: &str, address: Ipv4Addr) -> Result<bool> {
    let listed = get_current_ruleset_with_args(Some(nft()), ["list", "set", "ip", table, BULK]);
    let address = Expression::String(address.to_string().into());
    let has_it = |object: &NfObject<'_>| match object {
        NfObject::ListObject(NfListObject::Set(set)) => {
            set.elem.as_ref().is_some_and(|elements| elements.contains(&address))
        }
        _ => false,
    };
    let listed = listed.map_err(|e| firewall_error("read", table, e))?;
    Ok(listed.objects.iter().any(has_it))
}

fn bulk_element(table: &str, address: Ipv4Addr) -> NfListObject<'static> {
    NfListObject::Element(Element {
        family: NfFamily::IP,
        table: table.to_owned().into(),
        name: BULK.into(),
        elem: vec![Expression::String(address.to_string().into())].into(),
    })
}

fn apply(operation: &'static str, table: &str, rules: &Nftables<'_>) -> Result<()> {
    apply_ruleset_with_args(rules, Some(nft()), DEFAULT_ARGS)
        .map_err(|e| firewall_error(operation, table, e))
}

fn firewall_error(operation: &'static str, table: &str, error: NftablesError) -> Error {
    let detail = match error {
        NftablesError::NftExecution { program, inner } => {
            format!("cannot run {}: {inner}", program.to_string_lossy())
        }
        NftablesError::NftFailed { stderr, .. } => stderr.trim().to_owned(),
        other => other.to_string(),
    };
    Error::Firewall { operation, table: table.to_owned(), detail }
}

/// "Add, then delete" removes the table whether or not it was there.
fn render_remove(table: &str) -> Batch<'static> {
    let table = || {
        NfListObject::Table(Table {
            family: NfFamily::IP,
            name: table.to_owned().into(),
            handle: None,
        })
    };
    let mut batch = Batch::new();
    batch.add(table());
    batch.delete(table());
    batch
}

fn render_install(table: &str, bridge: &str, subnet: Ipv4Subnet) -> Nftables<'static> {
    let mut batch = render_remove(table);
    batch.add(NfListObject::Table(Table {
        family: NfFamily::IP,
        name: table.to_owned().into(),
        handle: None,
    }));
    let mut chain = |name: &'static str, kind, hook, priority| {
        batch.add(NfListObject::Chain(Chain {
            family: NfFamily::IP,
            table: table.to_owned().into(),
            name: name.into(),
            newname: None,
            handle: None,
            _type: Some(kind),
            hook: Some(hook),
            prio: Some(priority),
            dev: None,
            policy: Some(NfChainPolicy::Accept),
        }));
    };
    chain("postrouting", NfChainType::NAT, NfHook::Postrouting, SRCNAT_PRIORITY);
    chain("forward", NfChainType::Filter, NfHook::Forward, FILTER_PRIORITY);
    batch.add(NfListObject::Set(Box::new(Set {
        table: table.to_owned().into(),
        name: BULK.into(),
        family: NfFamily::IP,
        set_type: SetTypeValue::Single(SetType::Ipv4Addr),
        ..Set::default()
    })));
    let mut rule = |chain: &'static str, expr: Vec<Statement<'static>>| {
        batch.add(NfListObject::Rule(Rule {
            family: NfFamily::IP,
            table: table.to_owned().into(),
            chain: chain.into(),
            expr: expr.into(),
            ..Rule::default()
        }));
    };
    let interface = |key, op| {
        matches(
            NamedExpression::Meta(Meta { key }),
            Expression::String(bridge.to_owned().into()),
            op,
        )
    };
    rule(
        "postrouting",
        vec![
            from_subnet(subnet),
            interface(MetaKey::Oifname, Operator::NEQ),
            Statement::Masquerade(None),
        ],
    );
    // Before the verdicts: after one the rest of the chain is not asked.
    rule("forward", vec![from_bulk(), last_class()]);
    rule("forward", vec![interface(MetaKey::Iifname, Operator::EQ), Statement::Accept(None)]);
    rule("forward", vec![interface(MetaKey::Oifname, Operator::EQ), Statement::Accept(None)]);
    batch.to_nftables()
}

fn source() -> NamedExpression<'static> {
    let source = PayloadField { protocol: "ip".into(), field: "saddr".into() };
    NamedExpression::Payload(Payload::PayloadField(source))
}

fn from_bulk() -> Statement<'static> {
    matches(source(), Expression::String(format!("@{BULK}").into()), Operator::EQ)
}

fn last_class() -> Statement<'static> {
    let priority = NamedExpression::Meta(Meta { key: MetaKey::Priority });
    Statement::Mangle(Mangle {
        key: Expression::Named(priority),
        value: Expression::String(BULK_PRIORITY.into()),
    })
}

fn from_subnet(subnet: Ipv4Subnet) -> Statement<'static> {
    let prefix = Prefix {
        addr: Box::new(Expression::String(subnet.network().to_string().into())),
        len: subnet.prefix().into(),
    };
    matches(source(), Expression::Named(NamedExpression::Prefix(prefix)), Operator::EQ)
}

fn matches(
    left: NamedExpression<'static>,
    right: Expression<'static>,
    op: Operator,
) -> Statement<'static> {
    Statement::Match(Match { left: Expression::Named(left), right, op })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_table_is_replaced_as_a_whole_and_names_only_itself() {
        let rules = render_install("t0", "br7", "10.9.0.0/16".parse().unwrap());
        let json = serde_json::to_value(&rules).unwrap();
        let commands = json["nftables"].as_array().unwrap();
        let heads: Vec<(&str, &str)> = commands
            .iter()
            .map(|c| {
                let (verb, object) = c.as_object().unwrap().iter().next().unwrap();
                (verb.as_str(), object.as_object().unwrap().keys().next().unwrap().as_str())
            })
            .collect();
        assert_eq!(heads[..3], [("add", "table"), ("delete", "table"), ("add", "table")]);
        assert_eq!(heads.len(), 10);
        assert_eq!(heads[5], ("add", "set"));
        for command in commands {
            let object = command.as_object().unwrap().values().next().unwrap();
            let object = object.as_object().unwrap().values().next().unwrap();
            let table: &Value = object.get("table").unwrap_or(&object["name"]);
            assert_eq!((table, &object["family"]), (&json!("t0"), &json!("ip")));
        }
        assert_eq!(
            commands[6]["add"]["rule"]["expr"],
            json!([
                {"match": {
                    "left": {"payload": {"protocol": "ip", "field": "saddr"}},
                    "right": {"prefix": {"addr": "10.9.0.0", "len": 16}},
                    "op": "=="
                }},
                {"match": {"left": {"meta": {"key": "oifname"}}, "right": "br7", "op": "!="}},
                {"masquerade": null}
            ])
        );
        assert_eq!(
            commands[7]["add"]["rule"]["expr"],
            json!([
                {"match": {
                    "left": {"payload": {"protocol": "ip", "field": "saddr"}},
                    "right": "@bulk",
                    "op": "=="
                }},
                {"mangle": {"key": {"meta": {"key": "priority"}}, "value": "0:2"}}
            ])
        );
    }
}
