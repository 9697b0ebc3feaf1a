use proptest::prelude::*;

use super::*;

fn check(text: &str, short: &str, full: &str) {
    let name: Name = text.parse().unwrap();
    assert_eq!(name.to_string(), short, "{text}");
    assert_eq!(name.full(), full, "{text}");
}

#[test]
fn names_mean_what_they_mean_to_docker() {
    check("demo", "demo:latest", "docker.io/library/demo:latest");
    check("demo:1", "demo:1", "docker.io/library/demo:1");
    check("docker.io/library/demo:latest", "demo:latest", "docker.io/library/demo:latest");
    check("docker.io/demo", "demo:latest", "docker.io/library/demo:latest");
    check("index.docker.io/demo", "demo:latest", "docker.io/library/demo:latest");
    check("library/demo", "demo:latest", "docker.io/library/demo:latest");
    check("me/demo:a.B-c_1", "me/demo:a.B-c_1", "docker.io/me/demo:a.B-c_1");
    check("library/a/b", "library/a/b:latest", "docker.io/library/a/b:latest");
    check("localhost/demo", "localhost/demo:latest", "localhost/demo:latest");
    check("localhost:5000/demo:2", "localhost:5000/demo:2", "localhost:5000/demo:2");
    check("quay.io/a/b__c/d---e", "quay.io/a/b__c/d---e:latest", "quay.io/a/b__c/d---e:latest");
    check("[2001:db8::1]:80/x", "[2001:db8::1]:80/x:latest", "[2001:db8::1]:80/x:latest");
    check("HOST/x", "HOST/x:latest", "HOST/x:latest");
    check("abcd", "abcd:latest", "docker.io/library/abcd:latest");
}

#[test]
fn wrong_names_say_what_is_wrong_and_what_is_allowed() {
    let long_path = "a".repeat(256);
    let long_tag = format!("a:{}", "t".repeat(129));
    let id = "0".repeat(64);
    let rows = [
        ("", "it is empty"),
        ("Demo", "uppercase"),
        ("a//b", "empty"),
        ("/a", "empty"),
        ("a/", "empty"),
        ("a:", "tag is empty"),
        ("a:b c", "tag"),
        ("a:-b", "tag"),
        ("a_", "not a part"),
        ("a...b", "not a part"),
        ("a___b", "not a part"),
        ("../x", "not a host name"),
        ("a/../b", "not a part"),
        ("a b", "not a part"),
        ("a\nb", "a\\nb"),
        ("host.io:port/x", "not a port"),
        ("host.io:+80/x", "not a port"),
        ("-x.io/x", "not a host name"),
        ("[z:z]/x", "IPv6"),
        ("ü", "not a part"),
        ("a@sha256:00", "digest"),
        (&long_path, "allowed are 255"),
        (&long_tag, "allowed are 128"),
        (&id, "an id"),
    ];
    for (text, expected) in rows {
        let message = text.parse::<Name>().unwrap_err().to_string();
        assert!(message.contains(expected), "{text}: {message}");
        assert!(message.contains("allowed is [HOST[:PORT]/]PATH[:TAG]"), "{message}");
    }
}

#[test]
fn a_query_may_be_a_name_an_id_prefix_or_a_digest() {
    let digest = Digest::of(b"x");
    let by_digest = Query { digest: Some(digest), ..Query::default() };
    assert_eq!(Query::parse(&digest.to_string()).unwrap(), by_digest);
    assert_eq!(Query::parse(&digest.hex()).unwrap(), by_digest);

    let both = Query::parse("cafe").unwrap();
    assert_eq!(both.name.unwrap().to_string(), "cafe:latest");
    assert_eq!(both.id_prefix.as_deref(), Some("cafe"));

    assert_eq!(Query::parse("abc").unwrap().id_prefix, None);
    assert_eq!(Query::parse("sha256:abcd").unwrap().id_prefix.as_deref(), Some("abcd"));
    assert_eq!(Query::parse("sha256:tag").unwrap().name.unwrap().to_string(), "sha256:tag");

    let pinned = Query::parse(&format!("docker.io/library/demo@{digest}")).unwrap();
    assert_eq!((pinned.repository.as_deref(), pinned.digest), (Some("demo"), Some(digest)));
    assert!(Query::parse("demo@sha256:12").is_err());
    assert!(Query::parse("No Name").is_err());
}

proptest! {
    #[test]
    fn rendering_short_or_full_parses_back(
        // A dot in the first component would make it a host.
        text in "((localhost|[a-z]{1,5}\\.io)(:[1-9][0-9]{0,3})?/)?[a-z0-9]{1,6}((_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,5}(\\.[a-z0-9]{1,3})?){0,2}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,12})?"
    ) {
        let name: Name = text.parse().unwrap();
        prop_assert_eq!(&name.to_string().parse::<Name>().unwrap(), &name);
        prop_assert_eq!(&name.full().parse::<Name>().unwrap(), &name);
    }

    #[test]
    fn any_text_is_a_name_or_a_bounded_message(text in "\\PC{0,400}") {
        match text.parse::<Name>() {
            Ok(name) => prop_assert_eq!(&name.to_string().parse::<Name>().unwrap(), &name),
            Err(error) => prop_assert!(error.to_string().len() < 1500),
        }
    }
}
