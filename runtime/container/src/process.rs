//! An image's config and a user's wishes become one process (OCI image-spec
//! `config.md`, with Docker's rules where it leaves them open).
//!
//! Owns the pure merge. Users are still names here; [`crate::user`] looks them up.

use oci_spec::image::ImageConfiguration;

use crate::{
    config::{self, ContainerConfig},
    error::Error,
    signals,
};

pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A container's first process, all but its user's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedProcess {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    /// As [`crate::user::parse_user`] reads it; empty is root.
    pub user: String,
    pub stop_signal: i32,
}

/// Entry point and command, environment, directory, user and stop signal.
/// An entry point of the user's switches the image's command off, as in Docker.
pub fn resolve_process(
    image: &ImageConfiguration,
    wishes: &ContainerConfig,
    hostname: &str,
) -> Result<ResolvedProcess, Error> {
    let config = image.config().as_ref();
    let of_image = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    let image_entrypoint = of_image(config.and_then(|c| c.entrypoint().as_ref()));
    let image_command = of_image(config.and_then(|c| c.cmd().as_ref()));
    let mut args = match &wishes.entrypoint {
        Some(own) => own.clone(),
        None => image_entrypoint,
    };
    match (&wishes.command, &wishes.entrypoint) {
        (Some(own), _) => args.extend(own.iter().cloned()),
        (None, None) => args.extend(image_command),
        (None, Some(_)) => {}
    }
    if args.first().is_none_or(|program| program.is_empty()) {
        let allowed = "a program, since the image names none";
        return Err(Error::invalid("command", "", allowed));
    }
    let image_env = of_image(config.and_then(|c| c.env().as_ref()));
    let env = merge_env(&image_env, &wishes.env, hostname);
    let image_text = |text: Option<&Option<String>>| {
        text.and_then(Option::clone).filter(|text| !text.is_empty())
    };
    let cwd = wishes.working_dir.clone();
    let cwd = cwd.or_else(|| image_text(config.map(|c| c.working_dir())));
    let cwd = cwd.unwrap_or_else(|| "/".to_owned());
    config::check_absolute("working_dir", &cwd)?;
    let user = wishes.user.clone().or_else(|| image_text(config.map(|c| c.user())));
    let stop_signal = wishes.stop_signal.clone();
    let stop_signal = stop_signal.or_else(|| image_text(config.map(|c| c.stop_signal())));
    let stop_signal = match stop_signal {
        Some(text) => signals::parse_signal("stop_signal", &text)?,
        None => signals::SIGTERM,
    };
    config::check_texts("command", &args)?;
    config::check_texts("env", &env)?;
    Ok(ResolvedProcess { args, env, cwd, user: user.unwrap_or_default(), stop_signal })
}

/// The image's variables under the user's: `NAME=value` replaces in place,
/// `NAME` alone removes. `PATH` and `HOSTNAME` exist always.
pub fn merge_env(image: &[String], wishes: &[String], hostname: &str) -> Vec<String> {
    let mut merged = Vec::with_capacity(image.len() + wishes.len() + 2);
    set(&mut merged, DEFAULT_PATH);
    set(&mut merged, &format!("HOSTNAME={hostname}"));
    for entry in image.iter().filter(|entry| entry.contains('=')) {
        set(&mut merged, entry);
    }
    lay_over(&mut merged, wishes);
    merged
}

/// The same without what exists always: what an image is to say.
pub fn merge_environment(image: &[String], wishes: &[String]) -> Vec<String> {
    let mut merged = image.to_vec();
    lay_over(&mut merged, wishes);
    merged
}

fn lay_over(merged: &mut Vec<String>, wishes: &[String]) {
    for entry in wishes {
        if entry.contains('=') {
            set(merged, entry);
        } else {
            merged.retain(|known| name_of(known) != entry);
        }
    }
}

/// `HOME` from the user's line in `/etc/passwd` unless someone set it.
pub fn with_home(mut env: Vec<String>, home: &str) -> Vec<String> {
    if !env.iter().any(|entry| name_of(entry) == "HOME") {
        env.push(format!("HOME={home}"));
    }
    env
}

/// What a terminal understands, unless someone said it; Docker's guess.
pub fn with_term(mut env: Vec<String>, terminal: bool) -> Vec<String> {
    if terminal && !env.iter().any(|entry| name_of(entry) == "TERM") {
        env.push("TERM=xterm".to_owned());
    }
    env
}

fn name_of(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

fn set(env: &mut Vec<String>, entry: &str) {
    match env.iter_mut().find(|known| name_of(known) == name_of(entry)) {
        Some(known) => *known = entry.to_owned(),
        None => env.push(entry.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(json: &str) -> ImageConfiguration {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}},"config":{json}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn list(items: &[&str]) -> Vec<String> {
        items.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn entry_point_and_command_merge_as_dockers_do() {
        let both = image(r#"{"Entrypoint":["/e","1"],"Cmd":["c"]}"#);
        let check = |entrypoint: Option<&[&str]>, command: Option<&[&str]>, expected: &[&str]| {
            let wishes = ContainerConfig {
                entrypoint: entrypoint.map(list),
                command: command.map(list),
                ..ContainerConfig::default()
            };
            let resolved = resolve_process(&both, &wishes, "h");
            assert_eq!(resolved.unwrap().args, list(expected), "{entrypoint:?} {command:?}");
        };
        check(None, None, &["/e", "1", "c"]);
        check(None, Some(&["x", "y"]), &["/e", "1", "x", "y"]);
        check(Some(&["/own"]), None, &["/own"]);
        check(Some(&["/own"]), Some(&["x"]), &["/own", "x"]);
        check(Some(&[]), Some(&["x"]), &["x"]);
        check(None, Some(&[]), &["/e", "1"]);
    }

    #[test]
    fn no_program_at_all_is_refused() {
        let error = resolve_process(&image("{}"), &ContainerConfig::default(), "h").unwrap_err();
        assert!(error.to_string().contains("command"), "{error}");
    }

    #[test]
    fn variables_replace_remove_and_default() {
        let merged = merge_env(&list(&["A=1", "B=2", "PATH=/x"]), &list(&["B=3", "A", "C="]), "h");
        assert_eq!(merged, list(&["PATH=/x", "HOSTNAME=h", "B=3", "C="]));
        assert_eq!(with_home(list(&["HOME=/a"]), "/b"), list(&["HOME=/a"]));
        assert_eq!(with_home(vec![], "/b"), list(&["HOME=/b"]));
        assert_eq!(with_term(vec![], true), list(&["TERM=xterm"]));
        assert_eq!(with_term(list(&["TERM=vt100"]), true), list(&["TERM=vt100"]));
        assert_eq!(with_term(vec![], false), list(&[]));
    }

    #[test]
    fn the_images_word_counts_where_the_user_is_silent() {
        let image = image(
            r#"{"Cmd":["c"],"User":"app","WorkingDir":"/srv","StopSignal":"SIGINT","Env":["X=1"]}"#,
        );
        let resolved = resolve_process(&image, &ContainerConfig::default(), "h").unwrap();
        assert_eq!((resolved.user.as_str(), resolved.cwd.as_str()), ("app", "/srv"));
        assert_eq!(resolved.stop_signal, 2);
        let own = ContainerConfig {
            user: Some("0".into()),
            working_dir: Some("/".into()),
            stop_signal: Some("9".into()),
            ..ContainerConfig::default()
        };
        let resolved = resolve_process(&image, &own, "h").unwrap();
        assert_eq!((resolved.user.as_str(), resolved.cwd.as_str()), ("0", "/"));
        assert_eq!(resolved.stop_signal, 9);
    }
}
