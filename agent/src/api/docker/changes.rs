//! Dockerfile instructions that `import --change` and `commit --change` take. Pure.

use serde_json::{Value, json};
use tenantry_container::process::merge_environment;
use tenantry_image::ImportOptions;

use crate::api::error::{ApiError, ApiResult};

const ALLOWED: &str =
    "CMD, ENTRYPOINT, ENV, WORKDIR, USER, LABEL, EXPOSE or STOPSIGNAL and a value";

/// Lines of all `changes` parameters: clients send one with lines, or one for each.
pub fn lines(pairs: &[(String, String)]) -> Vec<String> {
    let changes = pairs.iter().filter(|(key, _)| key == "changes");
    changes.flat_map(|(_, text)| text.lines()).map(str::to_owned).collect()
}

/// Changes an image's `config`. `VOLUME` and `ONBUILD` are taken here as well.
pub fn apply(config: &mut Value, lines: &[String]) -> ApiResult<()> {
    let mut rest = Vec::new();
    for line in lines.iter().map(|line| line.trim()) {
        let (name, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match (name.to_ascii_uppercase().as_str(), value.trim()) {
            ("VOLUME", value) if !value.is_empty() => {
                let list = serde_json::from_str::<Vec<String>>(value);
                let plain = || value.split_whitespace().map(str::to_owned).collect();
                for path in list.unwrap_or_else(|_| plain()) {
                    config["Volumes"][path] = json!({});
                }
            }
            ("ONBUILD", value) if !value.is_empty() => match &mut config["OnBuild"] {
                Value::Array(list) => list.push(value.into()),
                other => *other = json!([value]),
            },
            _ => rest.push(line.to_owned()),
        }
    }
    let changes = parse(&rest)?;
    for (name, list) in [("Cmd", &changes.cmd), ("Entrypoint", &changes.entrypoint)] {
        if !list.is_empty() {
            config[name] = json!(list);
        }
    }
    if !changes.env.is_empty() {
        let of_image: Vec<String> =
            serde_json::from_value(config["Env"].clone()).unwrap_or_default();
        config["Env"] = json!(merge_environment(&of_image, &changes.env));
    }
    for (name, value) in [
        ("WorkingDir", changes.working_dir),
        ("User", changes.user),
        ("StopSignal", changes.stop_signal),
    ] {
        if let Some(value) = value {
            config[name] = value.into();
        }
    }
    for (name, value) in changes.labels {
        config["Labels"][name] = value.into();
    }
    for port in changes.exposed_ports {
        let port = if port.contains('/') { port } else { format!("{port}/tcp") };
        config["ExposedPorts"][port] = json!({});
    }
    Ok(())
}

/// One instruction a line, such as `CMD ["/bin/sh"]` or `ENV A=b`.
pub fn parse(lines: &[String]) -> ApiResult<ImportOptions> {
    let mut options = ImportOptions::default();
    for line in lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty()) {
        let refused = || ApiError::invalid("changes", line, ALLOWED);
        let (name, value) = line.split_once(char::is_whitespace).ok_or_else(refused)?;
        let value = value.trim();
        match name.to_ascii_uppercase().as_str() {
            "CMD" => options.cmd = command(value).ok_or_else(refused)?,
            "ENTRYPOINT" => options.entrypoint = command(value).ok_or_else(refused)?,
            "ENV" => options.env.push(assignment(value).ok_or_else(refused)?),
            "WORKDIR" => options.working_dir = Some(value.into()),
            "USER" => options.user = Some(value.into()),
            "LABEL" => {
                let label = assignment(value).ok_or_else(refused)?;
                let (name, value) = label.split_once('=').ok_or_else(refused)?;
                options.labels.insert(name.into(), value.trim_matches('"').into());
            }
            "EXPOSE" => options.exposed_ports.extend(value.split_whitespace().map(str::to_owned)),
            "STOPSIGNAL" => options.stop_signal = Some(value.into()),
            _ => return Err(refused()),
        }
    }
    Ok(options)
}

/// `["a", "b"]`, or a line for the shell.
fn command(value: &str) -> Option<Vec<String>> {
    if value.starts_with('[') {
        return serde_json::from_str(value).ok();
    }
    Some(vec!["/bin/sh".into(), "-c".into(), value.into()])
}

/// `NAME=value`, or Docker's older `NAME value`.
fn assignment(value: &str) -> Option<String> {
    match value.split_once('=') {
        Some(_) => Some(value.into()),
        None => value.split_once(' ').map(|(name, value)| format!("{name}={value}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_become_options() {
        let lines =
            ["CMD [\"/bin/sh\", \"-l\"]", "env A=b", "ENTRYPOINT run it", "EXPOSE 80/tcp 53/udp"];
        let options = parse(&lines.map(str::to_owned)).unwrap();
        assert_eq!(options.cmd, ["/bin/sh", "-l"]);
        assert_eq!(options.env, ["A=b"]);
        assert_eq!(options.entrypoint, ["/bin/sh", "-c", "run it"]);
        assert_eq!(options.exposed_ports, ["80/tcp", "53/udp"]);
    }

    #[test]
    fn changes_are_made_to_a_configuration() {
        let mut config = json!({"Env": ["A=1", "B=2"], "Cmd": ["old"], "Labels": {"x": "1"}});
        let lines = [
            "ENV B=3",
            "CMD [\"new\"]",
            "LABEL y=2",
            "EXPOSE 80",
            "VOLUME /data /more",
            "ONBUILD RUN true",
            "WORKDIR /srv",
        ];
        apply(&mut config, &lines.map(str::to_owned)).unwrap();
        let expected = json!({
            "Env": ["A=1", "B=3"], "Cmd": ["new"], "Labels": {"x": "1", "y": "2"},
            "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}, "/more": {}},
            "OnBuild": ["RUN true"], "WorkingDir": "/srv",
        });
        assert_eq!(config, expected);
        assert!(apply(&mut config, &["RUN make".to_owned()]).is_err());
    }

    #[test]
    fn what_is_no_instruction_is_refused_by_name() {
        for line in ["RUN make", "CMD", "ENV A", "CMD [1"] {
            let error = parse(&[line.to_owned()]).unwrap_err();
            assert!(error.message.contains("STOPSIGNAL"), "{}", error.message);
        }
    }
}
