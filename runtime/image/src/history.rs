//! `image history`: what each step of an image's making added.
//!
//! Owns the match of history entries with layers, and of entries with the images of
//! this host that they ended in.

use serde::Deserialize;

use crate::Digest;
use crate::document;
use crate::error::Result;
use crate::refs::{ImageRecord, Refs};
use crate::store::Store;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryStep {
    /// The image that this step made, where it is here.
    pub id: Option<Digest>,
    /// That image's short names.
    pub names: Vec<String>,
    /// RFC 3339.
    pub created: Option<String>,
    pub created_by: String,
    pub comment: String,
    /// Bytes of file content that it added; 0 for a step without a layer.
    pub size_bytes: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Step {
    created: Option<String>,
    created_by: String,
    comment: String,
    empty_layer: bool,
}

impl Store {
    /// The steps of an image, the last one first.
    pub fn history(&self, name_or_id: &str) -> Result<Vec<HistoryStep>> {
        let image = self.resolve(name_or_id)?;
        let refs = self.state().refs.clone();
        let what = format!("history of {}", image.id);
        let steps = image.document["history"].to_string();
        let steps: Option<Vec<Step>> = document::parse(&what, steps.as_bytes())?;
        let record = &refs.images[&image.manifest_digest];
        Ok(describe(steps.unwrap_or_default(), record, &refs))
    }
}

fn describe(steps: Vec<Step>, record: &ImageRecord, refs: &Refs) -> Vec<HistoryStep> {
    let mut layers = record.layers.iter();
    let mut described: Vec<HistoryStep> = steps
        .into_iter()
        .map(|step| {
            let layer = if step.empty_layer { None } else { layers.next() };
            HistoryStep {
                created: step.created,
                created_by: step.created_by,
                comment: step.comment,
                size_bytes: layer.map_or(0, |layer| layer.size_bytes),
                ..HistoryStep::default()
            }
        })
        .collect();
    // Layers that the history does not tell of.
    described.extend(
        layers.map(|layer| HistoryStep { size_bytes: layer.size_bytes, ..HistoryStep::default() }),
    );
    described.reverse();
    let mut at = Some(record);
    for step in &mut described {
        let Some(image) = at else { break };
        step.id = Some(image.id);
        let manifests = refs.images.iter().filter(|(_, other)| other.id == image.id);
        step.names = manifests.flat_map(|(manifest, _)| refs.names_of(manifest)).collect();
        at = image.parent.and_then(|id| refs.images.values().find(|other| other.id == id));
    }
    described
}
