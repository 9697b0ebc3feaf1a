//! Which of an index's images is meant: operating system, architecture, variant. Pure.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use oci_spec::image::{Arch, Descriptor, ImageIndex, Os};

use crate::error::{Error, Result};

/// `linux/amd64`, `linux/arm64/v8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: Option<String>,
}

impl Platform {
    /// What runs here.
    pub fn host() -> Platform {
        let (os, architecture) = (Os::Linux.to_string(), Arch::default().to_string());
        Platform { os, architecture, variant: None }
    }

    /// The entries of an index that may lead to an image of this platform, the best first.
    /// Those without a platform may lead anywhere.
    pub(crate) fn choices<'i>(&self, index: &'i ImageIndex) -> Vec<&'i Descriptor> {
        let mut choices: Vec<&Descriptor> = index.manifests().iter().collect();
        choices.retain(|descriptor| !is_attestation(descriptor) && self.fits(descriptor));
        choices.sort_by_key(|descriptor| self.rank(descriptor));
        choices
    }

    fn fits(&self, descriptor: &Descriptor) -> bool {
        let Some(platform) = descriptor.platform() else { return true };
        let is_variant = match (&self.variant, platform.variant()) {
            (Some(wanted), Some(variant)) => wanted == variant,
            _ => true,
        };
        platform.os().to_string() == self.os
            && platform.architecture().to_string() == self.architecture
            && is_variant
    }

    /// A processor of the newest variant is not taken for granted.
    fn rank(&self, descriptor: &Descriptor) -> u8 {
        let Some(platform) = descriptor.platform() else { return 2 };
        match (&self.variant, platform.variant().as_deref()) {
            (Some(_), Some(_)) | (None, None | Some("v1" | "v8")) => 0,
            _ => 1,
        }
    }
}

/// BuildKit's provenance and SBOM documents look like images of platform unknown.
fn is_attestation(descriptor: &Descriptor) -> bool {
    let kind =
        descriptor.annotations().as_ref().and_then(|all| all.get("vnd.docker.reference.type"));
    kind.is_some_and(|kind| kind == "attestation-manifest")
}

/// The platforms in an index, for whoever finds none that fits.
pub(crate) fn available(index: &ImageIndex) -> Vec<String> {
    let descriptors = index.manifests().iter().filter(|descriptor| !is_attestation(descriptor));
    let platforms = descriptors.filter_map(|descriptor| descriptor.platform().as_ref());
    let mut names: Vec<String> = platforms
        .map(|platform| {
            let variant = platform.variant().as_ref().map(|variant| format!("/{variant}"));
            format!("{}/{}{}", platform.os(), platform.architecture(), variant.unwrap_or_default())
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

impl Display for Platform {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Platform> {
        let parts: Vec<&str> = text.split('/').collect();
        let is_word = |part: &&str| {
            !part.is_empty()
                && part.len() <= 32
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        let (os, architecture, variant) = match parts[..] {
            [os] => (os, None, None),
            [os, architecture] => (os, Some(architecture), None),
            [os, architecture, variant] => (os, Some(architecture), Some(variant)),
            _ => ("", None, None),
        };
        if !parts.iter().all(is_word) || os.is_empty() {
            let value = text.chars().take(80).collect();
            let allowed = "OS[/ARCHITECTURE[/VARIANT]], such as linux/arm64";
            return Err(Error::InvalidOption { option: "platform", value, allowed });
        }
        let architecture = match architecture.map(str::to_lowercase).as_deref() {
            None => Platform::host().architecture,
            Some("x86_64" | "x86-64") => "amd64".into(),
            Some("aarch64") => "arm64".into(),
            Some(other) => other.to_owned(),
        };
        let variant = variant.map(str::to_lowercase);
        Ok(Platform { os: os.to_lowercase(), architecture, variant })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[(&str, &str)]) -> ImageIndex {
        let entry = |(size, (architecture, rest)): (usize, &(&str, &str))| {
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":{size},
                "digest":"sha256:{:064x}"{}{rest}}}"#,
                size,
                match *architecture {
                    "" => String::new(),
                    name => format!(r#","platform":{{"os":"linux","architecture":{name}}}"#),
                }
            )
        };
        let entries: Vec<String> = platforms.iter().enumerate().map(entry).collect();
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_best_fitting_image_comes_first() {
        let attestation = r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#;
        let index = index(&[
            (r#""amd64","variant":"v3""#, ""),
            (r#""arm64","variant":"v8""#, ""),
            (r#""amd64""#, ""),
            (r#""amd64""#, attestation),
            ("", ""),
        ]);
        let check = |platform: &str, expected: &[u64]| {
            let platform: Platform = platform.parse().unwrap();
            let found: Vec<u64> = platform.choices(&index).iter().map(|it| it.size()).collect();
            assert_eq!(found, expected, "{platform}");
        };
        check("linux/amd64", &[2, 0, 4]);
        check("linux/amd64/v3", &[0, 2, 4]);
        check("linux/arm64", &[1, 4]);
        check("linux/s390x", &[4]);
        assert_eq!(available(&index), ["linux/amd64", "linux/amd64/v3", "linux/arm64/v8"]);
    }

    #[test]
    fn platforms_are_read_and_shown() {
        let check = |text: &str, expected: Option<&str>| {
            let found = text.parse::<Platform>().ok().map(|platform| platform.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        };
        check("linux/arm/v7", Some("linux/arm/v7"));
        check("Linux/x86_64", Some("linux/amd64"));
        check("linux/aarch64", Some("linux/arm64"));
        check("linux", Some(&format!("linux/{}", Arch::default())));
        for text in ["", "/", "linux/", "linux/a/b/c", "linux/a b"] {
            check(text, None);
        }
    }
}
