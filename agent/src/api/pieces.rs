//! An answer's body that is sent while it is made.
//!
//! `/metrics` of a full host is longer than what the agent may hold in memory at once, and
//! the reader can begin while the rest is written. A reader that takes too long is cut off:
//! it would hold a thread.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_stream::wrappers::ReceiverStream;

/// Pieces that may wait for a slow reader.
const WAITING: usize = 4;
/// Prometheus itself gives up after ten seconds, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// `make` gets a function that takes pieces and says whether more are wanted; it runs on a
/// thread that may block.
pub fn body(make: impl FnOnce(&mut dyn FnMut(String) -> bool) + Send + 'static) -> Body {
    let (sender, receiver) = mpsc::channel::<Bytes>(WAITING);
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        make(&mut |piece| match sender.try_send(piece.into()) {
            Err(TrySendError::Full(piece)) => {
                let sent = async { tokio::time::timeout(PATIENCE, sender.send(piece)).await };
                matches!(runtime.block_on(sent), Ok(Ok(())))
            }
            sent => sent.is_ok(),
        });
    });
    Body::from_stream(ReceiverStream::new(receiver).map(Ok::<_, Infallible>))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pieces_arrive_in_order_and_whole() {
        let body = body(|take| {
            assert!((0..20).all(|number| take(format!("{number};"))));
        });
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let expected: String = (0..20).map(|number| format!("{number};")).collect();
        assert_eq!(bytes, expected);
    }

    #[tokio::test]
    async fn nothing_more_is_made_for_a_reader_that_has_gone() {
        let (told, mut tell) = mpsc::channel(1);
        drop(body(move |take| {
            let taken = (0..1000).take_while(|_| take("piece".into())).count();
            told.blocking_send(taken).unwrap();
        }));
        assert!(tell.recv().await.unwrap() < 1000);
    }
}
