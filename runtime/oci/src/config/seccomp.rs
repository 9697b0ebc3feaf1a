//! `linux.seccomp`, as a profile in the format that our own containers' have.
//!
//! Docker's format has all fields of the specification's but those that nobody here
//! answers to; rules, arguments and actions are the same words.

use serde_json::{Map, Value};

use crate::error::Error;

/// The profile's text. `None`: no filter.
pub fn profile(seccomp: &Value) -> Result<Option<String>, Error> {
    let Value::Object(fields) = seccomp else { return Ok(None) };
    for (name, why) in [
        ("listenerPath", "there is nobody to notify"),
        ("listenerMetadata", "there is nobody to notify"),
    ] {
        if fields.get(name).and_then(Value::as_str).is_some_and(|text| !text.is_empty()) {
            return Err(Error::unsupported(format!("linux.seccomp.{name}"), why));
        }
    }
    for flag in fields.get("flags").and_then(Value::as_array).into_iter().flatten() {
        // A container's first process has one thread, which the flag is about.
        if flag.as_str() != Some("SECCOMP_FILTER_FLAG_TSYNC") {
            let allowed = "SECCOMP_FILTER_FLAG_TSYNC";
            return Err(Error::invalid("linux.seccomp.flags", flag, allowed));
        }
    }
    let mut profile = pick(fields, &["defaultAction", "defaultErrnoRet", "architectures"]);
    let rules = fields.get("syscalls").and_then(Value::as_array).into_iter().flatten();
    let rules = rules.filter_map(Value::as_object).map(|rule| {
        let mut picked = pick(rule, &["names", "action", "errnoRet"]);
        let arguments = rule.get("args").and_then(Value::as_array).into_iter().flatten();
        let arguments = arguments.filter_map(Value::as_object);
        let arguments = arguments.map(|a| pick(a, &["index", "value", "valueTwo", "op"]));
        picked.insert("args".to_owned(), arguments.map(Value::Object).collect());
        Value::Object(picked)
    });
    profile.insert("syscalls".to_owned(), rules.collect());
    Ok(Some(Value::Object(profile).to_string()))
}

/// Fields that are there and say something; what is not known is ignored.
fn pick(fields: &Map<String, Value>, names: &[&str]) -> Map<String, Value> {
    let known = names.iter().filter_map(|name| Some(((*name).to_owned(), fields.get(*name)?)));
    let said = known.filter(|(_, value)| !value.is_null());
    said.map(|(name, value)| (name, value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tenantry_container::seccomp::profile::Profile;

    use super::*;

    #[test]
    fn what_podman_writes_is_a_profile_of_ours() {
        let seccomp = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "flags": null,
            "future": true,
            "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [
                    {"index": 0, "value": 8, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]},
            ],
        });
        let text = profile(&seccomp).unwrap().unwrap();
        let profile = Profile::parse(&text).unwrap();
        assert_eq!(profile.syscalls.len(), 2);
        assert_eq!(profile.syscalls[1].args[0].value, 8);
        assert_eq!(profile.default_errno_ret, Some(38));
    }

    #[test]
    fn none_is_none_and_a_listener_is_refused() {
        assert_eq!(profile(&Value::Null).unwrap(), None);
        let seccomp = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x"});
        let error = profile(&seccomp).unwrap_err().to_string();
        assert!(error.contains("listenerPath"), "{error}");
        let seccomp =
            json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]});
        let error = profile(&seccomp).unwrap_err().to_string();
        assert!(error.contains("flags") && error.contains("LOG"), "{error}");
    }
}
