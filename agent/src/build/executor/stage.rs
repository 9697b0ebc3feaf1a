//! One stage while it is built, and what each kind of step does to it.

use std::path::PathBuf;
use std::sync::Arc;

use tenantry_build::key::Key;
use tenantry_build::{Copy, Document, Effect, Instruction, Origin, Run, Stage};
use tenantry_image::spec::{History, HistoryBuilder};
use tenantry_image::{Changes, Commit, ErrorKind};

use super::{Build, blocking, short};
use crate::api::Shared;
use crate::api::docker::system::go_arch;
use crate::build::copy::{self, Place};
use crate::build::error::StepError;
use crate::build::pull::pull;
use crate::build::remote;
use crate::build::run::{self, Setting};

/// A stage so far.
#[derive(Clone, Debug)]
pub(super) struct Building {
    pub state: Stage,
    /// The image that holds all but `pending`. `None`: nothing yet.
    pub image: Option<String>,
    key: Key,
    /// Steps that no image holds yet: they changed the configuration alone.
    pending: Vec<History>,
}

impl Building {
    pub fn scratch(escape: char) -> Building {
        let document = Document {
            architecture: go_arch().to_owned(),
            os: "linux".to_owned(),
            ..Document::default()
        };
        Building {
            state: Stage::new(document, escape),
            image: None,
            key: Key::of_base("scratch"),
            pending: Vec::new(),
        }
    }

    /// A further stage that begins with this one's result.
    pub fn again(&self, escape: char) -> Building {
        let key = Key::of_base(self.image.as_deref().unwrap_or("scratch"));
        let state = Stage::new(self.state.document.clone(), escape);
        Building { state, image: self.image.clone(), key, pending: Vec::new() }
    }

    /// All of the configuration that a step may change.
    fn settings(&self) -> Result<String, StepError> {
        let document = &self.state.document;
        let config = serde_json::to_string(&document.config).map_err(internal)?;
        Ok(format!("{} {config}", document.author))
    }
}

/// A stage that begins with an image of the store, if it is there.
async fn base_in_store(
    app: &Shared,
    name: &str,
    escape: char,
) -> Result<Option<Building>, StepError> {
    let (store, wanted) = (Arc::clone(&app.images), name.to_owned());
    let image = match blocking(move || store.resolve(&wanted)).await.map_err(internal)? {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        image => image?,
    };
    let document: Document = serde_json::from_value(image.document).map_err(internal)?;
    let id = image.id.to_string();
    let key = Key::of_base(&id);
    let state = Stage::new(document, escape);
    Ok(Some(Building { state, image: Some(id), key, pending: Vec::new() }))
}

impl Build {
    /// A stage that begins with an image, which is pulled if it is not here, or if the
    /// client wants it anew.
    pub(super) async fn base(&self, name: &str) -> Result<Building, StepError> {
        if !self.request.pull
            && let Some(here) = base_in_store(&self.app, name, self.file.escape).await?
        {
            return Ok(here);
        }
        pull(&self.app, &self.request, name, &self.output).await?;
        let pulled = base_in_store(&self.app, name, self.file.escape).await?;
        pulled.ok_or_else(|| internal(format!("{name} was pulled and is gone again")))
    }

    pub(super) async fn instruction(
        &mut self,
        index: usize,
        building: &mut Building,
        instruction: &Instruction,
        text: &str,
    ) -> Result<(), StepError> {
        let effect = building.state.apply(instruction, &mut self.arguments);
        match effect.map_err(StepError::Instruction)? {
            Effect::Nothing => self.setting(building, text).await,
            Effect::Run(run) => self.run(building, &run).await,
            Effect::Copy(copy) => self.copy(index, building, &copy, text).await,
            Effect::Workdir(path) => self.workdir(building, &path, text).await,
        }
    }

    pub(super) async fn labels(
        &mut self,
        building: &mut Building,
        labels: Vec<(String, String)>,
        text: &str,
    ) -> Result<(), StepError> {
        building.state.document.config.labels.extend(labels);
        self.setting(building, text).await
    }

    /// The configuration has changed, and nothing else.
    async fn setting(&mut self, building: &mut Building, text: &str) -> Result<(), StepError> {
        let settings = building.settings()?;
        building.key = building.key.and("settings", [settings.as_str()]);
        let known = !self.request.no_cache && self.app.builds.cache().get(&building.key).is_some();
        building.pending.push(history(&format!("/bin/sh -c #(nop)  {text}"))?);
        if known {
            self.output.say(" ---> Using cache\n").await?;
        } else {
            self.app.builds.cache().put(&building.key, None);
        }
        Ok(())
    }

