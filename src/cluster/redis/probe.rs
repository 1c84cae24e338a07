//! Whether a Redis can be used, asked once and blocking: for `doctor`.

use super::address::RedisAddress;
use super::wire::Blocking;
use redis::cmd;
use std::io;

impl RedisAddress {
    /// Connects and authenticates as the bus does, within 4 s; gives the version of the server, `of unknown version` if
    /// this user may not ask for it. Errors hold no secret.
    pub fn probe(&self) -> io::Result<String> {
        let mut connection = Blocking::open(self, "synckit-doctor")?;
        let facts = connection.ask(cmd("INFO").arg("server")).ok();
        let facts: Option<String> = facts.and_then(|value| redis::from_redis_value(value).ok());
        let version = facts.as_deref().and_then(version);
        Ok(version.unwrap_or("of unknown version").to_owned())
    }
}

fn version(facts: &str) -> Option<&str> {
    facts.lines().find_map(|line| line.strip_prefix("redis_version:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_among_the_facts() {
        let facts = "# Server\r\nredis_version:7.0.15\r\nredis_git_sha1:0\r\n";
        assert_eq!(version(facts), Some("7.0.15"));
        assert_eq!(version("# Server\r\n"), None);
    }
}
