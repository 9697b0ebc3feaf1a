//! What happens to images, told to whoever subscribed.

use serde_json::{Value, json};
use tokio::sync::broadcast;

/// Events that a slow subscriber may lag behind before it misses some.
const CHANNEL_EVENTS: usize = 1024;

/// Docker's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Delete,
    Import,
    Load,
    Pull,
    Push,
    Save,
    Tag,
    Untag,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Delete => "delete",
            Action::Import => "import",
            Action::Load => "load",
            Action::Pull => "pull",
            Action::Push => "push",
            Action::Save => "save",
            Action::Tag => "tag",
            Action::Untag => "untag",
        }
    }
}

#[derive(Clone, Debug)]
pub struct ImageEvent {
    pub action: Action,
    /// The image's id; of a pull and a push its name with tag or digest.
    pub id: String,
    /// Of a pull and a push without tag and digest.
    pub name: String,
    pub unix_ns: u64,
}

impl ImageEvent {
    pub fn render(&self) -> Value {
        json!({
            "Type": "image",
            "Action": self.action.as_str(),
            "Actor": { "ID": self.id, "Attributes": { "name": self.name } },
            "scope": "local",
            "time": self.unix_ns / 1_000_000_000,
            "timeNano": self.unix_ns,
        })
    }
}

#[derive(Debug)]
pub struct ImageEvents(broadcast::Sender<ImageEvent>);

impl Default for ImageEvents {
    fn default() -> Self {
        Self(broadcast::Sender::new(CHANNEL_EVENTS))
    }
}

impl ImageEvents {
    pub fn tell(&self, action: Action, id: String, name: String) {
        let unix_ns = jiff::Timestamp::now().as_nanosecond() as u64;
        // Nobody may listen.
        let _ = self.0.send(ImageEvent { action, id, name, unix_ns });
    }

    pub fn subscribe(&self) -> broadcast::Receiver<ImageEvent> {
        self.0.subscribe()
    }
}
