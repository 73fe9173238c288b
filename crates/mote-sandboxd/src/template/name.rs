//! Names and tags of templates, as E2B reads them: `name`, `name:tag`; letters become lower case.

use mote_sandbox_api::error::Failure;

use crate::limits::{TEMPLATE_NAME_BYTES_MAX, TEMPLATE_TAGS_MAX};

/// The tag of a build that names none.
pub const DEFAULT_TAG: &str = "default";

/// Names that mean something else where a sandbox is made: the daemon's default image, and the host's root.
pub const RESERVED: [&str; 3] = ["base", "code-interpreter-v1", "host"];

fn part(field: &str, text: &str, more: &[char]) -> Result<String, Failure> {
    let text = text.trim().to_ascii_lowercase();
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_' || more.contains(&c);
    if text.is_empty() || text.len() > TEMPLATE_NAME_BYTES_MAX || !text.chars().all(good) {
        let also = if more.is_empty() { "" } else { ", '.'" };
        let what = format!("{text:?} is not 1 to {TEMPLATE_NAME_BYTES_MAX} of a-z, 0-9, '-', '_'{also}");
        return Err(Failure::invalid(field, what));
    }
    Ok(text)
}

/// A tag in the form in which it is kept.
///
/// # Errors
/// `invalid`.
pub fn tag(text: &str) -> Result<String, Failure> {
    part("tag", text, &['.'])
}

/// A name or id, and the tag behind it where there is one.
///
/// # Errors
/// `invalid`.
pub fn parse(text: &str) -> Result<(String, Option<String>), Failure> {
    let (name, tagged) = match text.split_once(':') {
        Some((name, tagged)) => (name, Some(tag(tagged)?)),
        None => (text, None),
    };
    Ok((part("name", name, &[])?, tagged))
}

/// The tags of a build: those of its name and of its list, each once; the default one where there is none.
///
/// # Errors
/// `invalid`; more than [`TEMPLATE_TAGS_MAX`].
pub fn tags(named: Option<String>, listed: &[String]) -> Result<Vec<String>, Failure> {
    let mut tags: Vec<String> = named.into_iter().collect();
    for text in listed {
        let next = tag(text)?;
        if !tags.contains(&next) {
            tags.push(next);
        }
    }
    if tags.is_empty() {
        tags.push(DEFAULT_TAG.to_owned());
    }
    if tags.len() > TEMPLATE_TAGS_MAX {
        return Err(Failure::invalid("tags", format!("a build has at most {TEMPLATE_TAGS_MAX} tags"))
            .with("limit", TEMPLATE_TAGS_MAX));
    }
    Ok(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_tags_are_read_as_e2b_reads_them() {
        assert_eq!(parse(" My-Env ").unwrap(), ("my-env".to_owned(), None));
        assert_eq!(parse("env:V1.0").unwrap(), ("env".to_owned(), Some("v1.0".to_owned())));
        for wrong in ["", ":v1", "env:", "a b", "a/b", "a.b", "env:v/1", "env:a:b", &"x".repeat(129)] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        let list = |tags: &[&str]| tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>();
        assert_eq!(tags(None, &[]).unwrap(), [DEFAULT_TAG]);
        assert_eq!(tags(Some("v1".to_owned()), &list(&["Stable", "v1"])).unwrap(), ["v1", "stable"]);
        assert!(tags(None, &list(&["a b"])).is_err());
    }
}
