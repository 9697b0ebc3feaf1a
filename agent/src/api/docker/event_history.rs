//! The newest events of all kinds, with which `GET /events?since=` begins.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{Stream, StreamExt as _};
use serde_json::Value;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

/// As many as Docker keeps.
const MOST: usize = 256;
/// What a reader may be behind, before it misses some.
const CHANNEL_EVENTS: usize = 1024;

/// Events as they are shown, in their order.
#[derive(Debug)]
pub struct EventHistory {
    past: Mutex<VecDeque<Arc<Value>>>,
    sender: broadcast::Sender<Arc<Value>>,
}

impl Default for EventHistory {
    fn default() -> Self {
        Self { past: Mutex::default(), sender: broadcast::channel(CHANNEL_EVENTS).0 }
    }
}

impl EventHistory {
    /// Remembers and tells whatever `events` brings, to its end.
    pub async fn keep(&self, events: impl Stream<Item = Value>) {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            self.add(event);
        }
    }

    fn add(&self, event: Value) {
        let event = Arc::new(event);
        let mut past = self.past();
        if past.len() == MOST {
            past.pop_front();
        }
        past.push_back(Arc::clone(&event));
        // Nobody may be listening.
        let _ = self.sender.send(event);
    }

    /// Those of the past from `since` on (seconds since 1970; `None`: none of them), and those
    /// to come; none is among both, and none between them is missing. Docker's format has no
    /// word for events that a slow reader has missed; the native stream tells it.
    pub fn read(
        &self,
        since: Option<i64>,
    ) -> (Vec<Arc<Value>>, impl Stream<Item = Arc<Value>> + Send + use<>) {
        let past = self.past();
        let live = BroadcastStream::new(self.sender.subscribe());
        let is_wanted = |event: &&Arc<Value>| {
            since.is_some_and(|since| event["time"].as_i64().is_some_and(|time| time >= since))
        };
        let past = past.iter().filter(is_wanted).cloned().collect();
        (past, live.filter_map(|event| std::future::ready(event.ok())))
    }

    fn past(&self) -> MutexGuard<'_, VecDeque<Arc<Value>>> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn the_past_comes_first_and_nothing_twice() {
        let history = EventHistory::default();
        for time in 0..300 {
            history.add(json!({ "time": time }));
        }
        let times = |events: Vec<Arc<Value>>| -> Vec<i64> {
            events.iter().map(|event| event["time"].as_i64().unwrap()).collect()
        };
        assert!(history.read(None).0.is_empty());
        assert_eq!(times(history.read(Some(0)).0)[0], 44);
        let (past, live) = history.read(Some(298));
        history.add(json!({ "time": 300 }));
        assert_eq!(times(past), [298, 299]);
        assert_eq!(times(live.take(1).collect().await), [300]);
    }
}
