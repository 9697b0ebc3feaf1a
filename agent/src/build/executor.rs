//! The stages that a target needs, one after the other, step by step.
//!
//! Owns the walk: what the cache knows is taken from it, what it does not is carried out
//! and put into it. A step that changes files makes an image at once, since the next may
//! run in it and the next build may begin there; steps that change the configuration alone
//! go into the next image, or into one of their own at the stage's end.

mod stage;

use std::collections::BTreeMap;
use std::sync::Arc;

use tenantry_build::{Arguments, Dockerfile, Instruction, Origin};
use tokio::sync::OwnedSemaphorePermit;

use super::context::Context;
use super::error::{BuildError, StepError};
use super::output::Output;
use super::scratch::Scratch;
use super::{Builds, Request};
use crate::api::Shared;
use crate::api::docker::system::go_arch;
use stage::Building;

/// Everything of one build. Dropped, it leaves nothing but images and the cache.
#[derive(Debug)]
struct Build {
    app: Shared,
    request: Request,
    file: Dockerfile,
    context: Context,
    scratch: Arc<Scratch>,
    output: Output,
    arguments: Arguments,
    held: Held,
    built: BTreeMap<usize, Building>,
    step: usize,
    steps: usize,
}

impl Builds {
    /// Waits for a turn; dropped with what it returns.
    pub async fn turn(&self) -> OwnedSemaphorePermit {
        let turns = Arc::clone(&self.turns);
        turns.acquire_owned().await.expect("the semaphore is never closed")
    }
}

/// Builds, and tells `output` all of it, a failure too. Runs to its end in a task of its
/// own; a client that has gone ends it at the next step, and a command at once.
pub async fn build(
    app: Shared,
    request: Request,
    file: Dockerfile,
    context: Context,
    scratch: Scratch,
    output: Output,
) {
    let build = Build {
        arguments: Arguments::new(request.arguments.clone(), go_arch()),
        held: Held { app: app.clone(), ids: Vec::new() },
        scratch: Arc::new(scratch),
        built: BTreeMap::new(),
        step: 0,
        steps: 0,
        app: app.clone(),
        output: output.clone(),
        request,
        file,
        context,
    };
    let done = build.whole().await;
    app.builds.cache().write();
    if let Err(error) = done {
        tracing::info!(error = error.message(), cancelled = error.is_cancelled(), "build failed");
        // A client that has gone hears nothing.
        let _ = output.error(error.code(), &error.message()).await;
    }
}

impl Build {
    async fn whole(mut self) -> Result<(), BuildError> {
        self.file.declare_head(&mut self.arguments)?;
        let needed = self.file.needed(self.request.target.as_deref(), &self.arguments)?;
        let target = *needed.last().ok_or_else(|| internal("no stage is needed"))?;
        let labels = usize::from(!self.request.labels.is_empty());
        let of_stages = needed.iter().map(|stage| 1 + self.file.stages[*stage].steps.len());
        self.steps = self.file.head.len() + of_stages.sum::<usize>() + labels;
        for index in 0..self.file.head.len() {
            let text = self.file.head[index].text.clone();
            self.begin(&text).await?;
        }
        for stage in needed {
            let built = self.stage(stage, stage == target).await?;
            self.built.insert(stage, built);
        }
        let image = self.built.remove(&target).and_then(|built| built.image);
        let nothing = || internal("No image was generated. Is your Dockerfile empty?");
        let image = image.ok_or_else(nothing)?;
        let unused = self.arguments.unused();
        if !unused.is_empty() {
            let unused = unused.join(" ");
            let text = format!("[Warning] One or more build-args [{unused}] were not consumed\n");
            self.output.say(&text).await?;
        }
        self.name(&image).await
    }

    /// Gives the image its names, and tells them.
    async fn name(&self, image: &str) -> Result<(), BuildError> {
        let (app, names, id) = (self.app.clone(), self.request.names.clone(), image.to_owned());
        let tag = move || names.iter().map(|name| app.images.tag(&id, name)).collect();
        let tagged: Result<Vec<String>, _> = blocking(tag).await.map_err(internal)?;
        let tagged = tagged?;
        self.output.id(image).await?;
        if self.request.quiet {
            return Ok(self.output.tell(&format!("{image}\n")).await?);
        }
        self.output.tell(&format!("Successfully built {}\n", short(image))).await?;
        for name in tagged {
            self.output.tell(&format!("Successfully tagged {name}\n")).await?;
        }
        Ok(())
    }

