//! `--log`: where callers of a runtime read why it failed.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use crate::command_line::LogFormat;

/// Best effort: standard error has it as well.
pub fn error(path: Option<&Path>, format: LogFormat, message: &str) {
    write(path, format, "error", message);
}

pub fn warning(path: Option<&Path>, format: LogFormat, message: &str) {
    write(path, format, "warning", message);
}

fn write(path: Option<&Path>, format: LogFormat, level: &str, message: &str) {
    let Some(path) = path else { return };
    let line = render(format, level, message, &jiff::Timestamp::now().to_string());
    if let Ok(mut file) = OpenOptions::new().create(true).append(true).open(path) {
        let _ = file.write_all(line.as_bytes());
    }
}

fn render(format: LogFormat, level: &str, message: &str, time: &str) -> String {
    match format {
        LogFormat::Json => {
            let line = serde_json::json!({"level": level, "msg": message, "time": time});
            format!("{line}\n")
        }
        LogFormat::Text => {
            let message = serde_json::Value::from(message);
            format!("time=\"{time}\" level={level} msg={message}\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_json_or_text() {
        let time = "2026-11-23T07:00:00Z";
        let line = render(LogFormat::Json, "error", "no \"x\"", time);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (value["level"].as_str(), value["msg"].as_str()),
            (Some("error"), Some("no \"x\""))
        );
        let line = render(LogFormat::Text, "error", "no \"x\"", time);
        assert_eq!(line, "time=\"2026-11-23T07:00:00Z\" level=error msg=\"no \\\"x\\\"\"\n");
    }
}
