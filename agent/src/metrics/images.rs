//! What came from registries and went there, and which bounds images ran into.

use std::fmt::Error;

use super::family::Families;
use crate::registries::counts::ImagesReport;

pub(super) fn encode(f: &mut Families, images: &ImagesReport) -> Result<(), Error> {
    f.counter(
        "tenantry_image_pulls_total",
        "Pulls by how they ended: same is an image that was here as its registry has it",
        images.pulls.iter().map(|(outcome, pulls)| ([("outcome", *outcome)], *pulls)),
    )?;
    f.counter(
        "tenantry_image_pushes_total",
        "Pushes by how they ended",
        // Docker's protocol does not say whether anything was new.
        images
            .pushes
            .iter()
            .filter(|(outcome, _)| *outcome != "same")
            .map(|(outcome, pushes)| ([("outcome", *outcome)], *pushes)),
    )?;
    f.counter(
        "tenantry_image_pulled_layers_total",
        "Layers of pulls: fetched, or there already, also because another pull brought them",
        [
            ([("found", "fetched")], images.layers_fetched),
            ([("found", "there")], images.layers_there),
        ],
    )?;
    f.counter_of_host(
        "tenantry_image_fetched_bytes_total",
        "Bytes that registries answered with: blobs, documents and tokens",
        images.fetched_bytes,
    )?;
    f.counter_of_host(
        "tenantry_image_sent_bytes_total",
        "Bytes of blobs that were sent to registries",
        images.sent_bytes,
    )?;
    f.counter_of_host(
        "tenantry_image_request_retries_total",
        "Requests to registries that were made again",
        images.retries,
    )?;
    f.counter(
        "tenantry_image_limits_reached_total",
        "Pulls, pushes, loads, imports and commits that a bound ended, by what it bounds",
        images.limits.iter().map(|(limit, times)| ([("limit", *limit)], *times)),
    )
}
