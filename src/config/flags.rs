//! Command-line flags. They exist for what people change between two starts by hand; everything else is a variable.

use super::values;
use clap::Parser;
use std::net::IpAddr;

/// The flags; each beats its variable.
#[derive(Clone, Debug, Default, Parser)]
#[command(
    name = "synckit-server",
    version,
    about = "SyncKit server: real-time document synchronisation over WebSocket",
    after_help = "Everything else is set by environment variables: HOST, PORT, JWT_SECRET, SYNCKIT_AUTH_REQUIRED, \
                  SYNCKIT_ENV, CORS_ORIGINS, TRUSTED_PROXIES and more (docs/protocol.md, section 20). \
                  The effective values are logged at start with RUST_LOG=debug."
)]
pub struct Flags {
    /// Number of shards, one core each; 0 = one per core [env: SYNCKIT_SHARDS]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=1023))]
    pub shards: Option<u16>,
    /// TCP port to listen on [env: PORT, default 8080]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// IP address to listen on [env: HOST, default 0.0.0.0]
    #[arg(long, value_name = "ADDRESS", value_parser = host)]
    pub host: Option<IpAddr>,
}

fn host(text: &str) -> Result<IpAddr, String> {
    values::host(text).map_err(|expected| format!("accepted: {}", expected.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_are_consistent_and_parse() {
        Flags::command().debug_assert();
        let flags = Flags::try_parse_from(["s", "--shards", "4", "--port", "0", "--host", "localhost"]).unwrap();
        assert_eq!((flags.shards, flags.port), (Some(4), Some(0)));
        assert_eq!(flags.host.unwrap().to_string(), "127.0.0.1");
        assert!(Flags::try_parse_from(["s", "--shards", "1024"]).is_err());
        assert!(Flags::try_parse_from(["s", "--host", "example.com"]).is_err());
    }
}
