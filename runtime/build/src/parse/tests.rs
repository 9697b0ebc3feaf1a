//! Tables: each instruction, right and wrong.

use super::*;
use crate::document::Healthcheck;

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn pair(key: &str, value: &str) -> (String, String) {
    (key.into(), value.into())
}

#[track_caller]
fn check(text: &str, expected: Instruction) {
    assert_eq!(parse(text, &[], '\\'), Ok(Parsed::Instruction(expected)), "{text}");
}

#[track_caller]
fn check_wrong(text: &str, expected: &str) {
    let error = parse(text, &[], '\\').unwrap_err();
    assert!(error.contains(expected), "{text}: {error}");
}

#[test]
fn commands_have_a_shell_form_and_an_exec_form() {
    let run = |command| Instruction::Run { command, heredocs: vec![] };
    check("RUN echo  a", run(Command::Shell("echo  a".into())));
    check("run [\"a\", \"b c\"]", run(Command::Exec(words(&["a", "b c"]))));
    check("RUN [ -f x ] && y", run(Command::Shell("[ -f x ] && y".into())));
    check("CMD [\"a\"]", Instruction::Cmd(Command::Exec(words(&["a"]))));
    check("CMD []", Instruction::Cmd(Command::Exec(vec![])));
    check("ENTRYPOINT a b", Instruction::Entrypoint(Command::Shell("a b".into())));
    check("SHELL [\"/bin/bash\", \"-c\"]", Instruction::Shell(words(&["/bin/bash", "-c"])));
    check_wrong("RUN", "RUN requires at least one argument");
    check_wrong("RUN []", "RUN requires at least one argument");
    check_wrong("CMD [1]", "strings only");
    check_wrong("SHELL bash", "SHELL requires the arguments to be in JSON form");
    check_wrong("RUN --mount=type=cache,target=/x a", "the --mount option requires BuildKit");
    check_wrong("RUN --colour=red a", "unknown flag: --colour");
}

#[test]
fn env_and_label_have_two_forms() {
    check("ENV a=1 b=\"2 3\"", Instruction::Env(vec![pair("a", "1"), pair("b", "\"2 3\"")]));
    check("ENV a 1 2", Instruction::Env(vec![pair("a", "1 2")]));
    check("LABEL a.b=c", Instruction::Label(vec![pair("a.b", "c")]));
    check("ENV a=", Instruction::Env(vec![pair("a", "")]));
    check_wrong("ENV", "ENV requires at least one argument");
    check_wrong("ENV a", "ENV must have two arguments");
    check_wrong("ENV a=1 b", "can't find = in \"b\"");
    check_wrong("LABEL =x", "LABEL names can not be blank");
}

#[test]
fn arguments_may_have_defaults() {
    let arg = |list: &[(&str, Option<&str>)]| {
        Instruction::Arg(list.iter().map(|(n, v)| ((*n).into(), v.map(Into::into))).collect())
    };
    check("ARG a", arg(&[("a", None)]));
    check("ARG a=1 b", arg(&[("a", Some("1")), ("b", None)]));
    check_wrong("ARG", "ARG requires at least one argument");
    check_wrong("ARG =1", "ARG names can not be blank");
}

#[test]
fn copies_have_sources_a_destination_and_flags() {
    let copy = |sources: &[&str], destination: &str| Copy {
        sources: words(sources),
        destination: destination.into(),
        ..Copy::default()
    };
    check("COPY a b/ c/", Instruction::Copy(copy(&["a", "b/"], "c/")));
    check("COPY [\"a b\", \"c\"]", Instruction::Copy(copy(&["a b"], "c")));
    check("ADD a.tar /", Instruction::Copy(Copy { unpack: true, ..copy(&["a.tar"], "/") }));
    let flagged = Copy {
        from: Some("build".into()),
        chown: Some("1:2".into()),
        chmod: Some("755".into()),
        ..copy(&["a"], "b")
    };
    check("COPY --from=build --chown=1:2 --chmod=755 a b", Instruction::Copy(flagged));
    let checked = Copy {
        unpack: true,
        checksum: Some("sha256:0".into()),
        ..copy(&["https://host/file"], "/")
    };
    check("ADD --checksum=sha256:0 https://host/file /", Instruction::Copy(checked));
    check_wrong("COPY --checksum=sha256:0 a b", "unknown flag: --checksum");
    check_wrong("COPY a", "COPY requires at least two arguments, but only one was provided");
    check_wrong("ADD", "ADD requires at least two arguments");
    check_wrong("ADD --from=x a b", "unknown flag: --from");
    check_wrong("COPY --chown a b", "missing a value on flag: chown");
    check_wrong("COPY --from=a --from=b a b", "duplicate flag specified: from");
    check_wrong("COPY --from=$x a b", "variable expansion is not supported for --from");
    check_wrong("COPY --link a b", "the --link option requires BuildKit");
}

