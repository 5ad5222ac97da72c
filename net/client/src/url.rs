//! Connection strings: `catena://host:port,host2:port?client_id=x&timeout=5s`, and under TLS
//! `catenas://host:port?ca=ca.pem`.

use std::{str::FromStr, time::Duration};

use crate::{error::Error, options::Options, tls::TlsOptions};

const SCHEME: &str = "catena://";
const TLS_SCHEME: &str = "catenas://";
const PORT: u16 = 9200;
const KEYS: &str = "client_id and timeout";
const TLS_KEYS: &str = "client_id, timeout, ca, cert, key and server_name";

impl FromStr for Options {
    type Err = Error;

    /// Reads a connection string. A server without a port has 9200, IPv6 addresses stand in
    /// brackets, and values may be percent-encoded.
    ///
    /// | key | meaning | by default |
    /// |---|---|---|
    /// | `client_id` | what the client calls itself | `catena-rust` |
    /// | `timeout` | how long a request may take, as `500ms` or `1m 30s` | `10s` |
    ///
    /// `catenas://` in place of `catena://` is TLS, and knows further keys:
    ///
    /// | key | meaning | by default |
    /// |---|---|---|
    /// | `ca` | the PEM file of the authorities to trust | must be given |
    /// | `cert`, `key` | the PEM files of the client's certificate and its key | none |
    /// | `server_name` | whose certificate a server must have | the host connected to |
    ///
    /// ```
    /// # use catena_client::Options;
    /// let options: Options = "catena://one:9200,two?client_id=billing&timeout=5s".parse()?;
    /// assert_eq!(options.server, "one:9200,two:9200");
    /// assert_eq!(options.request_timeout, std::time::Duration::from_secs(5));
    /// # Ok::<(), catena_client::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Option`] names what is unknown, comes twice or cannot be read.
    fn from_str(url: &str) -> Result<Self, Error> {
        let plain = url.strip_prefix(SCHEME).map(|rest| (rest, false));
        let either = plain.or_else(|| url.strip_prefix(TLS_SCHEME).map(|rest| (rest, true)));
        let (rest, secure) = either.ok_or_else(|| {
            refused(format!("`{url}` begins neither with {SCHEME} nor with {TLS_SCHEME}"))
        })?;
        let (servers, query) = rest.split_once('?').unwrap_or((rest, ""));
        let servers = servers.strip_suffix('/').unwrap_or(servers);
        let servers: Vec<String> = servers.split(',').map(server).collect::<Result<_, _>>()?;
        let mut options = Self { server: servers.join(","), ..Self::default() };
        let mut seen = Vec::new();
        let mut tls = Tls::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if seen.contains(&key) {
                return Err(refused(format!("`{key}` comes twice")));
            }
            seen.push(key);
            let value = decoded(value).ok_or_else(|| refused(format!("{key}: `{value}`")))?;
            match key {
                "client_id" => options.client_id = value,
                "timeout" => options.request_timeout = timeout(&value)?,
                "ca" if secure => tls.ca = Some(value),
                "cert" if secure => tls.cert = Some(value),
                "key" if secure => tls.key = Some(value),
                "server_name" if secure => tls.server_name = Some(value),
                unknown => {
                    let (scheme, keys) =
                        if secure { (TLS_SCHEME, TLS_KEYS) } else { (SCHEME, KEYS) };
                    let text = format!("`{unknown}` is no key of a {scheme} string: {keys} are");
                    return Err(refused(text));
                }
            }
        }
        options.tls = if secure { Some(tls.options()?) } else { None };
        Ok(options)
    }
}

/// The keys of TLS, as they come.
#[derive(Default)]
struct Tls {
    ca: Option<String>,
    cert: Option<String>,
    key: Option<String>,
    server_name: Option<String>,
}

impl Tls {
    fn options(self) -> Result<TlsOptions, Error> {
        let ca = self.ca.ok_or_else(|| {
            refused(format!("{TLS_SCHEME} needs `ca`, the file of the authorities to trust"))
        })?;
        let options = TlsOptions { server_name: self.server_name, ..TlsOptions::new(ca) };
        match (self.cert, self.key) {
            (None, None) => Ok(options),
            (Some(cert), Some(key)) => Ok(options.with_identity(cert, key)),
            _ => Err(refused("`cert` and `key` go together".to_owned())),
        }
    }
}

