//! Patterns that match names of channels.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use net_transport::NodeId;

use crate::name::{ChannelName, NAME_LEN_MAX, NameError, Rules, check, replace_node};

/// A pattern of names, such as `vehicles/*/telemetry`: `*` is one segment, `**` any number of them, also none.
///
/// Wildcards never match a segment that begins with `$`; such a segment matches itself. A pattern without wildcards
/// matches the one name it is. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// The pattern as a user writes it: each segment `$node` becomes this node's id.
    ///
    /// # Errors
    /// [`NameError`] says which byte is wrong.
    pub fn open(text: &str, node: &NodeId) -> Result<Self, NameError> {
        check(text, Rules { wildcards: true, node: true, system: true })?;
        Self::bounded(&replace_node(text, node))
    }

    /// The pattern as it is, where `$node` has been replaced.
    ///
    /// # Errors
    /// [`NameError`] says which byte is wrong.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check(text, Rules { wildcards: true, node: false, system: true })?;
        Self::bounded(text)
    }

    fn bounded(text: &str) -> Result<Self, NameError> {
        if text.len() > NAME_LEN_MAX {
            return Err(NameError::TooLong { len: text.len() });
        }
        Ok(Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one name that a pattern without wildcards matches.
    #[must_use]
    pub fn as_name(&self) -> Option<ChannelName> {
        ChannelName::parse(&self.0).ok()
    }

    /// Does the pattern match this name? At most (segments of the pattern) × (segments of the name) comparisons, and
    /// no allocation.
    #[must_use]
    pub fn matches(&self, name: &ChannelName) -> bool {
        let mut pattern = self.0.split('/');
        let mut names = name.as_str().split('/');
        // After the last `**`: what follows it in the pattern, and where in the name that was tried. Giving an earlier
        // `**` more instead never helps: what follows it has matched at the earliest place there is.
        let mut retry = None;
        loop {
            let (mut pattern_next, mut names_next) = (pattern.clone(), names.clone());
            let matched = match (pattern_next.next(), names_next.next()) {
                (Some("**"), _) => {
                    pattern = pattern_next;
                    retry = Some((pattern.clone(), names.clone()));
                    continue;
                }
                (None, None) => return true,
                (Some(_), None) => return false,
                (Some("*"), Some(segment)) => !segment.starts_with('$'),
                (Some(literal), Some(segment)) => literal == segment,
                (None, Some(_)) => false,
            };
            if matched {
                (pattern, names) = (pattern_next, names_next);
                continue;
            }
            let Some((after, from)) = &mut retry else { return false };
            match from.next() {
                Some(segment) if !segment.starts_with('$') => (pattern, names) = (after.clone(), from.clone()),
                _ => return false,
            }
        }
    }
}

impl From<&ChannelName> for Pattern {
    fn from(name: &ChannelName) -> Self {
        Self(name.as_str().into())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for Pattern {
    type Err = NameError;

    /// As [`Pattern::parse`].
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::parse(pattern).expect(pattern).matches(&ChannelName::parse(name).expect(name))
    }

    #[test]
    fn wildcards_match_as_the_page_says() {
        for (pattern, name, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/c", false),
            ("a", "a/b", false),
            ("a/b", "a", false),
            ("*", "a", true),
            ("*", "a/b", false),
            ("a/*/c", "a/b/c", true),
            ("a/*/c", "a/c", false),
            ("**", "a", true),
            ("**", "a/b/c", true),
            ("a/**", "a", true),
            ("a/**", "a/b/c", true),
            ("a/**", "ab", false),
            ("**/c", "c", true),
            ("**/c", "a/b/c", true),
            ("**/c", "a/b/c/d", false),
            ("a/**/b/**/c", "a/b/b/x/c", true),
            ("**/*", "a", true),
            ("*/**/*", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn wildcards_never_match_a_segment_of_the_systems() {
        for (pattern, name, expected) in [
            ("*", "$rpc", false),
            ("**", "$rpc", false),
            ("**", "a/$rpc/b", false),
            ("$rpc/**", "$rpc/echo/1", true),
            ("**/$rpc/*", "a/b/$rpc/c", true),
            ("**/$rpc/*", "a/$x/$rpc/c", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn errors_name_the_byte() {
        assert_eq!(Pattern::parse("a/b*"), Err(NameError::Wildcard { at: 3 }));
        assert_eq!(Pattern::parse("a/***"), Err(NameError::Wildcard { at: 2 }));
        assert_eq!(Pattern::parse("a//b"), Err(NameError::EmptySegment { at: 2 }));
        assert_eq!(Pattern::parse("$node/*"), Err(NameError::NodeSegment { at: 0 }));
        let node = NodeId::from_bytes([7; 32]);
        assert_eq!(Pattern::open("$node/*", &node).expect("a pattern").as_str(), format!("{node}/*"));
    }

    #[test]
    fn a_pattern_without_wildcards_is_a_name() {
        assert_eq!(Pattern::parse("a/b").expect("good").as_name().expect("a name").as_str(), "a/b");
        assert_eq!(Pattern::parse("a/*").expect("good").as_name(), None);
    }

    #[test]
    fn the_worst_pattern_ends_soon() {
        // 64 times `**/a` and a name of 127 `a`: the steps are counted by the product of the two, not by a power.
        let pattern = format!("{}b", "**/a/".repeat(50));
        let name = vec!["a"; 127].join("/");
        assert!(!matches(&pattern, &name));
    }

    /// What the page says, word by word.
    fn brute_force(pattern: &[&str], name: &[&str]) -> bool {
        match pattern {
            [] => name.is_empty(),
            ["**", rest @ ..] => (0..=name.len())
                .take_while(|&n| name[..n].iter().all(|s| !s.starts_with('$')))
                .any(|n| brute_force(rest, &name[n..])),
            [first, rest @ ..] => name.split_first().is_some_and(|(segment, names)| {
                (segment == first || *first == "*" && !segment.starts_with('$')) && brute_force(rest, names)
            }),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn matching_equals_brute_force(
            pattern in prop::collection::vec(prop::sample::select(vec!["a", "b", "$x", "*", "**"]), 1..8),
            name in prop::collection::vec(prop::sample::select(vec!["a", "b", "$x"]), 1..8),
        ) {
            prop_assert_eq!(matches(&pattern.join("/"), &name.join("/")), brute_force(&pattern, &name));
        }
    }
}
