//! One container that asks: what it may know, how much it may ask, what came of it.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::{self, Known, Verdict};
use super::{Outcome, Shared, forward};
use crate::endpoint::lock;

/// Questions of one container that wait for an answer from outside.
const MOST_WAITING: usize = 64;
/// A question costs the agent some microseconds, which are nobody's quota: who asks more waits.
const MOST_PER_SECOND: u32 = 5_000;
const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Asker {
    pub container: String,
    shared: Arc<Shared>,
    /// Its own; empty: those of all containers.
    servers: Vec<SocketAddr>,
    waiting: Arc<Semaphore>,
    pace: Mutex<Pace>,
}

/// What is to be done about a question.
#[derive(Debug)]
pub(crate) enum Step {
    /// To say this; `None`: nothing.
    Say(Option<Vec<u8>>),
    /// To ask others ([`Asker::forward`]), and to keep this meanwhile.
    Ask(OwnedSemaphorePermit),
}

impl Known for Asker {
    fn addresses(&self, name: &str) -> Vec<IpAddr> {
        self.shared.addresses(&self.container, name)
    }

    fn name_of(&self, address: IpAddr) -> Option<String> {
        self.shared.name_of(&self.container, address)
    }
}

impl Asker {
    pub fn new(container: &str, shared: Arc<Shared>, servers: Vec<IpAddr>) -> Asker {
        let servers = servers.into_iter().map(|server| (server, forward::PORT).into()).collect();
        Asker {
            container: container.to_owned(),
            shared,
            servers,
            waiting: Arc::new(Semaphore::new(MOST_WAITING)),
            pace: Mutex::new(Pace { since: Instant::now(), asked: 0 }),
        }
    }

    /// How long the next question has to wait, if there were too many in this second.
    pub fn pause(&self) -> Option<Duration> {
        let pause = lock(&self.pace).count(Instant::now());
        if pause.is_some() {
            self.shared.count(Outcome::TooMany);
        }
        pause
    }

    /// At once: nobody is waited for.
    pub fn decide(&self, question: &[u8], over_tcp: bool) -> Step {
        let (outcome, answer) = match answer::judge(question, self, over_tcp) {
            Verdict::Answer(bytes) => (Outcome::Answered, Some(bytes)),
            Verdict::Malformed(bytes) => (Outcome::Malformed, bytes),
            Verdict::Forward if !self.shared.leads_out(&self.container) => {
                (Outcome::Withheld, answer::error(question, ResponseCode::ServFail))
            }
            Verdict::Forward => match Arc::clone(&self.waiting).try_acquire_owned() {
                Ok(turn) => return Step::Ask(turn),
                Err(_) => (Outcome::TooMany, answer::error(question, ResponseCode::ServFail)),
            },
        };
        self.shared.count(outcome);
        Step::Say(answer)
    }

    /// What others say, or that nobody said anything.
    pub async fn forward(&self, question: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        let servers = match self.servers.is_empty() {
            true => self.shared.servers(),
            false => self.servers.clone(),
        };
        let told = forward::ask(&servers, question, over_tcp).await;
        let outcome = if told.is_some() { Outcome::Forwarded } else { Outcome::Failed };
        self.shared.count(outcome);
        told.or_else(|| answer::error(question, ResponseCode::ServFail))
    }
}

/// How many questions there were since the second began.
#[derive(Debug)]
struct Pace {
    since: Instant,
    asked: u32,
}

impl Pace {
    /// One more; the rest of the second if that was one too many for it.
    fn count(&mut self, now: Instant) -> Option<Duration> {
        if now.saturating_duration_since(self.since) >= SECOND {
            *self = Pace { since: now, asked: 0 };
        }
        self.asked = self.asked.saturating_add(1);
        let rest = SECOND.saturating_sub(now.saturating_duration_since(self.since));
        (self.asked > MOST_PER_SECOND).then_some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Named, Names};
    use super::*;

    /// Of `missing.example.com`, type A, with the id 7.
    fn question() -> Vec<u8> {
        let mut bytes = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in ["missing", "example", "com"] {
            bytes.push(label.len() as u8);
            bytes.extend(label.bytes());
        }
        bytes.extend([0, 0, 1, 0, 1]);
        bytes
    }

    fn asker(names: &Names) -> Asker {
        Asker::new("c", Arc::clone(&names.shared), vec![])
    }

    fn counted(names: &Names, outcome: Outcome) -> u64 {
        names.counts()[outcome as usize].1
    }

    #[test]
    fn who_asks_too_much_waits_for_the_next_second() {
        let begun = Instant::now();
        let mut pace = Pace { since: begun, asked: 0 };
        let late = begun + Duration::from_millis(400);
        for _ in 0..MOST_PER_SECOND {
            assert_eq!(pace.count(late), None);
        }
        assert_eq!(pace.count(late), Some(Duration::from_millis(600)));
        assert_eq!(pace.count(begun + SECOND), None);
    }

    #[test]
    fn from_internal_networks_alone_nobody_outside_is_asked() {
        let names = Names::new(Vec::new());
        let address = std::net::Ipv4Addr::new(10, 0, 0, 2);
        let called = vec!["c".into()];
        let named = Named { address, six: None, names: called, network_name: "vault".into() };
        names.join("c", "n1", false, Some(named), vec![]);
        let Step::Say(Some(bytes)) = asker(&names).decide(&question(), false) else {
            panic!("it is forwarded");
        };
        assert_eq!((bytes[..2].to_vec(), bytes[3] & 0x0f), (vec![0, 7], 2), "SERVFAIL");
        assert_eq!(counted(&names, Outcome::Withheld), 1);
        names.join("c", "n2", true, None, vec![]);
        assert!(matches!(asker(&names).decide(&question(), false), Step::Ask(_)));
    }

    #[test]
    fn more_questions_than_may_wait_are_told_so() {
        let names = Names::new(Vec::new());
        names.join("c", "n1", true, None, vec![]);
        let asker = asker(&names);
        let waiting: Vec<Step> =
            (0..MOST_WAITING).map(|_| asker.decide(&question(), false)).collect();
        assert!(waiting.iter().all(|step| matches!(step, Step::Ask(_))));
        assert!(matches!(asker.decide(&question(), true), Step::Say(Some(_))));
        assert_eq!(counted(&names, Outcome::TooMany), 1);
        drop(waiting);
        assert!(matches!(asker.decide(&question(), false), Step::Ask(_)));
    }
}
