//! Base images that are not here.
//!
//! Owns what a build says and hears of a pull; the pull itself is `registries`'.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tenantry_image::Wanted;

use super::Request;
use super::error::StepError;
use super::output::Output;
use crate::api::Shared;
use crate::registries::{PullRequest, Requested};

/// Pulls an image and shows how it goes on. A client that goes away ends it.
pub(super) async fn pull(
    app: &Shared,
    request: &Request,
    name: &str,
    output: &Output,
) -> Result<(), StepError> {
    let wanted: Wanted = name.parse()?;
    let credentials = request.credentials.get(wanted.name.domain()).cloned();
    let pull = PullRequest { what: Requested::One(wanted), platform: None, credentials };
    let pulled = app.registries.pull(Arc::clone(&app.images), pull).await;
    let (first, mut rest) = pulled.map_err(|refusal| StepError::Instruction(refusal.message))?;
    let mut next = Some(first);
    while let Some(line) = next {
        if let Some(message) = error_of(&line) {
            return Err(StepError::Instruction(message));
        }
        output.pass_on(line).await?;
        next = rest.recv().await;
    }
    Ok(())
}

/// The line that ends a pull which failed.
fn error_of(line: &Bytes) -> Option<String> {
    let line: Value = serde_json::from_slice(line).ok()?;
    line.get("error")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_pull_is_told_apart_from_its_progress() {
        let error = |line: &'static str| error_of(&Bytes::from_static(line.as_bytes()));
        assert_eq!(error("{\"error\":\"no\",\"errorDetail\":{}}\n"), Some("no".into()));
        assert_eq!(error("{\"status\":\"Pulling\",\"id\":\"x\"}\n"), None);
    }
}
