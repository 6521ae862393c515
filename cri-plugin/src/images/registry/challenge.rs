//! `WWW-Authenticate`: what a registry wants to see (RFC 9110, 11.6.1). Pure; the bytes are foreign.

/// A challenge that can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token from a token server (distribution-spec's auth, "token").
    Bearer {
        /// The token server's URL.
        realm: String,
        /// What the token server calls the registry; may be empty.
        service: String,
        /// What the registry wants allowed; empty if it does not say.
        scope: String,
    },
}

/// The best challenge in the values of all `WWW-Authenticate` headers: Bearer before Basic.
pub fn best<'a>(values: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let all: Vec<Challenge> = values.flat_map(parse).collect();
    all.iter().find(|c| matches!(c, Challenge::Bearer { .. })).or(all.first()).cloned()
}

/// The challenges of one header that are known, in order.
fn parse(value: &str) -> Vec<Challenge> {
    let mut rest = value;
    let mut found = Vec::new();
    let mut current: Option<(String, Vec<(String, String)>)> = None;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = token(rest);
        if word.is_empty() {
            break;
        }
        let after = after.trim_start_matches([' ', '\t']);
        match after.strip_prefix('=').map(|after| value_of(after.trim_start_matches([' ', '\t']))) {
            Some((text, after)) => {
                rest = after;
                if let Some((_, parameters)) = &mut current {
                    parameters.push((word.to_ascii_lowercase(), text));
                }
            }
            None => {
                found.extend(current.take().and_then(known));
                current = Some((word.to_ascii_lowercase(), Vec::new()));
                rest = after;
            }
        }
    }
    found.extend(current.and_then(known));
    found
}

/// The characters of an RFC 9110 token, and what follows.
fn token(text: &str) -> (&str, &str) {
    let legal = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c);
    text.split_at(text.find(|c| !legal(c)).unwrap_or(text.len()))
}

/// A quoted string, or everything to the next comma or blank.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_string(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

fn known((scheme, parameters): (String, Vec<(String, String)>)) -> Option<Challenge> {
    let parameter = |name: &str| parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).unwrap_or_default();
    match scheme.as_str() {
        "basic" => Some(Challenge::Basic),
        "bearer" if !parameter("realm").is_empty() => Some(Challenge::Bearer {
            realm: parameter("realm"),
            service: parameter("service"),
            scope: parameter("scope"),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: &str, scope: &str) -> Challenge {
        Challenge::Bearer { realm: realm.into(), service: service.into(), scope: scope.into() }
    }

    #[test]
    fn challenges_of_real_registries() {
        for (text, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull""#,
                Some(bearer("https://auth.docker.io/token", "registry.docker.io", "repository:a/b:pull")),
            ),
            (r#"bearer  realm = "https://q.io/t" , service = q.io"#, Some(bearer("https://q.io/t", "q.io", ""))),
            (r#"Basic realm="Registry Realm""#, Some(Challenge::Basic)),
            (r#"Basic realm="x", Bearer realm="https://t""#, Some(bearer("https://t", "", ""))),
            (r#"Negotiate, Basic realm="a, b=\"c\"""#, Some(Challenge::Basic)),
            (
                r#"Bearer realm="https://t",scope="repository:a:pull,push""#,
                Some(bearer("https://t", "", "repository:a:pull,push")),
            ),
            ("Bearer error=\"invalid_token\"", None),
            ("Bearer realm=\"unterminated", Some(bearer("unterminated", "", ""))),
            ("Digest realm=\"x\"", None),
            ("", None),
            ("=,=\"", None),
        ] {
            assert_eq!(best([text].into_iter()), expected, "{text}");
        }
    }

    #[test]
    fn bearer_is_preferred_over_all_headers() {
        let values = ["Basic realm=\"r\"", "Bearer realm=\"https://t\""];
        assert_eq!(best(values.into_iter()), Some(bearer("https://t", "", "")));
    }

    proptest! {
        #[test]
        fn any_header_ends(text in "\\PC{0,200}") {
            let _ = best([text.as_str()].into_iter());
        }

        #[test]
        fn quoted_values_come_back(realm in "[^\"\\\\]{1,40}", service in "[a-z.]{0,20}") {
            let text = format!("Bearer realm=\"{realm}\",service=\"{service}\"");
            prop_assert_eq!(best([text.as_str()].into_iter()), Some(bearer(&realm, &service, "")));
        }
    }
}
