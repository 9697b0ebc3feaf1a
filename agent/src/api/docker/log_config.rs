//! `HostConfig.LogConfig`: Docker's words for how much of the output is kept, both ways. Pure.

use std::collections::BTreeMap;

use bollard::models::HostConfigLogConfig;
use serde_json::{Value, json};
use tenantry_container::{Limit, LogConfig, units};

use crate::api::error::{ApiError, ApiResult};

const OPTION: &str = "HostConfig.LogConfig.Config";
const KEPT: &str = "json-file";
const DISCARDED: &str = "none";

pub fn parse(wanted: Option<HostConfigLogConfig>) -> ApiResult<LogConfig> {
    let wanted = wanted.unwrap_or_default();
    match wanted.typ.as_deref().unwrap_or_default() {
        "" | KEPT => {}
        // Docker does not look at its options either.
        DISCARDED => return Ok(LogConfig { discards: true, ..LogConfig::default() }),
        other => {
            let allowed = format!("{KEPT} or {DISCARDED}: there is no other log driver");
            return Err(ApiError::invalid("HostConfig.LogConfig.Type", other, allowed));
        }
    }
    let mut config = LogConfig::default();
    let options: BTreeMap<String, String> = wanted.config.unwrap_or_default().into_iter().collect();
    for (name, value) in &options {
        let field = format!("{OPTION}.{name}");
        match (name.as_str(), value.as_str()) {
            ("max-size", "-1") => config.max_size = Some(Limit::Unlimited),
            ("max-size", text) => {
                config.max_size = Some(Limit::Value(units::parse_file_size(&field, text)?));
            }
            ("max-file", text) => {
                let refused = |_| ApiError::invalid(field, text, "a number of files");
                config.max_file = Some(text.parse().map_err(refused)?);
            }
            // What is so anyway.
            ("compress", "false") | ("mode", "blocking") => {}
            ("compress", other) => {
                return Err(ApiError::invalid(field, other, "false: logs are not compressed"));
            }
            ("mode", other) => {
                let allowed = "blocking: only who is attached holds a container up";
                return Err(ApiError::invalid(field, other, allowed));
            }
            (unknown, _) => {
                let allowed = "max-size, max-file, compress=false and mode=blocking";
                return Err(ApiError::invalid(OPTION, unknown, allowed));
            }
        }
    }
    Ok(config)
}

/// As `inspect` tells it.
pub fn view(config: &LogConfig) -> Value {
    if config.discards {
        return json!({ "Type": DISCARDED, "Config": {} });
    }
    let mut options = BTreeMap::new();
    match config.max_size {
        None => {}
        Some(Limit::Unlimited) => {
            options.insert("max-size", "-1".to_owned());
        }
        Some(Limit::Value(bytes)) => {
            options.insert("max-size", units::render_file_size(bytes));
        }
    }
    if let Some(files) = config.max_file {
        options.insert("max-file", files.to_string());
    }
    json!({ "Type": KEPT, "Config": options })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(typ: &str, options: Value) -> ApiResult<LogConfig> {
        let config = json!({ "Type": typ, "Config": options });
        parse(Some(serde_json::from_value(config).unwrap()))
    }

    #[test]
    fn what_docker_says_is_told_back_by_inspect() {
        for (typ, options) in [
            ("json-file", json!({ "max-size": "10k", "max-file": "3" })),
            ("json-file", json!({ "max-size": "-1" })),
            ("json-file", json!({ "max-size": "1536" })),
            ("none", json!({})),
        ] {
            let view = view(&parsed(typ, options.clone()).unwrap());
            assert_eq!(view, json!({ "Type": typ, "Config": options }));
        }
        let ten = parsed("", json!({ "max-size": "10KB" })).unwrap();
        assert_eq!(ten.max_size, Some(Limit::Value(10_000)));
    }

    #[test]
    fn what_the_stock_client_sends_by_default_asks_for_nothing() {
        assert_eq!(parsed("", json!({})).unwrap(), LogConfig::default());
        assert_eq!(parse(None).unwrap(), LogConfig::default());
    }

    #[test]
    fn other_drivers_and_options_are_refused_by_name() {
        for (typ, options, words) in [
            ("syslog", json!({}), ["LogConfig.Type", "syslog", "json-file"]),
            ("json-file", json!({ "tag": "x" }), ["LogConfig.Config", "tag", "max-size"]),
            ("json-file", json!({ "max-size": "ten" }), ["max-size", "ten", "10m"]),
            ("json-file", json!({ "max-file": "-2" }), ["max-file", "-2", "number"]),
            ("json-file", json!({ "compress": "true" }), ["compress", "true", "false"]),
            ("json-file", json!({ "mode": "non-blocking" }), ["mode", "non-blocking", "blocking"]),
        ] {
            let error = parsed(typ, options).unwrap_err();
            assert_eq!(error.status, axum::http::StatusCode::BAD_REQUEST);
            for word in words {
                assert!(error.message.contains(word), "{word}: {}", error.message);
            }
        }
    }
}
