//! Dockerfiles, applied: the configuration that comes of them.

use super::*;
use crate::dockerfile::Dockerfile;

/// The stage after all of its instructions, and their effects but the empty ones.
fn built(text: &str, given: &[(&str, &str)]) -> Result<(Stage, Vec<Effect>), String> {
    let file =
        Dockerfile::parse(format!("FROM x\n{text}").as_bytes()).map_err(|e| e.to_string())?;
    let given = given.iter().map(|(n, v)| ((*n).to_owned(), Some((*v).to_owned()))).collect();
    let mut arguments = Arguments::new(given, "amd64");
    let config = Config {
        env: vec!["PATH=/bin".into(), "FROM_BASE=base".into()],
        cmd: Some(vec!["base".into()]),
        ..Config::default()
    };
    let mut stage = Stage::new(Document { config, ..Document::default() }, file.escape);
    let mut effects = Vec::new();
    for step in &file.stages[0].steps {
        match stage.apply(&step.instruction, &mut arguments)? {
            Effect::Nothing => {}
            effect => effects.push(effect),
        }
    }
    Ok((stage, effects))
}

fn config(text: &str) -> Config {
    built(text, &[]).unwrap().0.document.config
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[test]
fn variables_of_the_image_hide_arguments() {
    let text =
        "ARG A=1\nENV B=$A$FROM_BASE\nENV A=2 C=$A\nENV PATH=$PATH:/x D=$A\nLABEL l=\"$A $B\"";
    let config = config(text);
    let env = ["PATH=/bin:/x", "FROM_BASE=base", "B=1base", "A=2", "C=1", "D=2"];
    assert_eq!(config.env, words(&env));
    assert_eq!(config.labels["l"], "2 1base");
}

#[test]
fn a_command_goes_to_the_shell_unless_it_is_a_list() {
    let config = config("SHELL [\"/bin/ash\", \"-ec\"]\nCMD a b\nENTRYPOINT [\"e\"]");
    assert_eq!(config.cmd, Some(words(&["/bin/ash", "-ec", "a b"])));
    assert_eq!(config.entrypoint, Some(words(&["e"])));
    assert_eq!(config.shell, Some(words(&["/bin/ash", "-ec"])));
}

#[test]
fn an_entry_point_takes_the_bases_command_away_and_not_the_stages() {
    assert_eq!(config("ENTRYPOINT [\"e\"]").cmd, None);
    assert_eq!(config("CMD [\"c\"]\nENTRYPOINT [\"e\"]").cmd, Some(words(&["c"])));
    assert_eq!(config("").cmd, Some(words(&["base"])));
}

#[test]
fn working_directories_add_up() {
    let (stage, effects) = built("WORKDIR a\nWORKDIR ../b/$FROM_BASE\nWORKDIR /c", &[]).unwrap();
    let dirs = ["/a", "/b/base", "/c"].map(|dir| Effect::Workdir(dir.into()));
    assert_eq!(effects, dirs);
    assert_eq!(stage.document.config.working_dir, "/c");
}

#[test]
fn what_a_command_sees_of_arguments_is_in_its_key_but_for_proxies() {
    let given = [("A", "1"), ("http_proxy", "p"), ("FROM_BASE", "x"), ("UNDECLARED", "u")];
    let (_, effects) = built("ARG A\nARG FROM_BASE\nARG EMPTY\nRUN echo $A", &given).unwrap();
    let expected = Run {
        args: words(&["/bin/sh", "-c", "echo $A"]),
        env: words(&["A=1", "http_proxy=p"]),
        declared: words(&["A=1"]),
    };
    assert_eq!(effects, [Effect::Run(expected)]);
}

#[test]
fn heredocs_are_scripts_or_the_shells_own() {
    let args = |text: &str| match &built(text, &[]).unwrap().1[..] {
        [Effect::Run(run)] => run.args[2].clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(args("RUN <<EOF\na\nb\nEOF\n"), "a\nb\n");
    assert_eq!(args("RUN cat <<EOF > /x\na\nEOF\n"), "cat <<EOF > /x\na\nEOF\n");
    let error = built("RUN <<EOF\n#!/usr/bin/python\nEOF\n", &[]).unwrap_err();
    assert!(error.contains("#!"), "{error}");
}

#[test]
fn a_copied_heredoc_has_its_variables_unless_it_is_quoted() {
    let (_, effects) = built("COPY <<a <<'b' /x/\n$FROM_BASE\na\n$FROM_BASE\nb\n", &[]).unwrap();
    let [Effect::Copy(copy)] = &effects[..] else { panic!("{effects:?}") };
    let contents: Vec<&str> = copy.heredocs.iter().map(|doc| doc.content.as_str()).collect();
    assert_eq!(contents, ["base\n", "$FROM_BASE\n"]);
    assert!(copy.sources.is_empty());
}

#[test]
fn the_rest_goes_into_the_configuration() {
    let (stage, effects) = built(
        "MAINTAINER me\nEXPOSE 80 53/udp\nVOLUME /a [b\nUSER web\nSTOPSIGNAL SIGINT\n\
         HEALTHCHECK NONE\nONBUILD RUN x\nENV e ' a  b '",
        &[],
    )
    .unwrap();
    let config = &stage.document.config;
    assert!(effects.is_empty());
    assert_eq!(stage.document.author, "me");
    assert_eq!(config.exposed_ports.keys().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
    assert_eq!(config.volumes.keys().collect::<Vec<_>>(), ["/a", "[b"]);
    assert_eq!((config.user.as_str(), config.stop_signal.as_str()), ("web", "SIGINT"));
    assert_eq!(config.healthcheck.as_ref().unwrap().test, ["NONE"]);
    assert_eq!(config.on_build, ["RUN x"]);
    assert_eq!(config.env.last().unwrap(), "e= a  b ");
}

#[test]
fn wrong_values_are_named() {
    let check = |text: &str, expected: &str| {
        let error = built(text, &[]).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    };
    check("EXPOSE web", "invalid containerPort: web");
    check("STOPSIGNAL SIGFLY", "invalid signal: SIGFLY");
    check("ENV a=\"${b:?no b}\"", "b: no b");
    check("VOLUME $nothing''", "VOLUME specified can not be an empty string");
    check("LABEL a='x", "single-quote");
}
