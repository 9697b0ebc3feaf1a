//! `GET /images/{name}/get`, `GET /images/get?names=`: images as one archive, sent while
//! it is written.

use std::io::{self, Write};

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::events::Action;
use crate::api::Shared;
use crate::api::error::{ApiError, ApiResult, chain};

/// Pieces that may wait for a slow reader, of the size that blobs are copied in.
const WAITING: usize = 16;
const PIECE_BYTES: usize = 64 * 1024;

pub async fn save_several(
    State(app): State<Shared>,
    Query(query): Query<Vec<(String, String)>>,
) -> ApiResult<Response> {
    let names: Vec<String> =
        query.into_iter().filter(|(key, _)| key == "names").map(|(_, name)| name).collect();
    if names.is_empty() {
        return Err(ApiError::invalid("names", "", "names or ids of images"));
    }
    save(app, names).await
}

/// 404 comes before the first byte; what fails later breaks the connection off.
pub async fn save(app: Shared, names: Vec<String>) -> ApiResult<Response> {
    let (ready, found) = tokio::sync::oneshot::channel();
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::task::spawn_blocking(move || {
        let save = match app.images.save(&names) {
            Ok(save) => save,
            Err(error) => {
                let _ = ready.send(Err(ApiError::from(error)));
                return;
            }
        };
        let _ = ready.send(Ok(()));
        let out = io::BufWriter::with_capacity(PIECE_BYTES, Pieces(sender.clone()));
        match save.write(out) {
            Ok(()) => {
                for name in names {
                    let id = app.images.resolve(&name).map(|image| image.id.to_string());
                    app.image_events.tell(Action::Save, id.unwrap_or_else(|_| name.clone()), name);
                }
            }
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(error, "an archive was not sent to its end");
                let _ = sender.blocking_send(Err(io::Error::other(error)));
            }
        }
    });
    found.await.map_err(ApiError::internal)??;
    let body = Body::from_stream(ReceiverStream::new(receiver));
    Ok(([(CONTENT_TYPE, "application/x-tar")], body).into_response())
}

struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.0.blocking_send(Ok(Bytes::copy_from_slice(content))).map_err(gone)?;
        Ok(content.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
