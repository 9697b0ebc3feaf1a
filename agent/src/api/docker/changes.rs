//! Dockerfile instructions that `import --change` takes. Pure.

use tenantry_image::ImportOptions;

use crate::api::error::{ApiError, ApiResult};

const ALLOWED: &str =
    "CMD, ENTRYPOINT, ENV, WORKDIR, USER, LABEL, EXPOSE or STOPSIGNAL and a value";

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
    fn what_is_no_instruction_is_refused_by_name() {
        for line in ["RUN make", "CMD", "ENV A", "CMD [1"] {
            let error = parse(&[line.to_owned()]).unwrap_err();
            assert!(error.message.contains("STOPSIGNAL"), "{}", error.message);
        }
    }
}
