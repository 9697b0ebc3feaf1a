//! `RUN`: a container of the image so far, whose changes become a layer.
//!
//! Owns the container from its creation to its removal, whatever happens in between: also
//! a client that goes away ends it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use tenantry_build::Run;
use tenantry_container::{ContainerConfig, CreateRequest, HealthWish, Snapshot};

use super::error::StepError;
use super::output::Output;
use super::{LABEL, Request};
use crate::api::Shared;
use crate::api::docker::attach::ended;
use crate::api::logs::{Reader, Reading, Start};

/// What a command needs of the stage besides its words.
#[derive(Debug)]
pub(super) struct Setting<'s> {
    pub image: &'s str,
    pub env: &'s [String],
    pub user: &'s str,
    pub working_dir: &'s str,
}

/// A container whose command has ended well. It must be removed.
#[derive(Debug)]
pub(super) struct Finished {
    pub id: String,
    pub upper: PathBuf,
}

/// Runs the command and shows what it writes.
///
/// # Errors
/// The container cannot be made, the command fails, the client goes away: then nothing of
/// the container is left.
pub(super) async fn run(
    app: &Shared,
    request: &Request,
    setting: &Setting<'_>,
    run: &Run,
    output: &Output,
) -> Result<Finished, StepError> {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let config = ContainerConfig {
        entrypoint: Some(Vec::new()),
        command: Some(run.args.clone()),
        env: setting.env.iter().chain(&run.env).cloned().collect(),
        user: given(setting.user),
        working_dir: given(setting.working_dir),
        labels: [(LABEL.to_owned(), "1".to_owned())].into(),
        network: request.network,
        // A step is no service, whatever its base image says.
        health: Some(HealthWish { test: vec!["NONE".to_owned()], ..HealthWish::default() }),
        ..ContainerConfig::default()
    };
    let image = setting.image.to_owned();
    let create = CreateRequest { name: None, image, config, limits: request.limits.clone() };
    let id = app.engine.create(create).await?;
    let done = follow(app, &id, run, output).await;
    match done {
        Ok(upper) => Ok(Finished { id, upper }),
        Err(error) => {
            remove(app, &id).await;
            Err(error)
        }
    }
}

/// Removes a step's container.
pub(super) async fn remove(app: &Shared, id: &str) {
    if let Err(error) = app.engine.remove(id, true).await {
        tracing::error!(container_id = id, error = error.chain(), "left by a build");
    }
}

async fn follow(app: &Shared, id: &str, run: &Run, output: &Output) -> Result<PathBuf, StepError> {
    let container = app.engine.get(id)?;
    app.introduce(&container);
    output.say(&format!(" ---> Running in {}\n", &id[..12])).await?;
    // The log must be watched before the program may write to it.
    let end = ended(app, id).await;
    let reading = Reading { from: Start::Beginning, until: Some(end), holds: true };
    let reader = Reader::open(&container.log_path(), reading);
    let mut frames = reader.map_err(StepError::file("watch the output of", id))?.into_frames();
    app.engine.start(id).await?;
    let mut text = Text::default();
    loop {
        let frame = tokio::select! {
            frame = frames.next() => frame,
            () = output.gone() => return Err(StepError::Cancelled),
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(StepError::file("read the output of", id))?;
        output.say(&text.take(&frame.payload)).await?;
    }
    output.say(&text.rest()).await?;
    let container = app.engine.get(id)?;
    let code = container.record.ended.as_ref().map_or(0, |ended| ended.code);
    if code != 0 {
        return Err(StepError::Command { command: run.args.join(" "), code });
    }
    take_away_mount_points(&container).map_err(StepError::file("tidy the changes of", id))?;
    Ok(container.upper_path())
}

/// Output in pieces that are whole characters.
#[derive(Debug, Default)]
struct Text {
    pending: Vec<u8>,
}

impl Text {
    fn take(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        // Only an end that may go on is kept back.
        let last = self.pending.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
        let may_go_on = std::str::from_utf8(last).is_err_and(|e| e.error_len().is_none());
        let whole = self.pending.len() - if may_go_on { last.len() } else { 0 };
        let rest = self.pending.split_off(whole);
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending = rest;
        text
    }

    fn rest(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

const FILES: [&str; 3] = ["etc/hosts", "etc/hostname", "etc/resolv.conf"];
const DIRECTORIES: [&str; 4] = ["etc", "dev", "proc", "sys"];

/// The runtime mounts over these, and makes those that the image lacks: they are no change
/// of the command's.
fn take_away_mount_points(container: &Snapshot) -> std::io::Result<()> {
    let upper = container.upper_path();
    for file in FILES.map(|name| upper.join(name)) {
        let empty = fs::symlink_metadata(&file).is_ok_and(|m| m.is_file() && m.len() == 0);
        if empty {
            fs::remove_file(file)?;
        }
    }
    for name in DIRECTORIES {
        let path = upper.join(name);
        let below = container.record.layers.iter().map(|layer| layer.join(name));
        let below = below.filter_map(|path| fs::symlink_metadata(path).ok()).next();
        if is_untouched(&path, below.as_ref()) {
            // It fails if something is in it, and so should stay.
            let _ = fs::remove_dir(&path);
        }
    }
    Ok(())
}

/// A directory that only stands for the one below it, or for nothing.
fn is_untouched(path: &Path, below: Option<&fs::Metadata>) -> bool {
    let mut opaque = [0; 1];
    let is_opaque = rustix::fs::lgetxattr(path, "trusted.overlay.opaque", &mut opaque[..]).is_ok();
    let looks = |metadata: &fs::Metadata| (metadata.mode(), metadata.uid(), metadata.gid());
    fs::symlink_metadata(path).is_ok_and(|own| {
        own.is_dir() && !is_opaque && below.is_none_or(|below| looks(below) == looks(&own))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_that_comes_in_two_pieces_stays_one() {
        let mut text = Text::default();
        let bytes = "aä€".as_bytes();
        let pieces: String = bytes.chunks(1).map(|piece| text.take(piece)).collect();
        assert_eq!(pieces, "aä€");
        assert_eq!(text.take(b"\xff\xe2\x82"), "\u{fffd}");
        assert_eq!(text.rest(), "\u{fffd}");
    }
}