    async fn begin(&mut self, text: &str) -> Result<(), BuildError> {
        self.step += 1;
        let line = format!("Step {}/{} : {text}\n", self.step, self.steps);
        Ok(self.output.say(&line).await?)
    }

    /// One stage, from its base to an image.
    async fn stage(&mut self, index: usize, is_target: bool) -> Result<Building, BuildError> {
        let text = self.file.stages[index].clone();
        self.begin(&text.text).await?;
        let origin = self.file.base(index, &self.arguments)?;
        let platform = self.file.platform(index, &self.arguments)?;
        let at_from = |source| self.at(text.line, source);
        let mut building = match &origin {
            Origin::Stage(earlier) => self.built[earlier].again(self.file.escape),
            Origin::Scratch => Building::scratch(self.file.escape),
            Origin::Image(name) => {
                check_platform(platform.as_deref()).map_err(at_from)?;
                self.base(name).await.map_err(at_from)?
            }
        };
        if let Some(image) = &building.image {
            self.held.hold(image);
        }
        let shown = building.image.as_deref().map_or("", short);
        self.output.say(&format!(" ---> {shown}\n")).await?;
        self.triggers(index, &mut building).await.map_err(|source| self.at(text.line, source))?;
        for step in &text.steps {
            self.begin(&step.text).await?;
            let done = self.instruction(index, &mut building, &step.instruction, &step.text).await;
            done.map_err(|source| self.at(step.line, source))?;
        }
        if is_target && !self.request.labels.is_empty() {
            let labels: Vec<(String, String)> = self.request.labels.clone().into_iter().collect();
            let words: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let step = format!("LABEL {}", words.join(" "));
            self.begin(&step).await?;
            let labelled = self.labels(&mut building, labels, &step).await;
            labelled.map_err(|source| self.at(text.line, source))?;
        }
        self.finish(&mut building).await.map_err(|source| self.at(text.line, source))?;
        Ok(building)
    }

    async fn triggers(&mut self, index: usize, building: &mut Building) -> Result<(), StepError> {
        let triggers = building.state.take_triggers();
        if triggers.is_empty() {
            return Ok(());
        }
        let plural = if triggers.len() == 1 { "" } else { "s" };
        let line = format!("# Executing {} build trigger{plural}\n", triggers.len());
        self.output.say(&line).await?;
        for text in triggers {
            let instruction: Instruction = tenantry_build::parse_trigger(&text)
                .map_err(|reason| StepError::Instruction(format!("ONBUILD {text}: {reason}")))?;
            self.instruction(index, building, &instruction, &text).await?;
        }
        Ok(())
    }

    fn at(&self, line: usize, source: StepError) -> BuildError {
        let file = self.request.dockerfile.clone();
        match source {
            StepError::Cancelled => BuildError::Cancelled,
            source => BuildError::Step { file, line, source },
        }
    }
}

/// Images that this build relies on, as long as it lasts.
#[derive(Debug)]
struct Held {
    app: Shared,
    ids: Vec<String>,
}

impl Held {
    fn hold(&mut self, id: &str) {
        *self.app.builds.held().entry(id.to_owned()).or_default() += 1;
        self.ids.push(id.to_owned());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.app.builds.held();
        for id in &self.ids {
            if let Some(count) = held.get_mut(id) {
                *count -= 1;
            }
        }
        held.retain(|_, count| *count > 0);
    }
}

fn check_platform(wanted: Option<&str>) -> Result<(), StepError> {
    let own = format!("linux/{}", go_arch());
    match wanted {
        Some(wanted) if wanted != own && !wanted.starts_with(&format!("{own}/")) => {
            let reason = format!("platform {wanted} is not this host's, which is {own}");
            Err(StepError::Instruction(reason))
        }
        _ => Ok(()),
    }
}

/// As people see ids: twelve digits.
fn short(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..12).unwrap_or(digits)
}

/// On a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    tokio::task::spawn_blocking(work).await
}

fn internal(error: impl std::fmt::Display) -> BuildError {
    BuildError::Internal(error.to_string())
}