#[test]
fn a_heredoc_is_a_source_of_its_own() {
    let doc = Heredoc { name: "conf".into(), content: "x\n".into(), expand: true };
    let parsed = parse("COPY <<conf /etc/conf", std::slice::from_ref(&doc), '\\').unwrap();
    let copy = Copy { heredocs: vec![doc], destination: "/etc/conf".into(), ..Copy::default() };
    assert_eq!(parsed, Parsed::Instruction(Instruction::Copy(copy)));
}

#[test]
fn single_values_are_taken_whole() {
    check("USER web:web", Instruction::User("web:web".into()));
    check("WORKDIR /a b", Instruction::Workdir("/a b".into()));
    check("STOPSIGNAL SIGINT", Instruction::StopSignal("SIGINT".into()));
    check("MAINTAINER A <a@b>", Instruction::Maintainer("A <a@b>".into()));
    check("EXPOSE 80 53/udp", Instruction::Expose(words(&["80", "53/udp"])));
    check("VOLUME /a /b", Instruction::Volume(words(&["/a", "/b"])));
    check("VOLUME [\"/a b\"]", Instruction::Volume(words(&["/a b"])));
    check_wrong("USER", "USER requires exactly one argument");
    check_wrong("VOLUME [\"\"]", "VOLUME specified can not be an empty string");
    check_wrong("EXPOSE", "EXPOSE requires at least one argument");
    check_wrong("FRM x", "unknown instruction: FRM");
}

#[test]
fn health_checks_have_options() {
    let text = "HEALTHCHECK --interval=5s --retries=2 CMD curl -f x";
    check(
        text,
        Instruction::Healthcheck(Some(Healthcheck {
            test: words(&["CMD-SHELL", "curl -f x"]),
            interval: 5_000_000_000,
            retries: 2,
            ..Healthcheck::default()
        })),
    );
    let exec = Healthcheck { test: words(&["CMD", "a", "b"]), ..Healthcheck::default() };
    check("HEALTHCHECK CMD [\"a\", \"b\"]", Instruction::Healthcheck(Some(exec)));
    check("HEALTHCHECK NONE", Instruction::Healthcheck(None));
    check_wrong("HEALTHCHECK", "requires at least one argument");
    check_wrong("HEALTHCHECK NONE x", "takes no arguments");
    check_wrong("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD");
    check_wrong("HEALTHCHECK ASK x", "Unknown type \"ASK\" in HEALTHCHECK (try CMD)");
    check_wrong("HEALTHCHECK --interval=1ns CMD x", "cannot be less than 1ms");
    check_wrong("HEALTHCHECK --retries=0 CMD x", "at least 1");
    check_wrong("HEALTHCHECK --often=1s CMD x", "unknown flag: --often");
}

#[test]
fn triggers_are_checked_when_they_are_kept() {
    let text = "COPY . /app".to_owned();
    check("ONBUILD COPY . /app", Instruction::OnBuild(Trigger { text }));
    check_wrong("ONBUILD", "ONBUILD requires exactly one argument");
    check_wrong("ONBUILD ONBUILD RUN x", "Chaining ONBUILD");
    check_wrong("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger");
    check_wrong("ONBUILD FRM x", "unknown instruction: FRM");
}

#[test]
fn from_names_a_base_and_perhaps_a_stage() {
    let check = |text: &str, base: &str, platform: Option<&str>, name: Option<&str>| {
        let expected = Parsed::From {
            base: base.into(),
            platform: platform.map(Into::into),
            name: name.map(Into::into),
        };
        assert_eq!(parse(text, &[], '\\'), Ok(expected), "{text}");
    };
    check("FROM a:1", "a:1", None, None);
    check("FROM a AS Build", "a", None, Some("build"));
    check("FROM --platform=linux/amd64 a as b", "a", Some("linux/amd64"), Some("b"));
    check_wrong("FROM", "FROM requires either one or three arguments");
    check_wrong("FROM a b", "FROM requires either one or three arguments");
    check_wrong("FROM a AS 1x", "invalid name for build stage: \"1x\"");
    check_wrong("FROM a AS scratch", "reserved stage scratch");
}
