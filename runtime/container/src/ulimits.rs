//! `--ulimit`: names and numbers become resource limits. Pure.
//!
//! Owns the names, Docker's rule for soft and hard, and what is left of a wish on a host whose
//! agent may not raise its own limits.

use serde::{Deserialize, Serialize};
use tenantry_shim::spec::{LimitedResource, Rlimit};

use crate::error::Error;

/// Names as `getrlimit(2)` has them behind `RLIMIT_`, in lower case.
const NAMES: [(&str, LimitedResource); 15] = [
    ("core", LimitedResource::Core),
    ("cpu", LimitedResource::Cpu),
    ("data", LimitedResource::Data),
    ("fsize", LimitedResource::Fsize),
    ("locks", LimitedResource::Locks),
    ("memlock", LimitedResource::Memlock),
    ("msgqueue", LimitedResource::Msgqueue),
    ("nice", LimitedResource::Nice),
    ("nofile", LimitedResource::Nofile),
    ("nproc", LimitedResource::Nproc),
    ("rss", LimitedResource::Rss),
    ("rtprio", LimitedResource::Rtprio),
    ("rttime", LimitedResource::Rttime),
    ("sigpending", LimitedResource::Sigpending),
    ("stack", LimitedResource::Stack),
];

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ulimit {
    pub name: String,
    /// -1 is no limit, here and in `hard`.
    pub soft: i64,
    pub hard: i64,
}

/// # Errors
/// [`Error::Invalid`] for a name that no limit has, a name twice, and a soft limit above the
/// hard one.
pub fn parse(ulimits: &[Ulimit]) -> Result<Vec<Rlimit>, Error> {
    let mut rlimits: Vec<Rlimit> = Vec::new();
    for ulimit in ulimits {
        let Ulimit { name, soft, hard } = ulimit;
        let known = NAMES.iter().find(|(known, _)| known == name);
        let Some((_, resource)) = known else {
            let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            return Err(Error::invalid("ulimits", name, names.join(", ")));
        };
        if rlimits.iter().any(|other| other.resource == *resource) {
            return Err(Error::invalid("ulimits", name, "each limit once"));
        }
        let bound = |number: i64| match number {
            -1 => Ok(None),
            0.. => Ok(Some(number as u64)),
            _ => Err(Error::invalid("ulimits", number, "-1 (no limit) or more")),
        };
        let (soft, hard) = (bound(*soft)?, bound(*hard)?);
        if exceeds(soft, hard) {
            let value = format!("{name}={}:{}", ulimit.soft, ulimit.hard);
            return Err(Error::invalid("ulimits", value, "a soft limit up to the hard limit"));
        }
        rlimits.push(Rlimit { resource: *resource, soft, hard });
    }
    Ok(rlimits)
}

/// What is left of `wanted` where nothing may be raised beyond `most`.
pub fn within(wanted: &[Rlimit], most: impl Fn(LimitedResource) -> Option<u64>) -> Vec<Rlimit> {
    let least = |wanted, most| if exceeds(wanted, most) { most } else { wanted };
    let clamp = |rlimit: &Rlimit| {
        let most = most(rlimit.resource);
        let (soft, hard) = (least(rlimit.soft, most), least(rlimit.hard, most));
        Rlimit { resource: rlimit.resource, soft, hard }
    };
    wanted.iter().map(clamp).collect()
}

/// For a person, what of a wish was not granted: one sentence for each limit.
pub fn shortfalls(wanted: &[Ulimit], granted: &[Rlimit]) -> Vec<String> {
    let Ok(parsed) = parse(wanted) else { return Vec::new() };
    let short = parsed.iter().filter_map(|wish| {
        let granted = granted.iter().find(|granted| granted.resource == wish.resource)?;
        let (name, _) = NAMES.iter().find(|(_, resource)| *resource == wish.resource)?;
        let text = |bound: Option<u64>| bound.map_or("unlimited".to_owned(), |n| n.to_string());
        (granted != wish).then(|| {
            format!(
                "ulimit {name} is {}:{}: this agent may not raise its own limits \
                 (CAP_SYS_RESOURCE)",
                text(granted.soft),
                text(granted.hard)
            )
        })
    });
    short.collect()
}

/// Of two limits, where `None` is none.
fn exceeds(one: Option<u64>, other: Option<u64>) -> bool {
    match (one, other) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(one), Some(other)) => one > other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulimit(name: &str, soft: i64, hard: i64) -> Ulimit {
        Ulimit { name: name.into(), soft, hard }
    }

    #[test]
    fn names_and_numbers_become_limits() {
        let parsed = parse(&[ulimit("nofile", 100, 200), ulimit("core", 0, -1)]).unwrap();
        let expected = [
            Rlimit { resource: LimitedResource::Nofile, soft: Some(100), hard: Some(200) },
            Rlimit { resource: LimitedResource::Core, soft: Some(0), hard: None },
        ];
        assert_eq!(parsed, expected);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (wrong, value) in [
            (vec![ulimit("files", 1, 1)], "files"),
            (vec![ulimit("nofile", 2, 1)], "nofile=2:1"),
            (vec![ulimit("nofile", -1, 1)], "nofile=-1:1"),
            (vec![ulimit("nofile", -2, 1)], "-2"),
            (vec![ulimit("cpu", 1, 1), ulimit("cpu", 2, 2)], "cpu"),
        ] {
            match parse(&wrong) {
                Err(Error::Invalid { field, value: named, .. }) => {
                    assert_eq!((field.as_str(), named.as_str()), ("ulimits", value));
                }
                other => panic!("{wrong:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_cannot_be_raised_is_cut_and_told() {
        let wanted = [ulimit("nofile", 100, 5000), ulimit("core", -1, -1), ulimit("cpu", 1, 2)];
        let most = |resource| match resource {
            LimitedResource::Nofile => Some(1024),
            LimitedResource::Core => Some(0),
            _ => None,
        };
        let granted = within(&parse(&wanted).unwrap(), most);
        assert_eq!((granted[0].soft, granted[0].hard), (Some(100), Some(1024)));
        assert_eq!((granted[1].soft, granted[1].hard), (Some(0), Some(0)));
        assert_eq!((granted[2].soft, granted[2].hard), (Some(1), Some(2)));
        let told = shortfalls(&wanted, &granted);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("ulimit nofile is 100:1024: "), "{told:?}");
        assert!(told[1].starts_with("ulimit core is 0:0: "), "{told:?}");
    }
}