    async fn run(&mut self, building: &mut Building, run: &Run) -> Result<(), StepError> {
        let parts = run.args.iter().chain(&run.declared).map(String::as_str);
        let words = run.args.len().to_string();
        building.key = building.key.and("run", std::iter::once(words.as_str()).chain(parts));
        if self.known(building).await? {
            return Ok(());
        }
        if building.image.is_none() {
            // A container needs an image, even an empty one.
            let first = building.pending.pop();
            let first = first.map_or_else(|| history("/bin/sh -c #(nop)  FROM scratch"), Ok)?;
            self.commit(building, first, None).await?;
        }
        let image = building.image.clone().ok_or_else(|| internal("no image to run in"))?;
        let config = &building.state.document.config;
        let setting = Setting {
            image: &image,
            env: &config.env,
            user: &config.user,
            working_dir: &config.working_dir,
        };
        let finished = run::run(&self.app, &self.request, &setting, run, &self.output).await?;
        let by = match run.declared.as_slice() {
            [] => run.args.join(" "),
            given => format!("|{} {} {}", given.len(), given.join(" "), run.args.join(" ")),
        };
        let upper = Some(finished.upper.clone());
        let committed = match history(&by) {
            Ok(history) => self.commit(building, history, upper).await,
            Err(error) => Err(error),
        };
        run::remove(&self.app, &finished.id).await;
        committed?;
        let removed = format!(" ---> Removed intermediate container {}\n", &finished.id[..12]);
        self.output.say(&removed).await?;
        self.made(building).await
    }

    async fn copy(
        &mut self,
        index: usize,
        building: &mut Building,
        copy: &Copy,
        text: &str,
    ) -> Result<(), StepError> {
        let (copy, from) = match remote::is_remote(copy)? {
            true => remote::fetch(&self.app, copy, &self.scratch, &self.output).await?,
            false => (copy.clone(), self.sources(index, copy).await?),
        };
        let working_dir = building.state.document.config.working_dir.clone();
        let (scratch, wanted) = (Arc::clone(&self.scratch), copy.clone());
        let found = blocking(move || {
            copy::find(&wanted, &from, &working_dir, &scratch).map(|found| (from, found))
        });
        let (from, found) = found.await.map_err(internal)??;
        building.key = building.key.and("copy", found.parts.iter().map(String::as_str));
        if self.known(building).await? {
            return Ok(());
        }
        let layers = self.layers(building.image.as_deref()).await?;
        let (scratch, wanted) = (Arc::clone(&self.scratch), copy.clone());
        let upper = blocking(move || copy::carry_out(&wanted, &found, &from, &layers, &scratch));
        let upper = upper.await.map_err(internal)??;
        let history = history(&format!("/bin/sh -c #(nop)  {text}"))?;
        self.commit(building, history, Some(upper)).await?;
        self.made(building).await
    }

    async fn workdir(
        &mut self,
        building: &mut Building,
        path: &str,
        text: &str,
    ) -> Result<(), StepError> {
        building.key = building.key.and("workdir", [path]);
        let settings = self.app.builds.cache().get(&building.key);
        let step = history(&format!("/bin/sh -c #(nop)  {text}"))?;
        if !self.request.no_cache && settings == Some(None) {
            building.pending.push(step);
            self.output.say(" ---> Using cache\n").await?;
            return Ok(());
        }
        if self.known(building).await? {
            return Ok(());
        }
        let layers = self.layers(building.image.as_deref()).await?;
        let (scratch, wanted) = (Arc::clone(&self.scratch), path.to_owned());
        let upper = blocking(move || {
            let upper = copy::make_directory(&wanted, &layers, &scratch)?;
            let mut entries =
                std::fs::read_dir(&upper).map_err(StepError::file("list", "upper"))?;
            Ok::<_, StepError>((entries.next().is_none(), upper))
        });
        let (was_there, upper) = upper.await.map_err(internal)??;
        if was_there {
            self.app.builds.cache().put(&building.key, None);
            building.pending.push(step);
            return Ok(());
        }
        self.commit(building, step, Some(upper)).await?;
        self.made(building).await
    }

