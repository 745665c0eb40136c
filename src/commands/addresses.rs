//! Where a server listens by default, and where it is reached.

use std::env;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use super::options::UsageError;

/// All addresses at `$PORT`, which platforms set that expect just that; `127.0.0.1:8080` without it,
/// unless there is TLS.
pub(super) fn default_listen(has_tls: bool) -> Result<Vec<SocketAddr>, UsageError> {
    let Some(port) = env::var_os("PORT").filter(|port| !port.is_empty()) else {
        let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
        return Ok(if has_tls { Vec::new() } else { vec![default] });
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

/// Where to reach a server on this machine that listens on `address`.
pub(super) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_all_addresses_is_reached_on_loopback() {
        for (address, reached) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
        ] {
            let reached = reached.parse().unwrap();
            assert_eq!(reachable(address.parse().unwrap()), reached);
        }
    }
}
