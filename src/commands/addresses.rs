//! Where a server listens by default.
//!
//! It refuses to know what is served there. **Invariant:** where neither an address nor `$PORT` is given, only
//! this machine reaches it.

use std::env;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use super::options::UsageError;
use crate::config;

/// The addresses that are given, or the default: all addresses at `$PORT`, which platforms set that expect
/// just that; [`config::ADDRESS`] without it, unless there is TLS. Binds a socket to find out which families the machine has.
pub(super) fn or_default(
    given: Vec<SocketAddr>,
    has_tls: bool,
) -> Result<Vec<SocketAddr>, UsageError> {
    if !given.is_empty() {
        return Ok(given);
    }
    let Some(port) = env::var_os("PORT").filter(|port| !port.is_empty()) else {
        let none_or_one = (!has_tls).then_some(config::ADDRESS);
        return Ok(none_or_one.into_iter().collect());
    };
    let port = port
        .to_str()
        .and_then(|port| port.parse().ok())
        .ok_or(UsageError(
            "the environment variable PORT is not a port number",
        ))?;
    // One socket for both families, where the machine has both.
    let both = IpAddr::from(Ipv6Addr::UNSPECIFIED);
    let address = match TcpListener::bind((both, 0)) {
        Ok(_) => both,
        Err(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
    };
    Ok(vec![SocketAddr::from((address, port))])
}

/// Whether the platform sets a port that is not used, since addresses are `given`.
pub(super) fn is_port_passed_over(given: &[SocketAddr]) -> bool {
    !given.is_empty() && env::var_os("PORT").is_some_and(|port| !port.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_arguments_a_server_listens_on_loopback_unless_there_is_tls() {
        let loopback = "127.0.0.1:8080".parse().unwrap();
        assert_eq!(or_default(Vec::new(), false).unwrap(), [loopback]);
        assert_eq!(or_default(Vec::new(), true).unwrap(), []);
    }
}
