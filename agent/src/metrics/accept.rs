//! Which exposition format a scraper gets: a pure function of its `Accept` header.

/// The two text formats that `/metrics` speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4: the default, and what `curl` sees.
    Text,
    /// OpenMetrics 1.0: given to those who ask for it, as Prometheus itself does.
    OpenMetrics,
}

impl Format {
    /// Chooses by the header's quality values (RFC 9110, section 12.4.2). OpenMetrics
    /// must be asked for by name and in version 1.0.0 (or without a version) and not be
    /// liked less than plain text. Anything else, a missing or a broken header included,
    /// gets 0.0.4: a scraper is better served with the common format than with a 406.
    pub fn from_accept(header: Option<&str>) -> Format {
        let mut open_metrics = 0.0_f32;
        let mut text = 0.0_f32;
        for range in header.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let (mut version, mut quality) = (None, 1.0_f32);
            for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                match (key.trim(), value.trim().trim_matches('"')) {
                    ("version", value) => version = Some(value),
                    ("q", value) => quality = value.parse().unwrap_or(0.0),
                    _ => {}
                }
            }
            if media.eq_ignore_ascii_case("application/openmetrics-text") {
                if version.is_none_or(|version| version == "1.0.0") {
                    open_metrics = open_metrics.max(quality);
                }
            } else if media.eq_ignore_ascii_case("text/plain") {
                text = text.max(quality);
            }
        }
        if open_metrics > 0.0 && open_metrics >= text { Format::OpenMetrics } else { Format::Text }
    }

    /// The value of the answer's `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scraper_gets_the_format_it_likes_best() {
        use Format::{OpenMetrics, Text};
        for (header, expected) in [
            (None, Text),
            (Some(""), Text),
            (Some("*/*"), Text),
            (Some("text/html, */*;q=0.8"), Text),
            (Some("application/openmetrics-text"), OpenMetrics),
            (Some("application/openmetrics-text; version=1.0.0; charset=utf-8"), OpenMetrics),
            (Some("application/openmetrics-text;version=\"1.0.0\""), OpenMetrics),
            (Some("application/openmetrics-text;version=0.0.1"), Text),
            (Some("application/openmetrics-text;q=0"), Text),
            (Some("application/openmetrics-text;q=nonsense"), Text),
            (Some("text/plain;version=0.0.4, application/openmetrics-text;q=0.2"), Text),
            (Some("text/plain;q=0.5,application/openmetrics-text;q=0.5"), OpenMetrics),
            // Prometheus 2.42.
            (
                Some(
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                     version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ),
                OpenMetrics,
            ),
            // Prometheus 3.
            (
                Some(
                    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                     application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;\
                     escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                ),
                OpenMetrics,
            ),
            // Prometheus 1 and cAdvisor-time scrapers.
            (Some("text/plain;version=0.0.4;q=1,*/*;q=0.1"), Text),
        ] {
            assert_eq!(Format::from_accept(header), expected, "{header:?}");
        }
    }
}
