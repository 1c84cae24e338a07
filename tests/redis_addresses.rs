//! Every way to a Redis that docs/cluster.md names carries envelopes: TLS with an authority, without one it is refused,
//! and with `#insecure` taken; the master that sentinels name, and the next one after a failover; two nodes of a Redis
//! Cluster. Real servers, with certificates made for the test.

use test_support as support;

#[path = "support/bare_bus.rs"]
mod bare_bus;

use bare_bus::{Node, until_it_arrives};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::redis::{Redis, free_port};

const PATIENT: Duration = Duration::from_secs(40);

fn openssl(folder: &Path, arguments: &str) {
    let run = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .expect("openssl runs");
    let text = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "openssl {arguments}: {text}");
}

#[test]
fn tls_checks_the_certificate() {
    let folder = std::env::temp_dir().join(format!("synckit-redis-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost").expect("a file");
    let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    let authority = format!("req -x509 {new_key} -days 2 -subj /CN=authority -keyout ca.pem -out authority.pem");
    openssl(&folder, &authority);
    openssl(
        &folder,
        &format!("req {new_key} -subj /CN=localhost -keyout key.pem -out request.pem"),
    );
    let sign = "x509 -req -in request.pem -CA authority.pem -CAkey ca.pem -CAcreateserial -days 2";
    openssl(&folder, &format!("{sign} -extfile names -out cert.pem"));
    let port = free_port();
    let path = |name: &str| folder.join(name).display().to_string();
    let _redis = Redis::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-auth-clients",
        "no",
        "--tls-cert-file",
        &path("cert.pem"),
        "--tls-key-file",
        &path("key.pem"),
        "--tls-ca-cert-file",
        &path("authority.pem"),
    ]);
    let checked = format!("rediss://localhost:{port}?sslrootcert={}", path("authority.pem"));
    let (a, b) = (
        Node::connected("a", &checked),
        Node::connected("b", &format!("rediss://127.0.0.1:{port}#insecure")),
    );
    b.joined(0, "doc");
    for number in 0..2000 {
        a.publish("doc", &format!("{number} {}", "x".repeat(number)));
    }
    for number in 0..2000 {
        b.receives("doc", &a, &format!("{number} {}", "x".repeat(number)));
    }
    let wrong_name = format!("rediss://127.0.0.1:{port}?sslrootcert={}", path("authority.pem"));
    for url in [wrong_name, format!("rediss://localhost:{port}")] {
        let node = Node::start("w", &url);
        node.wait("to be refused", |node| (node.link.health)().connect_failures > 0);
        assert!(!(node.link.is_connected)(), "{url} was taken");
    }
    let _ = std::fs::remove_dir_all(&folder);
}

struct Sentinel {
    process: Child,
    port: u16,
}

impl Sentinel {
    fn start(folder: &Path, master: u16) -> Self {
        let port = free_port();
        let file = folder.join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {master} 1\n\
             sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n",
            folder.display()
        );
        std::fs::write(&file, text).expect("a file");
        let process = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .spawn()
            .expect("a sentinel");
        Self { process, port }
    }

    fn replicas(&self) -> usize {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).expect("a URL");
        let Ok(mut connection) = client.get_connection() else {
            return 0;
        };
        let found: Vec<redis::Value> = redis::cmd("SENTINEL")
            .arg("REPLICAS")
            .arg("main")
            .query(&mut connection)
            .unwrap_or_default();
        found.len()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_master_that_sentinels_name_is_used_and_the_next_one_after_it() {
    let mut first = Redis::start();
    let second = Redis::start_with(&["--replicaof", &format!("127.0.0.1 {}", first.port())]);
    let sentinel = Sentinel::start(second.folder(), first.port());
    let deadline = Instant::now() + PATIENT;
    while sentinel.replicas() == 0 {
        assert!(Instant::now() < deadline, "the sentinel never saw the replica");
        std::thread::sleep(Duration::from_millis(50));
    }
    // The first sentinel of the list does not exist.
    let url = format!("redis+sentinel://127.0.0.1:1,127.0.0.1:{}/main", sentinel.port);
    let (a, b) = (Node::connected("a", &url), Node::connected("b", &url));
    b.joined(0, "doc");
    until_it_arrives(&a, &b, "doc");
    assert_eq!(
        first
            .command::<Vec<String>>(&["PUBSUB", "CHANNELS", "test:v1:doc:*"])
            .len(),
        1
    );
    let reconnects = |node: &Node| (node.link.health)().reconnects;
    let before = [reconnects(&a), reconnects(&b)];
    first.kill();
    for (node, before) in [&a, &b].into_iter().zip(before) {
        node.wait("to be back", |node| {
            reconnects(node) > before && (node.link.is_connected)()
        });
    }
    until_it_arrives(&a, &b, "doc");
    assert_eq!(
        second
            .command::<Vec<String>>(&["PUBSUB", "CHANNELS", "test:v1:doc:*"])
            .len(),
        1
    );
}

#[test]
fn nodes_of_a_redis_cluster_are_one_bus() {
    let buses = [free_port().to_string(), free_port().to_string()];
    let start = |bus: &String| Redis::start_with(&["--cluster-enabled", "yes", "--cluster-port", bus]);
    let (one, two) = (start(&buses[0]), start(&buses[1]));
    let _: String = one.command(&["CLUSTER", "MEET", "127.0.0.1", &two.port().to_string(), &buses[1]]);
    let deadline = Instant::now() + PATIENT;
    while one
        .command::<String>(&["CLUSTER", "NODES"])
        .matches("connected")
        .count()
        < 2
    {
        assert!(Instant::now() < deadline, "they never met");
        std::thread::sleep(Duration::from_millis(50));
    }
    let (a, b) = (Node::connected("a", &one.url()), Node::connected("b", &two.url()));
    b.joined(0, "doc");
    until_it_arrives(&a, &b, "doc");
}
