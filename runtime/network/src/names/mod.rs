//! Names of containers: who is called what, and the name servers that say so.
//!
//! Owns the directory of names, a server for each container that is on a network which a user
//! made ([`server`]), and the count of what was asked. A server knows the networks that its
//! container is on, and no others. It lives in the agent: while there is none, nobody answers,
//! and the next agent opens it again.

mod answer;
mod asker;
mod directory;
mod forward;
mod server;
mod sockets;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use self::asker::Asker;
use self::directory::Directory;
pub use self::directory::{Link, Named};
use self::server::Server;
pub use self::sockets::RESOLVER;
use self::sockets::Sockets;
use crate::endpoint::lock;
use crate::error::{Error, Result};
use crate::network::in_thread_of_its_own;

/// What came of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// From the directory.
    Answered,
    /// By a name server of the host.
    Forwarded,
    /// None of them answered in time.
    Failed,
    /// Asked from networks that lead nowhere: nobody outside was asked.
    Withheld,
    Malformed,
    /// The container has as many questions under way as it may have, or asked as many in this
    /// second: then it waits, and what it asks meanwhile is the kernel's to drop.
    TooMany,
}

impl Outcome {
    pub const ALL: [Outcome; 6] = [
        Outcome::Answered,
        Outcome::Forwarded,
        Outcome::Failed,
        Outcome::Withheld,
        Outcome::Malformed,
        Outcome::TooMany,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Answered => "answered",
            Outcome::Forwarded => "forwarded",
            Outcome::Failed => "failed",
            Outcome::Withheld => "withheld",
            Outcome::Malformed => "malformed",
            Outcome::TooMany => "too_many",
        }
    }
}

/// What all servers share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    directory: Mutex<Directory>,
    /// Empty: the host's.
    servers: Vec<SocketAddr>,
    counts: [AtomicU64; Outcome::ALL.len()],
    /// Who is named first among several with the same name: each in turn.
    turn: AtomicUsize,
}

impl Shared {
    fn addresses(&self, container: &str, name: &str) -> Vec<IpAddr> {
        let mut found = lock(&self.directory).addresses(container, name);
        if found.len() > 1 {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % found.len();
            found.rotate_left(turn);
        }
        found
    }

    fn name_of(&self, container: &str, address: IpAddr) -> Option<String> {
        lock(&self.directory).name_of(container, address)
    }

    fn leads_out(&self, container: &str) -> bool {
        lock(&self.directory).leads_out(container)
    }

    fn servers(&self) -> Vec<SocketAddr> {
        match self.servers.is_empty() {
            true => forward::host_servers(),
            false => self.servers.clone(),
        }
    }

    fn count(&self, outcome: Outcome) {
        self.counts[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub(crate) struct Names {
    shared: Arc<Shared>,
    running: Mutex<HashMap<String, Server>>,
}

impl Names {
    pub fn new(servers: Vec<SocketAddr>) -> Names {
        let shared = Arc::new(Shared { servers, ..Shared::default() });
        Names { shared, running: Mutex::default() }
    }

    /// The container is on this network from now on and asks for others there; it is `named`
    /// itself where containers have names. Said again, it is called otherwise.
    pub fn join(
        &self,
        container: &str,
        network: &str,
        leads_out: bool,
        named: Option<Named>,
        links: Vec<Link>,
    ) {
        let mut directory = lock(&self.shared.directory);
        directory.join(container, network, leads_out, links);
        if let Some(named) = named {
            directory.register(network, named);
        }
    }

    pub fn leave(&self, container: &str, network: &str, address: Ipv4Addr) {
        lock(&self.shared.directory).leave(container, network, address);
    }

    /// Opens the container's name server; one that is open already stays. `servers` are asked for
    /// what no container is called; empty: those of all containers.
    ///
    /// # Errors
    /// [`Error::Io`]: no such process, or its port 53 is in use.
    pub async fn serve(&self, container: &str, pid: u32, servers: Vec<IpAddr>) -> Result<()> {
        if lock(&self.running).contains_key(container) {
            return Ok(());
        }
        let sockets = in_thread_of_its_own("network-names", move || Sockets::open(pid)).await?;
        let asker = Asker::new(container, Arc::clone(&self.shared), servers);
        let server = Server::start(sockets, asker);
        let server = server.map_err(|e| Error::io("start", format!("name server of {pid}"), e))?;
        lock(&self.running).insert(container.to_owned(), server);
        Ok(())
    }

    /// Closes its sockets; its namespace can end.
    pub fn stop(&self, container: &str) {
        lock(&self.running).remove(container);
    }

    pub fn counts(&self) -> [(Outcome, u64); Outcome::ALL.len()] {
        Outcome::ALL
            .map(|outcome| (outcome, self.shared.counts[outcome as usize].load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_share_a_name_are_named_first_in_turn() {
        let names = Names::new(Vec::new());
        for last in 2..5 {
            let address = Ipv4Addr::new(10, 0, 0, last);
            let names_of_all = vec!["all".into()];
            let named = Named { address, six: None, names: names_of_all, network_name: "n".into() };
            names.join(&format!("c{last}"), "n1", true, Some(named), vec![]);
        }
        let first = || names.shared.addresses("c2", "all")[0].to_string();
        let mut seen = [first(), first(), first()];
        seen.sort_unstable();
        assert_eq!(seen, ["10.0.0.2", "10.0.0.3", "10.0.0.4"]);
    }

    #[test]
    fn each_outcome_has_a_place_and_a_word_of_its_own() {
        let names = Names::new(Vec::new());
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
            names.shared.count(outcome);
        }
        assert!(names.counts().iter().all(|(_, count)| *count == 1));
        let words: std::collections::HashSet<_> = Outcome::ALL.map(Outcome::as_str).into();
        assert_eq!(words.len(), Outcome::ALL.len());
    }
}
