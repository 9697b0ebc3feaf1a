//! Exec: a further process in a running container.
//!
//! Docker makes it in two requests, so what was created and not started yet, and
//! what ended, is remembered here, bounded; the processes are the engine's.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Json;
use axum::extract::{FromRequest as _, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use bollard::models::ExecConfig;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tenantry_container::{Action, ExecHandle, ExecRequest, ExecStdio, WindowSize, set_size};
use tenantry_shim::log::Stream as Source;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, WriteHalf};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::super::{Shared, is_running, logs};
use super::attach::{RawStream, feed, opened, upgrade};
use super::terminal::{self, Keys, Left, ResizeQuery};
use crate::api::error::{ApiError, ApiResult};

/// The oldest are forgotten first.
const MOST_EXECS: usize = 4096;

#[derive(Debug, Default)]
pub struct Execs {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<String, Exec>,
    order: VecDeque<String>,
}

#[derive(Clone, Debug)]
struct Exec {
    container: String,
    config: ExecConfig,
    pid: Option<i32>,
    code: Option<i32>,
    /// While it runs, if it has one.
    terminal: Option<Arc<OwnedFd>>,
}

impl Exec {
    fn size(&self) -> WindowSize {
        terminal::console_size(self.config.console_size.as_deref())
    }

    fn has_terminal(&self) -> bool {
        self.config.tty == Some(true)
    }
}

impl Execs {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, exec: Exec) -> ApiResult<String> {
        let mut bytes = [0; 32];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(ApiError::internal)?;
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut table = self.lock();
        table.by_id.insert(id.clone(), exec);
        table.order.push_back(id.clone());
        if table.order.len() > MOST_EXECS
            && let Some(oldest) = table.order.pop_front()
        {
            table.by_id.remove(&oldest);
        }
        Ok(id)
    }

    fn get(&self, id: &str) -> ApiResult<Exec> {
        let unknown = || ApiError::new(StatusCode::NOT_FOUND, format!("no such exec: {id}"));
        self.lock().by_id.get(id).cloned().ok_or_else(unknown)
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Exec)) {
        if let Some(exec) = self.lock().by_id.get_mut(id) {
            change(exec);
        }
    }
}

pub async fn create(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Json(config): Json<ExecConfig>,
) -> ApiResult<Response> {
    let container = app.engine.get(&id)?;
    if !is_running(&container) {
        let reason = format!("container {} is not running", container.record.name);
        return Err(ApiError::new(StatusCode::CONFLICT, reason));
    }
    if container.record.paused {
        // Here and not at the start: the client has switched protocols by then and shows no reason.
        let name = &container.record.name;
        let reason = format!("Container {name} is paused, unpause the container before exec");
        return Err(ApiError::new(StatusCode::CONFLICT, reason));
    }
    Keys::parse(config.detach_keys.as_deref())?;
    if config.privileged == Some(true) {
        return Err(ApiError::unsupported("Privileged", "more than the container itself may"));
    }
    if config.cmd.as_ref().is_none_or(Vec::is_empty) {
        return Err(ApiError::invalid("Cmd", "", "a program and its arguments"));
    }
    let container = container.record.id.clone();
    let exec = Exec { container, config, pid: None, code: None, terminal: None };
    let answer = Json(json!({ "Id": app.execs.insert(exec)? }));
    Ok((StatusCode::CREATED, answer).into_response())
}

