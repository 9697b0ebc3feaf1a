//! A line of the audit as an OpenTelemetry log record, in the JSON encoding of OTLP/HTTP. Pure.
//!
//! The body is the line as it is in the file, so that its hash can be checked wherever it came to.
//! Its members are attributes, too, under the names that they have in the line, which are the
//! Elastic Common Schema's: `container.name`, `process.pid`, `file.path`.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

/// In the record's own fields, or of no use without the line.
const NO_ATTRIBUTES: [&str; 2] = ["@timestamp", "hash"];

/// Of `ExportLogsServiceRequest` what we have to say.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    resource_logs: [ResourceLogs<'a>; 1],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceLogs<'a> {
    resource: Resource,
    scope_logs: [ScopeLogs<'a>; 1],
}

#[derive(Debug, Serialize)]
struct Resource {
    attributes: Vec<KeyValue>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ScopeLogs<'a> {
    scope: Scope,
    log_records: &'a [LogRecord],
}

#[derive(Debug, Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

/// 64-bit numbers are text in this encoding.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogRecord {
    /// Zero: unknown.
    time_unix_nano: String,
    observed_time_unix_nano: String,
    severity_number: u8,
    severity_text: &'static str,
    body: AnyValue,
    attributes: Vec<KeyValue>,
    #[serde(skip)]
    is_line: bool,
}

#[derive(Debug, Serialize)]
struct KeyValue {
    key: String,
    value: AnyValue,
}

#[derive(Debug, Serialize)]
enum AnyValue {
    #[serde(rename = "stringValue")]
    Text(String),
    #[serde(rename = "boolValue")]
    Bool(bool),
    #[serde(rename = "intValue")]
    Int(String),
    #[serde(rename = "doubleValue")]
    Double(f64),
    #[serde(rename = "arrayValue")]
    Array(Values<AnyValue>),
    #[serde(rename = "kvlistValue")]
    List(Values<KeyValue>),
}

#[derive(Debug, Serialize)]
struct Values<T> {
    values: Vec<T>,
}

impl LogRecord {
    /// `line` without its newline. What is no JSON object has a body and nothing else.
    pub fn new(line: &[u8], observed: Timestamp) -> Self {
        let event: Value = serde_json::from_slice(line).unwrap_or_default();
        let time = event["@timestamp"].as_str().and_then(|text| text.parse().ok());
        let (severity_number, severity_text) = severity(&event);
        let mut attributes = Vec::new();
        for (key, value) in event.as_object().into_iter().flatten() {
            if !NO_ATTRIBUTES.contains(&key.as_str()) {
                flatten(key, value, &mut attributes);
            }
        }
        Self {
            time_unix_nano: time.map_or_else(|| "0".into(), nanoseconds),
            observed_time_unix_nano: nanoseconds(observed),
            severity_number,
            severity_text,
            body: AnyValue::Text(String::from_utf8_lossy(line).into_owned()),
            attributes,
            is_line: true,
        }
    }

    /// What is told beside the lines, in the same form.
    pub fn notice(event: &Value, observed: Timestamp) -> Self {
        Self { is_line: false, ..Self::new(event.to_string().as_bytes(), observed) }
    }

    /// Whether it is one of the audit's, and no notice.
    pub fn is_line(&self) -> bool {
        self.is_line
    }

    /// About what it is in a request.
    pub fn bytes(&self) -> usize {
        match &self.body {
            AnyValue::Text(line) => 3 * line.len(),
            _ => 0,
        }
    }
}

/// A request's body. `host`: what the host calls itself.
pub fn request(records: &[LogRecord], host: &str) -> Vec<u8> {
    let text =
        |key: &str, value: &str| KeyValue { key: key.into(), value: AnyValue::Text(value.into()) };
    let version = env!("CARGO_PKG_VERSION");
    let resource = Resource {
        attributes: vec![
            text("service.name", "tenantry"),
            text("service.version", version),
            text("host.name", host),
        ],
    };
    let scope = Scope { name: "tenantry.audit", version };
    let scope_logs = [ScopeLogs { scope, log_records: records }];
    let request = Request { resource_logs: [ResourceLogs { resource, scope_logs }] };
    // Plain data always serializes.
    serde_json::to_vec(&request).unwrap_or_default()
}

/// As the log data model numbers them, and maps those of syslog to.
fn severity(event: &Value) -> (u8, &'static str) {
    match event["event"]["action"].as_str().unwrap_or_default() {
        "alert" => match event["rule"]["severity"].as_str().unwrap_or_default() {
            "critical" => (18, "ERROR2"),
            "warning" => (13, "WARN"),
            "notice" => (10, "INFO2"),
            _ => (9, "INFO"),
        },
        "gap" | "lost" => (17, "ERROR"),
        "oom" | "torn" => (13, "WARN"),
        _ => (9, "INFO"),
    }
}

