//! Limits on connections (docs/protocol.md §1 and §17): per address and in total, refused by an upgrade and a close
//! 1008 that browsers can read, released when a connection ends. A forged `X-Forwarded-For` changes nothing unless the
//! peer is a trusted proxy, and then only the entry that proxy wrote counts.

use test_support as support;

use support::client::Options;
use support::{Client, Dialect, Server, eventually};

const PER_ADDRESS: (u16, &str) = (1008, "Too many connections from your IP");

fn from(server: &Server, forwarded: &str) -> Client {
    let options = Options {
        headers: &[("X-Forwarded-For", forwarded)],
        ..Default::default()
    };
    Client::connect_with(server.address(), Dialect::Json, &options).expect("refusals come after the upgrade")
}

fn limited(limit: usize) -> support::ServerBuilder {
    Server::with().env("SYNCKIT_MAX_CONNECTIONS_PER_IP", limit)
}

fn assert_refused(mut client: Client) {
    let (code, reason) = client.expect_close();
    assert_eq!((code, reason.as_str()), PER_ADDRESS);
}

#[test]
fn behind_a_trusted_proxy_each_client_address_has_its_limit() {
    let server = limited(5).env("TRUSTED_PROXIES", "127.0.0.0/8").shards(3).start();
    let mut first: Vec<Client> = (0..5).map(|_| from(&server, "203.0.113.7")).collect();
    first.iter_mut().for_each(Client::fence);
    assert_refused(from(&server, "203.0.113.7"));
    assert_refused(from(&server, "198.51.100.1, 203.0.113.7"));
    assert_refused(from(&server, "203.0.113.7, 127.0.0.9"));
    assert_refused(from(&server, "::ffff:203.0.113.7"));
    from(&server, "203.0.113.8").fence();

    first.pop().expect("five of them").close();
    eventually("the place is free again", || {
        let mut client = from(&server, "203.0.113.7");
        client.say("ping", serde_json::json!({}));
        client
            .next_within(support::SILENCE)
            .map(|pong| assert_eq!(pong.kind, "pong"))
    });
}

#[test]
fn ipv6_addresses_are_counted_by_their_network() {
    let server = limited(3).env("TRUSTED_PROXIES", "127.0.0.1").start();
    let mut inside: Vec<Client> = (1..=3)
        .map(|host| from(&server, &format!("2001:db8:1:2::{host}")))
        .collect();
    inside.iter_mut().for_each(Client::fence);
    assert_refused(from(&server, "2001:db8:1:2:ffff::9"));
    from(&server, "2001:db8:1:3::1").fence();
}

#[test]
fn the_real_ip_header_counts_when_there_is_no_other() {
    let server = limited(2).env("TRUSTED_PROXIES", "127.0.0.1/32").start();
    let connect = || {
        let options = Options {
            headers: &[("X-Real-IP", "203.0.113.7")],
            ..Default::default()
        };
        Client::connect_with(server.address(), Dialect::Json, &options).expect("an upgrade")
    };
    let mut inside: Vec<Client> = (0..2).map(|_| connect()).collect();
    inside.iter_mut().for_each(Client::fence);
    assert_refused(connect());
}

#[test]
fn a_forged_header_without_a_trusted_proxy_changes_nothing() {
    let server = limited(5).start();
    // Loopback peers are not counted, so the same forged address may come as often as it likes ...
    let mut clients: Vec<Client> = (0..20).map(|_| from(&server, "203.0.113.7")).collect();
    clients.iter_mut().for_each(Client::fence);

    // ... and naming a proxy that is somebody else trusts nobody.
    let server = limited(5).env("TRUSTED_PROXIES", "10.0.0.0/8").start();
    let mut clients: Vec<Client> = (0..20).map(|_| from(&server, "203.0.113.7")).collect();
    clients.iter_mut().for_each(Client::fence);
}

#[test]
fn entries_a_client_invents_do_not_evade_the_limit() {
    let server = limited(3).env("TRUSTED_PROXIES", "127.0.0.1").start();
    let mut inside: Vec<Client> = (0..3)
        .map(|n| from(&server, &format!("10.1.1.{n}, 203.0.113.7")))
        .collect();
    inside.iter_mut().for_each(Client::fence);
    assert_refused(from(&server, "10.9.9.9, 203.0.113.7"));
    // Locking somebody else out by naming them does not work either.
    from(&server, "203.0.113.7, 192.0.2.1").fence();
}

#[test]
fn a_full_server_says_so() {
    let server = Server::with().env("WS_MAX_CONNECTIONS", 4).shards(2).start();
    let mut inside: Vec<Client> = (0..4).map(|_| Client::connect(&server, Dialect::Json)).collect();
    inside.iter_mut().for_each(Client::fence);
    let mut refused = Client::connect(&server, Dialect::Json);
    assert_eq!(refused.expect_close(), (1008, "Server at maximum capacity".into()));
    inside.pop().expect("four of them").vanish();
    eventually("the place is free again", || {
        let mut client = Client::connect(&server, Dialect::Json);
        client.say("ping", serde_json::json!({}));
        client
            .next_within(support::SILENCE)
            .map(|pong| assert_eq!(pong.kind, "pong"))
    });
    assert_eq!(
        server.get("/health").status,
        200,
        "plain HTTP still works on a full server"
    );
}

#[test]
fn an_address_makes_only_so_many_documents() {
    let server = Server::with()
        .env("TRUSTED_PROXIES", "127.0.0.1")
        .env("SYNCKIT_MAX_DOCS_PER_IP", 2)
        .start();
    let mut client = from(&server, "203.0.113.7");
    client.subscribe("one");
    client.subscribe("two");
    client.say("subscribe", serde_json::json!({"documentId": "three"}));
    client.take_error("LIMIT_EXCEEDED", "Maximum 2 documents per IP reached");
    client.subscribe("one");
    let mut other = from(&server, "203.0.113.8");
    other.subscribe("three");
    client.subscribe("three");
}
