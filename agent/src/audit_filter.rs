//! Which audit events the kernel sends, as people write it: raw, then a validated filter.
//! Pure.

use serde::{Deserialize, Serialize};
use tenantry_ebpf::{
    AUDIT_PREFIX_BYTES, AUDIT_PREFIXES, AuditFilter, EventKind, FilterError, OpenFilter,
    syscall_name, syscall_number,
};

/// What is absent is the default; what is there replaces it as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawAuditFilter {
    /// Kinds of events that are on: exec, exit, oom, open, file, connect and so on.
    pub kinds: Option<Vec<String>>,
    /// Which opens are events: `write`, `denied`, `failed`, `all`.
    pub opens: Option<Vec<String>>,
    /// Opens of what begins so are events, too, whatever `opens` says.
    pub open_paths: Option<Vec<String>>,
    /// If there are some, changes of names and attributes count below them alone.
    pub file_paths: Option<Vec<String>>,
    /// First and last of the users whose doings are events, as the host numbers them.
    pub uids: Option<(u32, u32)>,
    /// System calls that are never events.
    pub syscalls_off: Option<Vec<String>>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field} = {value:?} is not allowed: {allowed}")]
pub struct BadFilter {
    pub field: &'static str,
    pub value: String,
    pub allowed: String,
}

impl RawAuditFilter {
    /// Over the default set.
    pub fn validate(&self) -> Result<AuditFilter, BadFilter> {
        self.over(&AuditFilter::default())
    }

    /// What is absent is as in `default`.
    pub fn over(&self, default: &AuditFilter) -> Result<AuditFilter, BadFilter> {
        let kinds = names("audit.filter.kinds", &self.kinds, EventKind::from_name, || {
            EventKind::ALL.map(EventKind::name).join(", ")
        })?;
        let opens = names("audit.filter.opens", &self.opens, OpenFilter::from_name, || {
            OpenFilter::ALL.map(OpenFilter::name).join(", ")
        })?;
        let syscalls_off =
            names("audit.filter.syscalls_off", &self.syscalls_off, syscall_number, || {
                "names of system calls, as their manual pages have them".into()
            })?;
        let filter = AuditFilter {
            kinds: kinds.unwrap_or_else(|| default.kinds.clone()),
            opens: opens.unwrap_or_else(|| default.opens.clone()),
            open_prefixes: self.open_paths.as_ref().unwrap_or(&default.open_prefixes).clone(),
            file_prefixes: self.file_paths.as_ref().unwrap_or(&default.file_prefixes).clone(),
            uids: self.uids.unwrap_or(default.uids),
            syscalls_off: syscalls_off.unwrap_or_else(|| default.syscalls_off.clone()),
        };
        filter.check().map_err(|error| self.blame(error))?;
        Ok(filter)
    }

    /// Whose fault it is, in the words of the file.
    fn blame(&self, error: FilterError) -> BadFilter {
        let of_opens = |prefix: &String| self.open_paths.iter().flatten().any(|p| p == prefix);
        let (field, value, allowed) = match error {
            FilterError::Prefixes { count } => (
                "audit.filter.open_paths and file_paths",
                count.to_string(),
                format!("{AUDIT_PREFIXES} together at most"),
            ),
            FilterError::Prefix { prefix } => (
                if of_opens(&prefix) {
                    "audit.filter.open_paths"
                } else {
                    "audit.filter.file_paths"
                },
                prefix,
                format!("an absolute path's beginning, at most {AUDIT_PREFIX_BYTES} bytes"),
            ),
            FilterError::Uids { first, last } => (
                "audit.filter.uids",
                format!("[{first}, {last}]"),
                "the first user, then the last".into(),
            ),
            FilterError::Syscall { nr } => {
                ("audit.filter.syscalls_off", nr.to_string(), "system calls with a number".into())
            }
        };
        BadFilter { field, value, allowed }
    }
}

/// All of it, as people write it.
impl From<&AuditFilter> for RawAuditFilter {
    fn from(filter: &AuditFilter) -> Self {
        let call = |nr: &u32| syscall_name(*nr).map_or_else(|| nr.to_string(), str::to_owned);
        Self {
            kinds: Some(filter.kinds.iter().map(|kind| kind.name().into()).collect()),
            opens: Some(filter.opens.iter().map(|open| open.name().into()).collect()),
            open_paths: Some(filter.open_prefixes.clone()),
            file_paths: Some(filter.file_prefixes.clone()),
            uids: Some(filter.uids),
            syscalls_off: Some(filter.syscalls_off.iter().map(call).collect()),
        }
    }
}

fn names<T>(
    field: &'static str,
    given: &Option<Vec<String>>,
    find: impl Fn(&str) -> Option<T>,
    allowed: impl Fn() -> String,
) -> Result<Option<Vec<T>>, BadFilter> {
    let find = |name: &String| {
        find(name).ok_or_else(|| BadFilter { field, value: name.clone(), allowed: allowed() })
    };
    given.as_ref().map(|names| names.iter().map(find).collect()).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<AuditFilter, BadFilter> {
        toml::from_str::<RawAuditFilter>(text).unwrap().validate()
    }

    #[test]
    fn what_is_absent_is_the_default_and_what_is_there_replaces_it() {
        assert_eq!(parsed(""), Ok(AuditFilter::default()));
        let filter = parsed(
            "kinds = [\"exec\", \"dns\"]\nopens = []\nopen_paths = [\"/etc/shadow\"]\n\
             file_paths = [\"/etc/\"]\nuids = [0, 0]\nsyscalls_off = [\"ptrace\"]",
        );
        let expected = AuditFilter {
            kinds: vec![EventKind::Exec, EventKind::Dns],
            opens: Vec::new(),
            open_prefixes: vec!["/etc/shadow".into()],
            file_prefixes: vec!["/etc/".into()],
            uids: (0, 0),
            syscalls_off: vec![101],
        };
        assert_eq!(filter, Ok(expected));
    }

    #[test]
    fn a_filter_over_another_replaces_what_it_has_and_is_written_as_it_is_read() {
        let base = AuditFilter {
            open_prefixes: vec!["/srv/".into()],
            syscalls_off: vec![101],
            ..AuditFilter::default()
        };
        let own = RawAuditFilter { kinds: Some(vec!["exec".into()]), ..Default::default() };
        let both = own.over(&base).unwrap();
        assert_eq!(both, AuditFilter { kinds: vec![EventKind::Exec], ..base });
        let written = RawAuditFilter::from(&both);
        assert_eq!(written.syscalls_off, Some(vec!["ptrace".into()]));
        assert_eq!(written.validate(), Ok(both));
    }

    #[test]
    fn what_is_not_allowed_is_named_with_what_is() {
        for (text, field, value) in [
            ("kinds = [\"dance\"]", "audit.filter.kinds", "dance"),
            ("opens = [\"read\"]", "audit.filter.opens", "read"),
            ("syscalls_off = [\"opne\"]", "audit.filter.syscalls_off", "opne"),
            ("open_paths = [\"etc\"]", "audit.filter.open_paths", "etc"),
            ("file_paths = [\"\"]", "audit.filter.file_paths", ""),
            ("uids = [5, 4]", "audit.filter.uids", "[5, 4]"),
        ] {
            let error = parsed(text).unwrap_err();
            assert_eq!((error.field, error.value.as_str()), (field, value), "{text}");
            assert!(!error.allowed.is_empty());
        }
        let error = parsed(&format!("open_paths = {:?}", ["/a"; 9])).unwrap_err();
        assert!(error.to_string().contains("8 together"), "{error}");
    }
}
