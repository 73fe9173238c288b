//! The allowlist of hosts that a tool's redirects may lead to.
//!
//! It compares names and ports. It does not know addresses; [`super::network`] does.

use reqwest::Url;

/// Hosts that a tool may be led to: its own, and those that it names.
#[derive(Debug, Clone)]
pub struct Allowlist {
    own: (String, u16),
    named: Vec<(String, Option<u16>)>,
}

/// An entry that is neither `host` nor `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("allow_hosts: {0:?} is neither host nor host:port")]
pub struct Malformed(pub String);

impl Allowlist {
    /// `url` is the tool's own, with its placeholders filled by anything; `named` is `allow_hosts`.
    ///
    /// # Errors
    /// The first malformed entry.
    pub fn new(url: &Url, named: &[String]) -> Result<Self, Malformed> {
        let own = endpoint(url).ok_or_else(|| Malformed(url.host_str().unwrap_or_default().to_owned()))?;
        let named = named.iter().map(|entry| parse(entry)).collect::<Result<_, _>>()?;
        Ok(Self { own, named })
    }

    /// Whether `url` may be requested: the tool's own host and port, or a named one. A name without a port means the
    /// default port of the URL's scheme.
    #[must_use]
    pub fn allows(&self, url: &Url) -> bool {
        let Some((host, port)) = endpoint(url) else { return false };
        let default = default_port(url.scheme());
        let matches = |(name, wanted): &(String, Option<u16>)| *name == host && wanted.or(default) == Some(port);
        self.is_own(url) || self.named.iter().any(matches)
    }

    /// Whether `url` leads to the tool's own backend, which alone gets its headers: the same host on the same port, or
    /// the same host upgraded from port 80 to HTTPS on 443.
    #[must_use]
    pub fn is_own(&self, url: &Url) -> bool {
        let Some((host, port)) = endpoint(url) else { return false };
        host == self.own.0 && (port == self.own.1 || (self.own.1 == 80 && port == 443 && url.scheme() == "https"))
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

fn endpoint(url: &Url) -> Option<(String, u16)> {
    Some((canonical(url.host_str()?), url.port_or_known_default()?))
}

fn canonical(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// Lets the URL parser read the entry, so that both sides of a comparison are written alike (case, IDNA, IPv6).
fn parse(entry: &str) -> Result<(String, Option<u16>), Malformed> {
    let malformed = || Malformed(entry.to_owned());
    if entry.is_empty() || entry.contains(['/', '?', '#', '@', '\\', '*']) || entry.contains(char::is_whitespace) {
        return Err(malformed());
    }
    let url = Url::parse(&format!("http://{entry}/")).map_err(|_| malformed())?;
    let host = canonical(url.host_str().ok_or_else(malformed)?);
    // The parser drops :80 as HTTP's default, but here it was written.
    let written = entry.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !entry.ends_with(']'));
    let port = written.map(|(_, port)| port.parse::<u16>().map_err(|_| malformed())).transpose()?;
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowlist(url: &str, named: &[&str]) -> Allowlist {
        let named: Vec<String> = named.iter().map(|&name| name.to_owned()).collect();
        Allowlist::new(&Url::parse(url).unwrap(), &named).unwrap()
    }

    #[test]
    fn own_host_and_named_hosts() {
        let list = allowlist("https://api.example/x", &["cdn.example", "Files.Example:8443", "[::1]:9000"]);
        for url in [
            "https://api.example/y",
            "https://API.example./y",
            "https://cdn.example/z",
            "http://cdn.example/z",
            "https://files.example:8443/",
            "http://[::1]:9000/",
        ] {
            assert!(list.allows(&Url::parse(url).unwrap()), "{url}");
        }
        for url in [
            "https://api.example:444/y",
            "https://evil.example/",
            "https://sub.cdn.example/",
            "https://cdn.example:81/",
            "https://files.example/",
            "http://[::1]/",
            "https://api.example.evil.example/",
        ] {
            assert!(!list.allows(&Url::parse(url).unwrap()), "{url}");
        }
    }

    #[test]
    fn the_upgrade_to_https_stays_at_home() {
        let list = allowlist("http://api.example/x", &[]);
        assert!(list.is_own(&Url::parse("https://api.example/x").unwrap()));
        let custom = allowlist("http://api.example:8080/x", &[]);
        assert!(!custom.is_own(&Url::parse("https://api.example/x").unwrap()));
    }

    #[test]
    fn malformed_entries_are_named() {
        let url = Url::parse("https://api.example/").unwrap();
        for entry in ["", "*.example", "http://x", "a b", "host:port", "host:99999", "user@host", "host/path"] {
            let error = Allowlist::new(&url, &[entry.to_owned()]).unwrap_err();
            assert_eq!(error, Malformed(entry.to_owned()));
        }
    }
}