fn refused(text: String) -> Error {
    Error::Option(text)
}

fn timeout(text: &str) -> Result<Duration, Error> {
    let timeout = humantime::parse_duration(text);
    let timeout = timeout.map_err(|error| refused(format!("timeout: `{text}`: {error}")))?;
    if timeout.is_zero() { Err(refused("timeout: above zero".to_owned())) } else { Ok(timeout) }
}

/// `host:port`, with the port that was left out.
pub(crate) fn server(text: &str) -> Result<String, Error> {
    let wrong = || refused(format!("`{text}` is no server: host:port is"));
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
        _ => (text, PORT),
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let strange = |c: char| c.is_whitespace() || "/@[]".contains(c);
    let good = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains(':') && !host.contains(strange),
    };
    if good { Ok(format!("{host}:{port}")) } else { Err(wrong()) }
}

/// The text behind percent signs; `None` when they make none.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        let hex = std::str::from_utf8(digits).ok().filter(|_| digits.is_ascii())?;
        bytes.push(u8::from_str_radix(hex, 16).ok().filter(|_| !hex.starts_with('+'))?);
        rest = behind;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(url: &str) -> String {
        url.parse::<Options>().unwrap_err().to_string()
    }

    #[test]
    fn a_connection_string_is_read() {
        let url = "catena://a:1,[::1]:2,b,[::1]/?client_id=my%20app&timeout=1m 5s";
        let options: Options = url.parse().unwrap();
        assert_eq!(options.server, "a:1,[::1]:2,b:9200,[::1]:9200");
        assert_eq!(options.client_id, "my app");
        assert_eq!(options.request_timeout, Duration::from_secs(65));
        assert_eq!("catena://127.0.0.1:9200".parse::<Options>().unwrap(), Options::default());
    }

    #[test]
    fn tls_is_a_scheme_and_its_files() {
        let tls = |url: &str| url.parse::<Options>().unwrap().tls.unwrap();
        assert_eq!(tls("catenas://a?ca=/x%20y.pem"), TlsOptions::new("/x y.pem"));
        let all = tls("catenas://a?ca=a&cert=b&key=c&server_name=d");
        assert_eq!(all, TlsOptions::new("a").with_identity("b", "c").with_server_name("d"));
        assert!(error("catenas://a").contains("needs `ca`"));
        assert!(error("catenas://a?ca=a&cert=b").contains("go together"));
        assert!(error("catena://a?ca=a").contains("`ca` is no key of a catena:// string"));
    }

    #[test]
    fn plain_servers_are_read_as_those_of_a_connection_string() {
        let servers = Options::new("one, two:1,[::1]").servers().unwrap();
        assert_eq!(servers, ["one:9200", "two:1", "[::1]:9200"]);
        let tls = Some(TlsOptions::new("ca.pem"));
        assert_eq!(Options::of("a:1", tls.clone()).unwrap().tls, tls);
        assert_eq!(Options::of("catena://a", None).unwrap().server, "a:9200");
        for (server, tls) in [("a:b", None), ("", None), ("catena://a", tls), ("kafka://a", None)] {
            assert!(matches!(Options::of(server, tls), Err(Error::Option(_))), "{server}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(error("catena://a?clientid=x").contains("`clientid`"));
        assert!(error("catena://a?timeout=1s&timeout=2s").contains("`timeout` comes twice"));
        assert!(error("catena://a?timeout=soon").contains("soon"));
        assert!(error("catena://a?timeout=0s").contains("above zero"));
        assert!(error("catena://a?client_id=%zz").contains("client_id"));
        assert!(error("catena://a?client_id=%+1").contains("client_id"));
        assert!(error("kafka://a").contains("catena://"));
        for server in ["", "a:b", "a,,b", "a:99999", "user@a:1", "a/b", "::1", "[1:2", "[x]:1"] {
            assert!(error(&format!("catena://{server}")).contains("is no server"), "{server}");
        }
    }
}
