//! What the audit's rules matched. Which container it was stands in the alert: names of
//! containers come and go, and there may be a thousand rules.

use std::fmt::Error;

use super::family::Families;
use crate::report::HostReport;

pub(super) fn encode(f: &mut Families, report: &HostReport) -> Result<(), Error> {
    let rules = &report.agent.rules;
    let labels = |rule: &'_ crate::rules::RuleCount| (rule.rule.clone(), rule.severity);
    let labels: Vec<(String, &str)> = rules.iter().map(labels).collect();
    let rows = |of: fn(&crate::rules::RuleCount) -> u64| {
        labels.iter().zip(rules).map(move |((rule, severity), count)| {
            ([("rule", rule.as_str()), ("severity", *severity)], of(count))
        })
    };
    f.counter(
        "tenantry_rule_matches_total",
        "Events that matched the rule, those without an alert among them",
        rows(|count| count.matches),
    )?;
    f.counter(
        "tenantry_rule_suppressed_total",
        "Events that matched the rule and whose alert its rate held back",
        rows(|count| count.suppressed),
    )
}