pub async fn inspect(State(app): State<Shared>, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    let exec = app.execs.get(&id)?;
    Ok(Json(json!({
        "ID": id,
        "ContainerID": exec.container,
        "Running": exec.pid.is_some() && exec.code.is_none(),
        "Pid": exec.pid.unwrap_or(0),
        "ExitCode": exec.code,
        "OpenStdin": exec.config.attach_stdin.unwrap_or(false),
        "OpenStdout": exec.config.attach_stdout.unwrap_or(false),
        "OpenStderr": exec.config.attach_stderr.unwrap_or(false),
        "ProcessConfig": { "entrypoint": exec.config.cmd.as_ref().map(|cmd| &cmd[0]), "tty": exec.has_terminal() },
    })))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StartBody {
    #[serde(rename = "Detach")]
    detach: bool,
    #[serde(rename = "ConsoleSize")]
    console_size: Option<Vec<usize>>,
}

/// `POST /exec/{id}/resize`.
pub async fn resize(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<ResizeQuery>,
) -> ApiResult<StatusCode> {
    let exec = app.execs.get(&id)?;
    match exec.terminal {
        Some(master) => set_size(&master, query.into())?,
        None if exec.pid.is_some() && exec.code.is_none() => {}
        None => return Err(ApiError::new(StatusCode::CONFLICT, format!("exec {id} does not run"))),
    }
    Ok(StatusCode::OK)
}

pub async fn start(
    State(app): State<Shared>,
    Path(id): Path<String>,
    mut request: Request,
) -> ApiResult<Response> {
    let mut exec = app.execs.get(&id)?;
    if exec.pid.is_some() {
        return Err(ApiError::new(StatusCode::CONFLICT, format!("exec {id} was started before")));
    }
    let body = std::mem::take(request.body_mut());
    let body = Bytes::from_request(Request::new(body), &app)
        .await
        .map_err(|e| ApiError::new(e.status(), e.body_text()))?;
    let body: StartBody = match body.is_empty() {
        true => StartBody::default(),
        false => serde_json::from_slice(&body)
            .map_err(|e| ApiError::new(StatusCode::BAD_REQUEST, e.to_string()))?,
    };
    if body.console_size.is_some() {
        exec.config.console_size = body.console_size;
    }
    if exec.has_terminal() {
        return start_with_terminal(app, id, exec, (!body.detach).then_some(request)).await;
    }
    if body.detach {
        let null = || std::fs::File::options().read(true).write(true).open("/dev/null");
        let stdio = || {
            let (stdin, stdout, stderr) = (null()?.into(), null()?.into(), null()?.into());
            Ok::<_, std::io::Error>(ExecStdio::Pipes { stdin, stdout, stderr })
        };
        let handle = run(&app, &id, &exec, stdio().map_err(ApiError::internal)?).await?;
        tokio::spawn(finish(app, id, handle));
        return Ok(StatusCode::OK.into_response());
    }
    let interactive = exec.config.attach_stdin.unwrap_or(false);
    let (stdio, ends) = open_pipes(interactive).map_err(ApiError::internal)?;
    let (response, upgrade) = upgrade(request, false)?;
    let handle = run(&app, &id, &exec, stdio).await?;
    tokio::spawn(async move {
        let Some(upgraded) = opened(upgrade).await else { return };
        let (reader, mut writer) = tokio::io::split(hyper_util::rt::TokioIo::new(upgraded));
        if let Some(stdin) = ends.stdin {
            tokio::spawn(feed(reader, stdin));
        }
        copy_output(&mut writer, ends.stdout, ends.stderr).await;
        // The client asks for the exit code as soon as the stream ends.
        finish(app, id, handle).await;
        let _ = writer.shutdown().await;
    });
    Ok(response)
}

/// Without a request nobody reads and types. What the process says is read to its end all the
/// same: the last copy of a terminal that is closed hangs it up.
async fn start_with_terminal(
    app: Shared,
    id: String,
    exec: Exec,
    request: Option<Request>,
) -> ApiResult<Response> {
    let keys = Keys::parse(exec.config.detach_keys.as_deref())?;
    let upgraded = request.map(|request| upgrade(request, true)).transpose()?;
    let mut handle = run(&app, &id, &exec, ExecStdio::Terminal(exec.size())).await?;
    let missing = || ApiError::internal("the process has no terminal");
    let master = handle.take_terminal().ok_or_else(missing)?;
    let copy = || master.try_clone().map_err(ApiError::internal);
    let (reading, typing) = (copy()?, copy()?);
    app.execs.change(&id, |exec| exec.terminal = Some(Arc::new(master)));
    let (response, upgrade) = match upgraded {
        Some((response, upgrade)) => (response, Some(upgrade)),
        None => (StatusCode::OK.into_response(), None),
    };
    let interactive = exec.config.attach_stdin.unwrap_or(false);
    tokio::spawn(async move {
        let upgraded = match upgrade {
            Some(upgrade) => opened(upgrade).await,
            None => None,
        };
        let (leave, left) = oneshot::channel();
        let mut writer = None;
        if let Some(upgraded) = upgraded {
            let (reader, half) = tokio::io::split(hyper_util::rt::TokioIo::new(upgraded));
            writer = Some(half);
            if interactive {
                tokio::spawn(async move {
                    if terminal::type_into(reader, typing, keys).await == Left::Detached {
                        let _ = leave.send(());
                    }
                });
            }
        }
        let detached = async {
            if left.await.is_err() {
                std::future::pending::<()>().await;
            }
            let command = exec.config.cmd.as_deref().unwrap_or_default().join(" ");
            let _ =
                app.engine.note(&exec.container, Action::ExecDetach, &[("execCommand", command)]);
        };
        show_terminal(&mut writer, reading, detached).await;
        finish(app, id, handle).await;
        if let Some(mut writer) = writer {
            let _ = writer.shutdown().await;
        }
    });
    Ok(response)
}

/// Copies a terminal's output to its end, from `detached` on to nobody.
async fn show_terminal(
    writer: &mut Option<WriteHalf<RawStream>>,
    master: OwnedFd,
    detached: impl Future<Output = ()>,
) {
    // No pipe, but it waits and is read just the same.
    let Ok(mut master) = pipe::Receiver::from_owned_fd_unchecked(master) else { return };
    let mut piece = vec![0; 32 << 10];
    let mut detached = std::pin::pin!(detached);
    let mut left = false;
    loop {
        let read = tokio::select! {
            () = &mut detached, if !left => {
                left = true;
                if let Some(mut writer) = writer.take() {
                    let _ = writer.shutdown().await;
                }
                continue;
            }
            read = master.read(&mut piece) => read,
        };
        // EIO: the last process of the terminal has closed it.
        let Ok(length @ 1..) = read else { return };
        if let Some(open) = writer
            && open.write_all(&piece[..length]).await.is_err()
        {
            *writer = None;
        }
    }
}

async fn run(app: &Shared, id: &str, exec: &Exec, stdio: ExecStdio) -> ApiResult<ExecHandle> {
    let request = ExecRequest {
        args: exec.config.cmd.clone().unwrap_or_default(),
        env: exec.config.env.clone().unwrap_or_default(),
        working_dir: exec.config.working_dir.clone().filter(|dir| !dir.is_empty()),
        user: exec.config.user.clone().filter(|user| !user.is_empty()),
    };
    let started = app.engine.exec(&exec.container, request, stdio).await;
    if let Err(error) = &started
        && let Some(code) = error.exit_code()
    {
        app.execs.change(id, |exec| exec.code = Some(code));
    }
    let handle = started?;
    app.execs.change(id, |exec| exec.pid = Some(handle.pid));
    Ok(handle)
}

async fn finish(app: Shared, id: String, handle: ExecHandle) {
    let code = match handle.wait().await {
        Ok(status) => status.code,
        Err(error) => {
            tracing::warn!(exec_id = id, error = %error.chain(), "exit status of an exec is lost");
            255
        }
    };
    app.execs.change(&id, |exec| (exec.code, exec.terminal) = (Some(code), None));
}

/// Our ends of the process's pipes.
struct Ends {
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

fn open_pipes(interactive: bool) -> std::io::Result<(ExecStdio, Ends)> {
    use rustix::pipe::{PipeFlags, pipe_with};
    let (stdin, stdin_end) = match interactive {
        true => pipe_with(PipeFlags::CLOEXEC).map(|(read, write)| (read, Some(write)))?,
        false => (std::fs::File::open("/dev/null")?.into(), None),
    };
    let (stdout_end, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr_end, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    let ends = Ends { stdin: stdin_end, stdout: stdout_end, stderr: stderr_end };
    Ok((ExecStdio::Pipes { stdin, stdout, stderr }, ends))
}

async fn copy_output(writer: &mut WriteHalf<RawStream>, stdout: OwnedFd, stderr: OwnedFd) {
    let (Ok(mut stdout), Ok(mut stderr)) =
        (pipe::Receiver::from_owned_fd(stdout), pipe::Receiver::from_owned_fd(stderr))
    else {
        return;
    };
    let (mut out_piece, mut err_piece) = (vec![0; 32 << 10], vec![0; 32 << 10]);
    let (mut out_open, mut err_open) = (true, true);
    while out_open || err_open {
        let (source, read) = tokio::select! {
            read = stdout.read(&mut out_piece), if out_open => (Source::Stdout, read),
            read = stderr.read(&mut err_piece), if err_open => (Source::Stderr, read),
        };
        let length = read.unwrap_or(0);
        let (piece, open) = match source {
            Source::Stdout => (&out_piece, &mut out_open),
            Source::Stderr => (&err_piece, &mut err_open),
        };
        *open = length > 0;
        let payload = Bytes::copy_from_slice(&piece[..length]);
        let frame = logs::Frame { source, unix_ns: 0, payload };
        if length > 0 && writer.write_all(&logs::multiplexed(&frame, false)).await.is_err() {
            return;
        }
    }
}
