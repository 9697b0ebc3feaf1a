//! Goes on where one of several things fails, and tells of each.
//!
//! What is dropped half-way would stay half-way: a container that is renamed and not yet
//! replaced, networks behind one that is still in use.

use std::future::Future;

use futures_util::future::join_all;

/// What has failed so far. The first failure is the whole's; further ones are told at once.
#[derive(Debug, Default)]
pub struct Failures {
    first: Option<anyhow::Error>,
}

impl Failures {
    pub fn note<T, E: Into<anyhow::Error>>(&mut self, result: Result<T, E>) -> Option<T> {
        match (result, &self.first) {
            (Ok(value), _) => return Some(value),
            (Err(error), None) => self.first = Some(error.into()),
            (Err(error), Some(_)) => eprintln!("tenantry: {:#}", error.into()),
        }
        None
    }

    pub fn end(self) -> anyhow::Result<()> {
        self.first.map_or(Ok(()), Err)
    }
}

/// All at once, each to its own end.
pub async fn all<T>(
    tasks: impl IntoIterator<Item = impl Future<Output = anyhow::Result<T>>>,
) -> anyhow::Result<()> {
    let mut failures = Failures::default();
    for result in join_all(tasks).await {
        failures.note(result);
    }
    failures.end()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn a_failure_ends_nobody_else_half_way() {
        let ended = Cell::new(0);
        let one = async |number: u32| {
            anyhow::ensure!(number != 0, "the first");
            // The failure has been seen by now.
            tokio::task::yield_now().await;
            ended.set(ended.get() + 1);
            anyhow::ensure!(number != 3, "the last");
            Ok(())
        };
        let error = all((0..4).map(one)).await.unwrap_err();
        assert_eq!(error.to_string(), "the first");
        assert_eq!(ended.get(), 3);
        assert!(all((4..6).map(one)).await.is_ok());
    }
}
