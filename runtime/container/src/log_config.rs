//! How much of a container's output is kept. Pure.
//!
//! Docker's driver `json-file` with `max-size` and `max-file`, and `none`. Frames are binary here
//! and no JSON, so the names are those of what clients may ask for and not of what is on the disk.

use serde::{Deserialize, Serialize};
use tenantry_shim::spec::LogBound;

use crate::{error::Error, limits::Limit};

/// A line of `seq` and its header fit many times.
const LEAST_SIZE_BYTES: u64 = 1000;
/// Each is a name in a directory that readers list.
const MOST_FILES: u32 = 1000;
/// Who attaches reads the log: without one there is this much, for no longer than it is not read.
const CONDUIT: LogBound = LogBound { piece_bytes: 128 << 10, pieces: 1 };

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Docker's driver `none`: there is nothing to be read afterwards.
    pub discards: bool,
    /// Bytes of one file. In a record `None` is of an agent that knew no bound.
    pub max_size: Option<Limit<u64>>,
    /// How many files.
    pub max_file: Option<u32>,
}

impl LogConfig {
    /// Docker's own default has no bound, and its manual advises against it: this is what its
    /// driver `local` has.
    pub const DEFAULT: LogConfig =
        LogConfig { discards: false, max_size: Some(Limit::Value(20_000_000)), max_file: Some(5) };

    /// Who says how long a file may be and not how many there are means one, as for Docker.
    pub fn or(self, default: &LogConfig) -> LogConfig {
        match (self.discards, self.max_size, self.max_file) {
            (true, ..) => LogConfig { discards: true, ..LogConfig::default() },
            (false, None, None) => default.clone(),
            (false, None, Some(_)) => LogConfig { max_size: default.max_size, ..self },
            (false, Some(_), None) => LogConfig { max_file: Some(1), ..self },
            (false, Some(_), Some(_)) => self,
        }
    }

    /// For the shim.
    pub fn bound(&self) -> Option<LogBound> {
        match (self.discards, self.max_size) {
            (true, _) => Some(CONDUIT),
            (false, Some(Limit::Value(piece_bytes))) => {
                Some(LogBound { piece_bytes, pieces: self.max_file.unwrap_or(1) })
            }
            (false, Some(Limit::Unlimited) | None) => None,
        }
    }

    /// # Errors
    /// [`Error::Invalid`] names the field.
    pub fn check(&self) -> Result<(), Error> {
        if let Some(Limit::Value(bytes)) = self.max_size
            && bytes < LEAST_SIZE_BYTES
        {
            let allowed = format!("{LEAST_SIZE_BYTES} bytes or more, or -1 (no bound)");
            return Err(Error::invalid("log option max-size", bytes, allowed));
        }
        if let Some(files) = self.max_file
            && !(1..=MOST_FILES).contains(&files)
        {
            let allowed = format!("1 to {MOST_FILES}");
            return Err(Error::invalid("log option max-file", files, allowed));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(max_size: Option<Limit<u64>>, max_file: Option<u32>) -> LogConfig {
        LogConfig { discards: false, max_size, max_file }
    }

    #[test]
    fn what_is_not_said_is_the_default() {
        let check = |said: LogConfig, expected: Option<(u64, u32)>| {
            let bound = said.clone().or(&LogConfig::DEFAULT).bound();
            let bound = bound.map(|bound| (bound.piece_bytes, bound.pieces));
            assert_eq!(bound, expected, "{said:?}");
        };
        check(kept(None, None), Some((20_000_000, 5)));
        check(kept(None, Some(2)), Some((20_000_000, 2)));
        check(kept(Some(Limit::Value(10_000)), None), Some((10_000, 1)));
        check(kept(Some(Limit::Value(10_000)), Some(3)), Some((10_000, 3)));
        check(kept(Some(Limit::Unlimited), None), None);
        let none = LogConfig { discards: true, ..kept(Some(Limit::Unlimited), None) };
        check(none, Some((CONDUIT.piece_bytes, CONDUIT.pieces)));
    }

    #[test]
    fn a_record_of_an_agent_that_knew_no_bound_has_none() {
        let old: LogConfig = serde_json::from_str("{}").unwrap();
        assert_eq!(old.bound(), None);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let refused = |config: LogConfig| match config.check() {
            Err(Error::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert!(refused(kept(Some(Limit::Value(999)), None)).contains("max-size"));
        assert!(refused(kept(None, Some(0))).contains("max-file"));
        assert!(refused(kept(None, Some(1001))).contains("max-file"));
        assert!(LogConfig::DEFAULT.check().is_ok());
    }
}