fn nanoseconds(time: Timestamp) -> String {
    time.as_nanosecond().max(0).to_string()
}

/// Objects by the names of their members; an array is one attribute.
fn flatten(name: &str, value: &Value, attributes: &mut Vec<KeyValue>) {
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(key, value)| {
                flatten(&format!("{name}.{key}"), value, attributes);
            });
        }
        _ => attributes.extend(any(value).map(|value| KeyValue { key: name.into(), value })),
    }
}

/// `None` for a null.
fn any(value: &Value) -> Option<AnyValue> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(value) => AnyValue::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => AnyValue::Int(number.to_string()),
            // An argument of a call: more than the encoding's numbers hold.
            (None, Some(number)) => AnyValue::Text(number.to_string()),
            (None, None) => AnyValue::Double(number.as_f64()?),
        },
        Value::String(text) => AnyValue::Text(text.clone()),
        Value::Array(values) => {
            AnyValue::Array(Values { values: values.iter().filter_map(any).collect() })
        }
        Value::Object(members) => AnyValue::List(Values {
            values: members
                .iter()
                .filter_map(|(key, value)| Some(KeyValue { key: key.clone(), value: any(value)? }))
                .collect(),
        }),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(line: &Value) -> Value {
        let line = line.to_string();
        let record = LogRecord::new(line.as_bytes(), Timestamp::from_second(7).unwrap());
        let record = serde_json::to_value(record).unwrap();
        assert_eq!(record["body"], json!({ "stringValue": line }));
        assert_eq!(record["observedTimeUnixNano"], "7000000000");
        record
    }

    #[test]
    fn a_line_is_a_record_with_its_members_as_attributes() {
        let record = record(&json!({
            "seq": 7, "event": { "action": "exec" }, "@timestamp": "1970-01-01T00:00:01.5Z",
            "container": { "name": "web", "image": { "name": "demo" } },
            "process": { "args": ["sh", "-c"], "args_truncated": false },
            "syscall": { "args": [u64::MAX, 3], "result": -13 }, "x": 1.5, "none": null,
            "namespaces": [{ "type": "mnt", "inode": 4 }], "hash": "h",
        }));
        assert_eq!(
            (&record["timeUnixNano"], &record["severityNumber"]),
            (&json!("1500000000"), &json!(9))
        );
        let attributes = record["attributes"].as_array().unwrap();
        let of = |key: &str| {
            attributes
                .iter()
                .find(|it| it["key"] == key)
                .map(|it| it["value"].clone())
                .unwrap_or_default()
        };
        assert_eq!(of("seq"), json!({ "intValue": "7" }));
        assert_eq!(of("event.action"), json!({ "stringValue": "exec" }));
        assert_eq!(of("container.image.name"), json!({ "stringValue": "demo" }));
        let words = json!({ "values": [{ "stringValue": "sh" }, { "stringValue": "-c" }] });
        assert_eq!(of("process.args"), json!({ "arrayValue": words }));
        assert_eq!(of("process.args_truncated"), json!({ "boolValue": false }));
        let numbers = json!([{ "stringValue": "18446744073709551615" }, { "intValue": "3" }]);
        assert_eq!(of("syscall.args"), json!({ "arrayValue": { "values": numbers } }));
        assert_eq!(of("syscall.result"), json!({ "intValue": "-13" }));
        assert_eq!(of("x"), json!({ "doubleValue": 1.5 }));
        let members = json!([
            { "key": "inode", "value": { "intValue": "4" } },
            { "key": "type", "value": { "stringValue": "mnt" } },
        ]);
        let inside = json!({ "values": [{ "kvlistValue": { "values": members } }] });
        assert_eq!(of("namespaces"), json!({ "arrayValue": inside }));
        for absent in ["hash", "@timestamp", "none"] {
            assert_eq!(of(absent), Value::Null);
        }
    }

    #[test]
    fn how_bad_it_is_comes_from_the_kind_and_the_rule() {
        let check = |event: Value, text: &str| assert_eq!(record(&event)["severityText"], text);
        check(json!({ "event": { "action": "exit" } }), "INFO");
        check(json!({ "event": { "action": "gap" } }), "ERROR");
        check(json!({ "event": { "action": "oom" } }), "WARN");
        let alert = |severity: &str| json!({ "event": { "action": "alert" }, "rule": { "severity": severity } });
        check(alert("critical"), "ERROR2");
        check(alert("warning"), "WARN");
        check(alert("notice"), "INFO2");
        check(alert("info"), "INFO");
    }
}
