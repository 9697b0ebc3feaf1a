//! A change of a limit as it is told outside: by the API and in the audit file.

use serde::{Deserialize, Serialize};
use tenantry_container::LimitChange;
use utoipa::ToSchema;

use crate::api::logs::rfc3339;

/// One change of one limit. `max` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LimitLine {
    /// RFC 3339.
    pub time: String,
    /// Who did it: `operator`, `controller`, `shim` (the agent did not renew a lease), `agent`
    /// (it ends, or follows one that was killed) or `other`, who wrote the file.
    pub party: String,
    /// `set`, `throttle`, `release`, `expire`, or `yield` to a value that was found.
    pub change: String,
    /// By the name and in the unit that `limits/history` has.
    pub limit: String,
    /// What tenantry had set.
    pub before: String,
    pub after: String,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub reason: String,
    /// For how long, unless it is renewed; absent: for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_seconds: Option<f64>,
    /// For whose sake; absent if no decision stands behind it. The culprit is the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub victim_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub victim_name: Option<String>,
    /// What was measured then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub evidence: Option<serde_json::Value>,
}

impl From<&LimitChange> for LimitLine {
    fn from(change: &LimitChange) -> Self {
        let cause = change.cause.as_ref();
        Self {
            time: rfc3339(change.unix_ns),
            party: change.party.as_str().to_owned(),
            change: change.kind.as_str().to_owned(),
            limit: change.difference.limit.clone(),
            before: change.difference.before.clone(),
            after: change.difference.after.clone(),
            reason: change.reason.clone(),
            lease_seconds: change.lease.map(|lease| lease.as_secs_f64()),
            victim_id: cause.map(|cause| cause.victim_id.clone()),
            victim_name: cause.map(|cause| cause.victim_name.clone()),
            evidence: cause.map(|cause| cause.evidence.clone()),
        }
    }
}
