//! `WWW-Authenticate`: what a registry wants to know who we are by (RFC 9110, 11.6.1). Pure.

/// How to prove who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The challenge to answer: a token rather than a password. `None`: there is none that we know.
pub(crate) fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut found = None;
    for header in headers {
        let mut rest = header;
        while let Some((scheme, parameters, behind)) = next_challenge(rest) {
            rest = behind;
            if scheme.eq_ignore_ascii_case("bearer") {
                let get = |name: &str| {
                    let same = |(key, _): &&(String, String)| key.eq_ignore_ascii_case(name);
                    parameters.iter().find(same).map(|(_, value)| value.clone())
                };
                if let Some(realm) = get("realm") {
                    return Some(Challenge::Bearer {
                        realm,
                        service: get("service"),
                        scope: get("scope"),
                    });
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                found = Some(Challenge::Basic);
            }
        }
    }
    found
}

type Parameters = Vec<(String, String)>;

/// A scheme, its parameters, and what stands behind them.
fn next_challenge(text: &str) -> Option<(&str, Parameters, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',']);
    let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
    let (scheme, mut rest) = text.split_at(end);
    if scheme.is_empty() {
        return None;
    }
    let mut parameters = Vec::new();
    loop {
        let start = rest.trim_start_matches([' ', '\t', ',']);
        let Some(equals) = start.find('=') else { break };
        let name = start[..equals].trim_end();
        // Two words before the sign: the first is the next challenge's scheme.
        if name.is_empty() || name.contains([' ', '\t', ',']) {
            break;
        }
        let (value, behind) = value(start[equals + 1..].trim_start());
        parameters.push((name.to_owned(), value));
        rest = behind;
    }
    Some((scheme, parameters, rest))
}

/// A token or a quoted string, and what stands behind it.
fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(headers: &[&str], expected: Option<Challenge>) {
        assert_eq!(parse(headers.iter().copied()), expected, "{headers:?}");
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let (service, scope) = (owned(service), owned(scope));
        Some(Challenge::Bearer { realm: realm.into(), service, scope })
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/demo:pull,push""#;
        check(
            &[hub],
            bearer(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                Some("repository:library/demo:pull,push"),
            ),
        );
        check(&[r#"Basic realm="Registry Realm""#], Some(Challenge::Basic));
        check(&["basic"], Some(Challenge::Basic));
        check(&["bearer Realm=https://x/t , service=y"], bearer("https://x/t", Some("y"), None));
        check(&[r#"Bearer realm="a\"b""#], bearer("a\"b", None, None));
    }

    #[test]
    fn a_token_is_preferred_wherever_it_stands() {
        check(&[r#"Basic realm="x", Bearer realm="https://t""#], bearer("https://t", None, None));
        check(&["Basic realm=x", "Bearer realm=https://t"], bearer("https://t", None, None));
        check(&[r#"Negotiate, Basic realm="x""#], Some(Challenge::Basic));
    }

    #[test]
    fn what_is_no_challenge_is_none() {
        for text in
            ["", ",,", "Bearer", "Bearer service=x", "Digest realm=x", "=", "Bearer =x", "\""]
        {
            check(&[text], None);
        }
        check(&[r#"Bearer realm="never closed"#], bearer("never closed", None, None));
    }
}
