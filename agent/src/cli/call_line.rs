//! What a person reads of a system call's event: who made which call, on what, with what result.

use serde_json::Value;

pub fn detail(event: &Value) -> String {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let (process, file, syscall) = (&event["process"], &event["file"], &event["syscall"]);
    let ends = [endpoint(&event["source"]), endpoint(&event["destination"])];
    let mut words = vec![format!("pid {}", process["pid"])];
    words.extend(text(&process["name"]));
    words.extend(text(&syscall["name"]));
    words.extend(text(&syscall["text"]));
    words.extend(text(&file["path"]));
    words.extend(text(&file["target_path"]).map(|target| format!("→ {target}")));
    words.extend(text(&event["network"]["transport"]));
    match ends {
        [Some(source), Some(destination)] => words.push(format!("{source} → {destination}")),
        [one, other] => words.extend(one.or(other)),
    }
    words.extend(text(&event["dns"]["question"]["name"]));
    words.extend(event["target"]["pid"].as_u64().map(|pid| format!("on pid {pid}")));
    words.extend(text(&event["target"]["container"]["name"]).map(|name| format!("of {name}")));
    let result = text(&syscall["error"]);
    let result = result.or_else(|| syscall["result"].as_i64().map(|result| result.to_string()));
    words.extend(result.map(|result| format!("= {result}")));
    words.join(" ")
}

fn endpoint(end: &Value) -> Option<String> {
    if let Some(path) = end["path"].as_str() {
        return Some(path.to_owned());
    }
    let (ip, port) = (end["ip"].as_str()?, &end["port"]);
    Some(if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(mut event: Value, expected: &str) {
        event["process"] = json!({ "pid": 7, "name": "sh" });
        assert_eq!(detail(&event), expected);
    }

    #[test]
    fn a_call_is_told_with_what_it_was_about_and_its_result() {
        let call = |name: &str, result: i64| json!({ "name": name, "result": result });
        check(
            json!({ "file": { "path": "/etc/passwd" }, "syscall": call("openat", 3) }),
            "pid 7 sh openat /etc/passwd = 3",
        );
        check(
            json!({
                "file": { "path": "/a", "target_path": "/b" },
                "syscall": { "name": "rename", "result": -13, "error": "EACCES" },
            }),
            "pid 7 sh rename /a → /b = EACCES",
        );
        let (here, there) =
            (json!({ "ip": "::1", "port": 5 }), json!({ "ip": "1.2.3.4", "port": 80 }));
        check(
            json!({
                "source": here, "destination": there,
                "network": { "transport": "tcp" }, "syscall": call("connect", 0),
            }),
            "pid 7 sh connect tcp [::1]:5 → 1.2.3.4:80 = 0",
        );
        check(
            json!({ "destination": { "path": "@x" }, "network": { "transport": "unix" }, "syscall": call("connect", 0) }),
            "pid 7 sh connect unix @x = 0",
        );
        check(
            json!({ "target": { "pid": 9, "container": { "name": "db" } }, "syscall": call("kill", 0) }),
            "pid 7 sh kill on pid 9 of db = 0",
        );
    }
}
