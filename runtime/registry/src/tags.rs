//! The tags of a repository, page by page.

use bytes::Bytes;
use hyper::header::LINK;
use hyper::{HeaderMap, Method};
use serde::Deserialize;
use url::Url;

use crate::error::{Error, Result, shown};
use crate::registry::{Call, Registry, follow, scope};

/// Of one page.
const BYTES: u64 = 4 << 20;
const PER_PAGE: &str = "1000";
/// More tags of one repository are not listed.
const MOST_TAGS: usize = 10_000;

#[derive(Deserialize)]
struct Page {
    /// Some registries say `null` for none.
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Registry {
    /// All tags that a repository has, as the registry orders them.
    ///
    /// # Errors
    /// [`Error::Answer`] if they are more than ten thousand, or the registry goes in a circle.
    pub async fn tags(&self, repository: &str) -> Result<Vec<String>> {
        let what = format!("tags of {}/{repository}", self.authority());
        let mut url = self.url(&format!("{repository}/tags/list")).await?;
        url.query_pairs_mut().append_pair("n", PER_PAGE);
        let mut tags = Vec::new();
        loop {
            let call = Call {
                method: Method::GET,
                url: url.clone(),
                headers: Vec::new(),
                scopes: &[scope(repository, "pull")],
                what: &what,
            };
            let response = self.persist(&call).await?;
            let next = next_page(response.headers()).map(str::to_owned);
            let content = self.0.transport.read(response, &what, BYTES).await?;
            let page = parse(&url, &content)?;
            let more = !page.is_empty();
            tags.extend(page);
            let Some(next) = next.filter(|_| more) else { return Ok(tags) };
            if tags.len() > MOST_TAGS {
                let reason = format!("{what} are more than {MOST_TAGS}, which is what is listed");
                return Err(Error::Answer { address: shown(&url), reason });
            }
            let to = follow(&url, &next)?;
            if to.origin() != url.origin() {
                let reason = "its next page of tags is somebody else's".into();
                return Err(Error::Answer { address: shown(&url), reason });
            }
            url = to;
        }
    }
}

fn parse(url: &Url, content: &Bytes) -> Result<Vec<String>> {
    let page: Page = serde_json::from_slice(content).map_err(|_| Error::Answer {
        address: shown(url),
        reason: "its list of tags is no JSON of that kind".into(),
    })?;
    Ok(page.tags.unwrap_or_default())
}

/// `</v2/demo/tags/list?last=b&n=2>; rel="next"`.
fn next_page(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(LINK)?.to_str().ok()?;
    let (address, parameters) = text.strip_prefix('<')?.split_once('>')?;
    parameters.replace(' ', "").contains("rel=\"next\"").then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_where_the_link_says() {
        let check = |text: &'static str, expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(LINK, text.parse().unwrap());
            assert_eq!(next_page(&headers), expected, "{text}");
        };
        check("</v2/d/tags/list?last=b>; rel=\"next\"", Some("/v2/d/tags/list?last=b"));
        check("</x>;rel=\"next\"", Some("/x"));
        check("</x>; rel=\"prev\"", None);
        check("/x; rel=\"next\"", None);
        assert_eq!(next_page(&HeaderMap::new()), None);
    }

    #[test]
    fn a_repository_without_tags_says_null_or_nothing() {
        let url: Url = "https://r/v2/d/tags/list".parse().unwrap();
        let parse = |text: &'static str| parse(&url, &Bytes::from_static(text.as_bytes()));
        assert_eq!(parse(r#"{"name":"d","tags":null}"#).unwrap(), [""; 0]);
        assert_eq!(parse(r#"{"name":"d"}"#).unwrap(), [""; 0]);
        assert_eq!(parse(r#"{"tags":["a","b"]}"#).unwrap(), ["a", "b"]);
        assert!(parse("<html>").is_err());
    }
}
