//! `tenantry run`: create, attach, start, and leave with the container's code.

use std::collections::HashMap;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error as DockerError;
use bollard::models::{
    ContainerCreateBody, ContainerWaitResponse, HostConfig, NetworkingConfig, PortMap,
    RestartPolicy, RestartPolicyNameEnum, ThrottleDevice,
};
use bollard::query_parameters as query;
use clap::{Args, ValueEnum};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use tenantry_compose::ports;
use tenantry_container::Limit;
use tenantry_container::units::{self, Device};
use tokio::io::AsyncWriteExt as _;

use super::flags::LimitArgs;
use super::surroundings::SurroundingArgs;
use super::{network, registry, terminal};

/// From the end of a terminal's output to the news that the container has ended.
const ENDS_WITHIN: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub struct RunFlags {
    /// Leave it running and print its id.
    #[arg(long, short)]
    detach: bool,
    /// Keep standard input open.
    #[arg(long, short)]
    interactive: bool,
    /// Give it a terminal.
    #[arg(long, short)]
    tty: bool,
    /// The keys that leave a terminal and let the container run on.
    #[arg(long, default_value = "ctrl-p,ctrl-q")]
    detach_keys: String,
    /// Remove the container when it exits.
    #[arg(long)]
    rm: bool,
    #[arg(long)]
    name: Option<String>,
    #[arg(long, short = 'H')]
    hostname: Option<String>,
    #[arg(long, short, value_name = "NAME=VALUE")]
    env: Vec<String>,
    #[arg(long, short, value_name = "NAME=VALUE")]
    label: Vec<String>,
    #[arg(long, short, value_name = "USER[:GROUP]")]
    user: Option<String>,
    #[arg(long, short)]
    workdir: Option<String>,
    #[arg(long)]
    entrypoint: Option<String>,
    /// bridge, none, host, container:NAME, or one that was made with `network create`.
    #[arg(long, visible_alias = "net", default_value = "bridge")]
    network: String,
    /// This address on its network and no other.
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// This IPv6 address and no other.
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<String>,
    /// What others on its network may call it besides its name.
    #[arg(long, value_name = "NAME")]
    network_alias: Vec<String>,
    /// What it calls another container of its network, for itself alone.
    #[arg(long, value_name = "CONTAINER:ALIAS")]
    link: Vec<String>,
    /// A port of the host that leads to one of the container: `8080:80`, `127.0.0.1:53:53/udp`,
    /// `80` (any of the host's), `8000-8010:80`.
    #[arg(long, short, value_name = "[[ADDRESS:]HOST:]CONTAINER")]
    publish: Vec<String>,
    /// All ports that the image or --expose names, on any port of the host.
    #[arg(long, short = 'P')]
    publish_all: bool,
    /// What the program listens on, such as 80 or 53/udp.
    #[arg(long, value_name = "PORT")]
    expose: Vec<String>,
    /// no, on-failure[:N], always or unless-stopped.
    #[arg(long, default_value = "no")]
    restart: String,
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// no-new-privileges, seccomp=unconfined or seccomp=FILE.
    #[arg(long)]
    security_opt: Vec<String>,
    /// `private` gives the container a user namespace, `auto` one with ids that no other has.
    #[arg(long, value_name = "MODE")]
    userns: Option<String>,
    /// A host directory or file; both paths absolute.
    #[arg(long, short, value_name = "SOURCE:TARGET[:ro]")]
    volume: Vec<String>,
    #[arg(long)]
    read_only: bool,
    #[arg(long)]
    stop_signal: Option<String>,
    /// Seconds between the stop signal and SIGKILL.
    #[arg(long)]
    stop_timeout: Option<i64>,
    /// Whether to ask the registry for the image: if it is not here, each time, or never.
    #[arg(long, value_enum, default_value_t = Pull::Missing)]
    pull: Pull,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    surroundings: SurroundingArgs,
    image: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Pull {
    Missing,
    Always,
    Never,
}

/// Sees to it that the image is here, or leaves it to the agent to say that it is not. Standard
/// output is the container's: what the pull says goes nowhere.
async fn pull(docker: &Docker, pull: Pull, image: &str) -> anyhow::Result<()> {
    let is_here = match pull {
        Pull::Never => return Ok(()),
        Pull::Always => false,
        Pull::Missing => match docker.inspect_image(image).await {
            Err(DockerError::DockerResponseServerError { status_code: 404, .. }) => false,
            other => other.map(|_| true)?,
        },
    };
    if !is_here {
        eprintln!("pulling {image}");
        registry::pull_quietly(docker, image).await?;
    }
    Ok(())
}

pub async fn run(docker: &Docker, flags: RunFlags) -> anyhow::Result<ExitCode> {
    let detach = flags.detach;
    let how = Foreground {
        interactive: flags.interactive,
        tty: flags.tty,
        rm: flags.rm,
        keys: flags.detach_keys.clone(),
    };
    if !detach {
        terminal::check_input(how.interactive, how.tty)?;
    }
    let name = flags.name.clone();
    pull(docker, flags.pull, &flags.image).await?;
    let body = create_body(flags)?;
    let options = name.map(|name| query::CreateContainerOptionsBuilder::new().name(&name).build());
    let created = docker.create_container(options, body).await?;
    for warning in &created.warnings {
        eprintln!("WARNING: {warning}");
    }
    let id = created.id;
    if detach {
        start(docker, &id).await?;
        println!("{id}");
        return Ok(ExitCode::SUCCESS);
    }
    foreground(docker, &id, how).await
}

/// How a container that was created is stayed with.
#[derive(Debug)]
pub struct Foreground {
    pub interactive: bool,
    pub tty: bool,
    /// It is removed when it ends.
    pub rm: bool,
    /// That leave it.
    pub keys: String,
}

/// Starts a container, is its terminal or its pipes, and leaves with its code.
pub async fn foreground(docker: &Docker, id: &str, how: Foreground) -> anyhow::Result<ExitCode> {
    let Foreground { interactive, tty, rm, keys } = how;
    let options = query::AttachContainerOptionsBuilder::new()
        .stdin(interactive)
        .stdout(true)
        .stderr(true)
        .stream(true)
        .detach_keys(&keys)
        .build();
    let attached = docker.attach_container(id, Some(options)).await?;
    let condition = if rm { "removed" } else { "next-exit" };
    let options = query::WaitContainerOptionsBuilder::new().condition(condition).build();
    let mut waiting = docker.wait_container(id, Some(options)).boxed();
    // The wait must be at the agent before the start: a quick program ends at once.
    // And a start that failed is told even if the wait was answered, too.
    let mut starting = std::pin::pin!(start(docker, id));
    let mut answer = None;
    loop {
        tokio::select! {
            started = &mut starting => break started?,
            first = waiting.next(), if answer.is_none() => answer = Some(first),
        }
    }
    let raw = (interactive && tty).then(terminal::Raw::enter).transpose()?;
    if interactive {
        tokio::spawn(terminal::copy_stdin(attached.input));
    }
    let resize = async |rows: u16, columns: u16| {
        let options = query::ResizeContainerTTYOptionsBuilder::new();
        let options = options.h(rows.into()).w(columns.into()).build();
        // The container may have ended just now.
        let _ = docker.resize_container_tty(id, options).await;
    };
    tokio::select! {
        copied = copy_output(attached.output) => copied?,
        () = terminal::follow_size(resize), if tty => {}
    }
    drop(raw);
    if tty && answer.is_none() {
        // The output ends with the container, or by the keys.
        answer = tokio::time::timeout(ENDS_WITHIN, waiting.next()).await.ok();
        let state = docker.inspect_container(id, None::<query::InspectContainerOptions>).await;
        let state = state.ok().and_then(|container| container.state);
        if answer.is_none() && state.and_then(|state| state.running) == Some(true) {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let answer = match answer {
        Some(answer) => answer,
        None => waiting.next().await,
    };
    let code = exit_code(answer.context("the agent ended the wait without an answer")?)?;
    Ok(ExitCode::from(code as u8))
}

pub async fn start(docker: &Docker, id: &str) -> Result<(), DockerError> {
    docker.start_container(id, None::<query::StartContainerOptions>).await
}

/// The code of an answered wait. The client library makes an error of a code
/// that is not zero.
pub fn exit_code(answer: Result<ContainerWaitResponse, DockerError>) -> anyhow::Result<i64> {
    match answer {
        Ok(answer) => Ok(answer.status_code),
        Err(DockerError::DockerContainerWaitError { code, .. }) => Ok(code),
        Err(error) => Err(error.into()),
    }
}

pub async fn copy_output(
    mut output: Pin<Box<dyn Stream<Item = Result<LogOutput, DockerError>> + Send>>,
) -> anyhow::Result<()> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    while let Some(piece) = output.try_next().await? {
        match piece {
            LogOutput::StdErr { message } => stderr.write_all(&message).await?,
            other => stdout.write_all(&other.into_bytes()).await?,
        }
        stdout.flush().await?;
    }
    Ok(())
}

fn create_body(flags: RunFlags) -> anyhow::Result<ContainerCreateBody> {
    let mut labels = HashMap::new();
    for label in &flags.label {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        labels.insert(name.to_owned(), value.to_owned());
    }
    // The Docker API has no field for bandwidth.
    for (label, rate) in
        [("tenantry.egress", &flags.limits.egress), ("tenantry.ingress", &flags.limits.ingress)]
    {
        if let Some(rate) = rate {
            labels.insert(label.to_owned(), rate.clone());
        }
    }
    let networking_config =
        (flags.ip.is_some() || flags.ip6.is_some() || !flags.network_alias.is_empty()).then(|| {
            let endpoint = network::endpoint(flags.ip, flags.ip6, flags.network_alias);
            let endpoints = HashMap::from([(flags.network.clone(), endpoint)]);
            NetworkingConfig { endpoints_config: Some(endpoints) }
        });
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    let port_bindings = Some(port_bindings(&flags.publish)?);
    let healthcheck = flags.surroundings.health()?;
    let surroundings = flags.surroundings;
    let mut body = ContainerCreateBody {
        healthcheck,
        exposed_ports: some(flags.expose),
        image: Some(flags.image),
        cmd: some(flags.command),
        entrypoint: flags.entrypoint.map(|program| vec![program]),
        env: Some(flags.env),
        hostname: flags.hostname,
        user: flags.user,
        working_dir: flags.workdir,
        labels: Some(labels),
        attach_stdin: Some(flags.interactive),
        open_stdin: Some(flags.interactive),
        tty: Some(flags.tty),
        stdin_once: Some(flags.interactive),
        attach_stdout: Some(!flags.detach),
        attach_stderr: Some(!flags.detach),
        networking_config,
        stop_signal: flags.stop_signal,
        stop_timeout: flags.stop_timeout,
        host_config: Some(HostConfig {
            auto_remove: Some(flags.rm),
            console_size: terminal::size().map(|(rows, columns)| vec![rows.into(), columns.into()]),
            network_mode: Some(flags.network),
            links: some(flags.link),
            port_bindings,
            publish_all_ports: Some(flags.publish_all),
            restart_policy: Some(restart_policy(&flags.restart)?),
            binds: some(flags.volume),
            cap_add: some(flags.cap_add),
            cap_drop: some(flags.cap_drop),
            security_opt: some(security_options(flags.security_opt)?),
            userns_mode: flags.userns,
            readonly_rootfs: Some(flags.read_only),
            nano_cpus: cpus(flags.limits.cpus.as_deref())?,
            memory: size(flags.limits.memory.as_deref())?,
            pids_limit: count(flags.limits.pids.as_deref())?,
            blkio_device_read_bps: throttles("--io-read", &flags.limits.io_read)?,
            blkio_device_write_bps: throttles("--io-write", &flags.limits.io_write)?,
            blkio_device_read_iops: throttles("--io-read-ops", &flags.limits.io_read_ops)?,
            blkio_device_write_iops: throttles("--io-write-ops", &flags.limits.io_write_ops)?,
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    surroundings.apply(body.host_config.get_or_insert_default())?;
    Ok(body)
}

fn port_bindings(texts: &[String]) -> anyhow::Result<PortMap> {
    let mut map = PortMap::new();
    for text in texts {
        ports::bind(&mut map, text).map_err(|wrong| anyhow::anyhow!("--publish {wrong}"))?;
    }
    Ok(map)
}

/// A seccomp profile is read here, as Docker's client does: its path is this machine's, and
/// the agent gets the text.
pub fn security_options(options: Vec<String>) -> anyhow::Result<Vec<String>> {
    let with_text = |option: String| {
        let Some(("seccomp", value)) = option.split_once(['=', ':']) else { return Ok(option) };
        if matches!(value, "unconfined" | "builtin") || value.trim_start().starts_with('{') {
            return Ok(option);
        }
        let text = std::fs::read_to_string(value)
            .with_context(|| format!("--security-opt: the seccomp profile {value}"))?;
        Ok(format!("seccomp={text}"))
    };
    options.into_iter().map(with_text).collect()
}

fn restart_policy(text: &str) -> anyhow::Result<RestartPolicy> {
    let (name, retries) = match text.split_once(':') {
        Some((name, retries)) => (name, Some(retries)),
        None => (text, None),
    };
    let name = match name {
        "no" => RestartPolicyNameEnum::NO,
        "on-failure" => RestartPolicyNameEnum::ON_FAILURE,
        "always" => RestartPolicyNameEnum::ALWAYS,
        "unless-stopped" => RestartPolicyNameEnum::UNLESS_STOPPED,
        _ => anyhow::bail!(
            "--restart {text:?} is not allowed: no, on-failure[:N], always or unless-stopped"
        ),
    };
    anyhow::ensure!(
        retries.is_none() || name == RestartPolicyNameEnum::ON_FAILURE,
        "--restart {text:?} is not allowed: only on-failure takes a number of retries"
    );
    let maximum_retry_count = retries
        .map(str::parse)
        .transpose()
        .with_context(|| format!("--restart {text:?}: the number of retries"))?;
    Ok(RestartPolicy { name: Some(name), maximum_retry_count })
}

/// Docker's word for "no limit" is zero, in every field below.
fn unlimited_is_zero<T>(limit: Limit<T>, number: impl FnOnce(T) -> i64) -> i64 {
    match limit {
        Limit::Unlimited => 0,
        Limit::Value(value) => number(value),
    }
}

fn cpus(text: Option<&str>) -> anyhow::Result<Option<i64>> {
    let Some(text) = text else { return Ok(None) };
    let limit = units::parse_cpus_limit("--cpus", text)?;
    Ok(Some(unlimited_is_zero(limit, |cpus| (cpus * 1e9).round() as i64)))
}

fn size(text: Option<&str>) -> anyhow::Result<Option<i64>> {
    let Some(text) = text else { return Ok(None) };
    let limit = units::parse_bytes_limit("--memory", text)?;
    Ok(Some(unlimited_is_zero(limit, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX))))
}

fn count(text: Option<&str>) -> anyhow::Result<Option<i64>> {
    let Some(text) = text else { return Ok(None) };
    let limit = units::parse_count_limit("--pids", text)?;
    Ok(Some(unlimited_is_zero(limit, |pids| i64::try_from(pids).unwrap_or(i64::MAX))))
}

fn throttles(flag: &str, texts: &[String]) -> anyhow::Result<Option<Vec<ThrottleDevice>>> {
    let throttle = |text: &String| {
        let (device, rate) = units::parse_device_rate(flag, text)?;
        let path = match device {
            Device::Path(path) => path.display().to_string(),
            Device::Number { major, minor } => format!("/dev/block/{major}:{minor}"),
        };
        let rate = unlimited_is_zero(rate, |rate| i64::try_from(rate).unwrap_or(i64::MAX));
        Ok(ThrottleDevice { path: Some(path), rate: Some(rate) })
    };
    let list: Vec<_> = texts.iter().map(throttle).collect::<anyhow::Result<_>>()?;
    Ok((!list.is_empty()).then_some(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_policy_is_read_as_docker_reads_it() {
        let policy = restart_policy("on-failure:3").unwrap();
        assert_eq!(policy.name, Some(RestartPolicyNameEnum::ON_FAILURE));
        assert_eq!(policy.maximum_retry_count, Some(3));
        for wrong in ["sometimes", "always:3", "on-failure:x"] {
            let error = format!("{:#}", restart_policy(wrong).unwrap_err());
            assert!(error.contains("--restart") && error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn a_seccomp_profile_is_sent_as_its_text() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{}\n").unwrap();
        let path = file.path().display();
        let check = |option: String, expected: &str| {
            assert_eq!(security_options(vec![option]).unwrap(), [expected]);
        };
        check(format!("seccomp={path}"), "seccomp={}\n");
        check(format!("seccomp:{path}"), "seccomp={}\n");
        check("seccomp=unconfined".into(), "seccomp=unconfined");
        check("seccomp={}".into(), "seccomp={}");
        check("no-new-privileges".into(), "no-new-privileges");
        let error = security_options(vec!["seccomp=/missing".into()]).unwrap_err();
        assert!(format!("{error:#}").contains("/missing"), "{error:#}");
    }

    #[test]
    fn a_throttle_without_a_device_says_what_is_allowed() {
        let error = throttles("--io-read", &["10m".into()]).unwrap_err().to_string();
        assert!(error.contains("DEVICE:RATE"), "{error}");
    }
}
