//! Our nftables table: masquerade for what leaves the bridge, accept for what
//! is forwarded from and to it.
//!
//! Owns exactly one table of family `ip`; replaced and removed as a whole, in
//! one transaction. No other table is read or written. An `accept` here does not
//! overrule a `drop` in somebody else's table: nftables asks every base chain.
//! Runs the `nft` program (5 ms): no crate speaks NAT over netlink.

use nftables::batch::Batch;
use nftables::expr::{Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, Prefix};
use nftables::helper::{DEFAULT_ARGS, DEFAULT_NFT, NftablesError, apply_ruleset_with_args};
use nftables::schema::{Chain, NfListObject, Nftables, Rule, Table};
use nftables::stmt::{Match, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use crate::error::{Error, Result};
use crate::subnet::Ipv4Subnet;

/// The kernel's `srcnat` and `filter` priorities.
const SRCNAT_PRIORITY: i32 = 100;
const FILTER_PRIORITY: i32 = 0;

/// Blocking.
pub(crate) fn install(table: &str, bridge: &str, subnet: Ipv4Subnet) -> Result<()> {
    apply("install", table, &render_install(table, bridge, subnet))
}

/// Blocking; no error if the table is gone already.
pub(crate) fn remove(table: &str) -> Result<()> {
    apply("remove", table, &render_remove(table).to_nftables())
}

fn apply(operation: &'static str, table: &str, rules: &Nftables<'_>) -> Result<()> {
    apply_ruleset_with_args(rules, DEFAULT_NFT, DEFAULT_ARGS).map_err(|e| {
        let detail = match e {
            NftablesError::NftExecution { program, inner } => {
                format!("cannot run {}: {inner}", program.to_string_lossy())
            }
            NftablesError::NftFailed { stderr, .. } => stderr.trim().to_owned(),
            other => other.to_string(),
        };
        Error::Firewall { operation, table: table.to_owned(), detail }
    })
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
    rule("forward", vec![interface(MetaKey::Iifname, Operator::EQ), Statement::Accept(None)]);
    rule("forward", vec![interface(MetaKey::Oifname, Operator::EQ), Statement::Accept(None)]);
    batch.to_nftables()
}

fn from_subnet(subnet: Ipv4Subnet) -> Statement<'static> {
    let source = PayloadField { protocol: "ip".into(), field: "saddr".into() };
    let prefix = Prefix {
        addr: Box::new(Expression::String(subnet.network().to_string().into())),
        len: subnet.prefix().into(),
    };
    matches(
        NamedExpression::Payload(Payload::PayloadField(source)),
        Expression::Named(NamedExpression::Prefix(prefix)),
        Operator::EQ,
    )
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
        assert_eq!(heads.len(), 8);
        for command in commands {
            let object = command.as_object().unwrap().values().next().unwrap();
            let object = object.as_object().unwrap().values().next().unwrap();
            let table: &Value = object.get("table").unwrap_or(&object["name"]);
            assert_eq!((table, &object["family"]), (&json!("t0"), &json!("ip")));
        }
        assert_eq!(
            commands[5]["add"]["rule"]["expr"],
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
    }
}