    /// The stage's end: what no image holds yet gets one.
    pub(super) async fn finish(&mut self, building: &mut Building) -> Result<(), StepError> {
        let Some(last) = building.pending.pop() else { return Ok(()) };
        building.key = building.key.and("end", []);
        let id = self.look_up(building).await?;
        match id {
            Some(id) => self.take(building, id),
            None => self.commit(building, last, None).await?,
        }
        self.made(building).await
    }

    /// Where the sources of a `COPY` are.
    async fn sources(&mut self, index: usize, copy: &Copy) -> Result<Place, StepError> {
        let Some(text) = &copy.from else {
            return Ok(Place::Context(self.context.dir.clone()));
        };
        let origin = self.file.copy_origin(index, text).map_err(StepError::Instruction)?;
        let image = match origin {
            Origin::Stage(earlier) => match self.built.get(&earlier) {
                Some(built) => built.image.clone(),
                // A trigger of the base named it, which nobody could know before.
                None => {
                    let reason = format!(
                        "stage {text} was not built: the target needs it only \
                                          by a trigger of its base"
                    );
                    return Err(StepError::Instruction(reason));
                }
            },
            Origin::Image(name) => {
                let found = self.base(&name).await?;
                if let Some(id) = &found.image {
                    self.held.hold(id);
                }
                found.image
            }
            Origin::Scratch => None,
        };
        Ok(Place::Layers(self.layers(image.as_deref()).await?))
    }

    /// An image's layers, the topmost first; without one, an empty directory.
    async fn layers(&self, image: Option<&str>) -> Result<Vec<PathBuf>, StepError> {
        match image {
            None => {
                let nothing = self.scratch.directory("nothing");
                Ok(vec![nothing.map_err(StepError::file("make directory for", "scratch"))?])
            }
            Some(id) => {
                let (store, id) = (Arc::clone(&self.app.images), id.to_owned());
                let image = blocking(move || store.resolve(&id)).await.map_err(internal)??;
                Ok(image.layers)
            }
        }
    }

    /// Whether the cache has the step: then the stage goes on from there.
    async fn known(&mut self, building: &mut Building) -> Result<bool, StepError> {
        let Some(id) = self.look_up(building).await? else { return Ok(false) };
        self.output.say(" ---> Using cache\n").await?;
        self.take(building, id);
        self.made(building).await?;
        Ok(true)
    }

    /// The image of the stage's key, if it is still there.
    async fn look_up(&self, building: &Building) -> Result<Option<String>, StepError> {
        if self.request.no_cache {
            return Ok(None);
        }
        let found = self.app.builds.cache().get(&building.key);
        let Some(Some(id)) = found else { return Ok(None) };
        let (store, wanted) = (Arc::clone(&self.app.images), id.clone());
        let there = blocking(move || store.resolve(&wanted).is_ok()).await.map_err(internal)?;
        if !there {
            self.app.builds.cache().forget(&building.key);
        }
        Ok(there.then_some(id))
    }

    fn take(&mut self, building: &mut Building, id: String) {
        self.held.hold(&id);
        building.image = Some(id);
        building.pending.clear();
    }

    /// The step is in the stage's image: the cache knows it, and the client is told.
    async fn made(&self, building: &Building) -> Result<(), StepError> {
        self.app.builds.cache().put(&building.key, building.image.clone());
        let id = building.image.as_deref().map_or("", short);
        Ok(self.output.say(&format!(" ---> {id}\n")).await?)
    }

    /// Makes an image of the stage so far, with `upper` as its new layer.
    async fn commit(
        &mut self,
        building: &mut Building,
        history: History,
        upper: Option<PathBuf>,
    ) -> Result<(), StepError> {
        let mut document = building.state.document.clone();
        document.created = Some(now());
        let config = serde_json::to_value(&document).map_err(internal)?;
        let earlier = std::mem::take(&mut building.pending);
        let (store, parent) = (Arc::clone(&self.app.images), building.image.clone());
        let committed = blocking(move || {
            let changes = upper.as_deref().map(|upper| Changes { upper, owners: None });
            let parent = parent.as_deref();
            store.commit_after(&earlier, Commit { parent, changes, config, history, names: &[] })
        });
        let id = committed.await.map_err(internal)??.id.to_string();
        self.take(building, id);
        Ok(())
    }
}

fn history(by: &str) -> Result<History, StepError> {
    HistoryBuilder::default().created(now()).created_by(by).build().map_err(internal)
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

fn internal(error: impl std::fmt::Display) -> StepError {
    StepError::Internal(error.to_string())
}
