//! Several nodes behave as one: three server processes over one Redis, with PostgreSQL and without, 50 people at each with
//! clients of all four kinds, who write fields of their own and shared ones, type, count, change a set and show themselves.
//! When they pause, all people, all nodes and the database hold the same, and everybody has counted the same. Then again
//! while connections to Redis are cut at random, Redis is killed and restarted, a node is killed and restarted, and a proxy
//! loses, repeats and reorders every twentieth envelope: still the same, nothing acknowledged is missing and nothing is
//! counted twice, not even batches that come again at another node. Without a database a killed node takes with it what it
//! had not published, so there no node is killed. `PEOPLE=` and `ROUNDS=` make it larger, `SEED=` repeats it.

#[path = "support/nodes.rs"]
mod nodes;
#[path = "support/person.rs"]
mod person;
#[path = "support/sdk_model.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod sdk_model;
use test_support as support;
#[path = "support/text_client.rs"]
mod text_client;

use nodes::{Nodes, assert_all_in, assert_converged, assert_presence, count_bounds, settle};
use person::Person;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::{Duration, Instant};
use support::Dialect;
use support::bus_proxy::Faults;
use support::database::Postgres;
use support::redis::Redis;

const NODES: usize = 3;
const DIALECTS: [Dialect; 4] = [Dialect::Sdk, Dialect::Json, Dialect::Binary, Dialect::Goc];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// People live for a while. Some say a batch at two nodes, which counts once as long as both nodes live on.
fn live_for(nodes: &Nodes, people: &mut [Person], dice: &mut StdRng, time: Duration, moves: bool) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        for person in people.iter_mut() {
            person.come(nodes);
            match dice.random_range(0..100) {
                0..6 => person.write(),
                6..7 => person.type_letter(),
                7..8 => person.show(),
                8..10 => person.count(f64::from(dice.random_range(-3..10))),
                10..12 => person.change_set(dice.random()),
                12 if moves && person.number.is_multiple_of(10) => {
                    person.count_and_move(nodes, f64::from(dice.random_range(1..100)));
                }
                _ => {}
            }
            person.pump();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn converge(database: Option<&Postgres>) {
    let seed = number("SEED", rand::rng().random::<u32>().into());
    println!("SEED={seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let mut redis = Redis::start();
    let mut nodes = Nodes::start(&redis, NODES, database.map(Postgres::url), seed);
    let documents: Vec<String> = (0..3).map(|number| format!("room:{number}")).collect();
    let count = number("PEOPLE", 50) as usize * NODES;
    let person = |number: usize| {
        let dialect = DIALECTS[number / (3 * NODES) % DIALECTS.len()];
        Person::new(number, dialect, &documents[number % 3], number / 3 % NODES)
    };
    let mut people: Vec<Person> = (0..count).map(person).collect();
    for person in &mut people {
        person.come(&nodes);
        person.write();
    }
    assert_all_in(&mut people);
    let moves = database.is_none();

    live_for(&nodes, &mut people, &mut dice, Duration::from_secs(2), moves);
    assert_converged(&nodes, &mut people, &documents);
    assert_presence(&mut people);

    let faults = Faults {
        drop: 0.05,
        duplicate: 0.05,
        reorder: 0.05,
        ..Faults::default()
    };
    for round in 0..number("ROUNDS", 1) {
        nodes.proxies.iter().for_each(|proxy| proxy.set(faults));
        live_for(&nodes, &mut people, &mut dice, Duration::from_secs(1), moves);
        redis.cut(if dice.random() { "pubsub" } else { "normal" });
        live_for(&nodes, &mut people, &mut dice, Duration::from_millis(500), moves);
        redis.kill();
        live_for(&nodes, &mut people, &mut dice, Duration::from_millis(500), moves);
        redis.restart();
        live_for(&nodes, &mut people, &mut dice, Duration::from_millis(500), moves);
        if database.is_some() {
            let victim = dice.random_range(0..NODES);
            nodes.kill(victim);
            settle(&mut people, Duration::from_millis(50));
            live_for(&nodes, &mut people, &mut dice, Duration::from_millis(500), moves);
            nodes.restart(victim);
            people
                .iter_mut()
                .filter(|person| person.wish == victim)
                .for_each(Person::vanish);
        }
        live_for(&nodes, &mut people, &mut dice, Duration::from_secs(1), moves);
        nodes.proxies.iter().for_each(|proxy| proxy.set(Faults::default()));
        people.iter_mut().for_each(|person| person.come(&nodes));
        assert_converged(&nodes, &mut people, &documents);
        assert_presence(&mut people);
        println!(
            "round {round}: equal; the proxies lost {:?}",
            nodes.proxies.iter().map(|proxy| proxy.counts().0).collect::<Vec<_>>()
        );
    }
    if let Some(database) = database {
        assert_stored(&mut nodes, database, &people, &documents);
    }
}

/// What the database holds is what nodes without any memory of it show, and what everybody has counted.
fn assert_stored(nodes: &mut Nodes, database: &Postgres, people: &[Person], documents: &[String]) {
    let before: Vec<_> = documents.iter().map(|document| nodes.shown(0, document)).collect();
    (0..NODES).for_each(|node| nodes.kill(node));
    nodes.restart(1);
    for (document, before) in documents.iter().zip(before) {
        let after = nodes.shown(1, document);
        assert_eq!(after, before, "the database holds another {document}");
        let here = || people.iter().filter(|person| person.document == *document);
        let stored = stored_count(database, document);
        if let Some(person) = here().find(|person| person.stayed) {
            assert_eq!(
                stored, person.counted,
                "the database holds another counter of {document}"
            );
        }
        assert!(count_bounds(here()).contains(&stored), "{stored} in {document}");
    }
}

/// All increments of a document minus all decrements, as the row has them.
fn stored_count(database: &Postgres, document: &str) -> f64 {
    let row = database
        .connect()
        .query_one("SELECT state::text FROM documents WHERE id = $1", &[&document])
        .expect("a row");
    let state: serde_json::Value = serde_json::from_str(row.get(0)).expect("JSON");
    let counter = [&state["counter"], &state["meta"]["counter"]]
        .into_iter()
        .find(|counter| counter.is_object());
    let counter = counter.unwrap_or_else(|| panic!("no counter in {state}"));
    let of =
        |total: &serde_json::Value| total[0].as_f64().expect("increments") - total[1].as_f64().expect("decrements");
    let clients = counter["clients"].as_object().expect("clients").values();
    clients.chain([&counter["others"]]).map(of).sum()
}

#[test]
fn over_redis_alone() {
    converge(None);
}

#[test]
fn over_redis_and_postgresql() {
    converge(Some(&Postgres::start()));
}

/// Without a database, where a document lives on the nodes that have loaded it.
#[test]
fn nodes_restarted_one_by_one_lose_nothing() {
    let redis = Redis::start();
    let mut nodes = Nodes::start(&redis, NODES, None, 1);
    let mut dice = StdRng::seed_from_u64(1);
    let documents = ["rolling".to_owned()];
    let person = |number: usize| Person::new(number, DIALECTS[number / NODES], "rolling", number % NODES);
    let mut people: Vec<Person> = (0..NODES * DIALECTS.len()).map(person).collect();
    people.iter_mut().for_each(|person| person.come(&nodes));
    assert_all_in(&mut people);
    for node in 0..NODES {
        live_for(&nodes, &mut people, &mut dice, Duration::from_millis(300), true);
        let mut stopping = nodes.stop(node);
        live_for(&nodes, &mut people, &mut dice, Duration::from_millis(300), true);
        let ended = stopping.wait_exit(support::PATIENCE * 2);
        assert!(ended.is_some_and(|status| status.success()), "node {node}: {ended:?}");
        nodes.restart(node);
        // The next one when this one is ready again and has what it is asked for.
        assert_converged(&nodes, &mut people, &documents);
    }
    assert_presence(&mut people);
}

#[test]
fn a_lost_last_message_is_found() {
    let redis = Redis::start();
    let nodes = Nodes::start(&redis, 2, None, 1);
    let documents = ["quiet".to_owned()];
    let person = |number| Person::new(number, Dialect::Json, "quiet", number);
    let mut people: Vec<Person> = (0..2).map(person).collect();
    people.iter_mut().for_each(|person| person.come(&nodes));
    people[0].write();
    assert_converged(&nodes, &mut people, &documents);
    let lost = nodes.proxies[1].counts().0;
    let everything = Faults {
        drop: 1.0,
        ..Faults::default()
    };
    nodes.proxies[1].set(everything);
    people[0].write();
    let deadline = Instant::now() + support::PATIENCE;
    while nodes.proxies[1].counts().0 == lost {
        assert!(Instant::now() < deadline, "nothing was sent");
        settle(&mut people, Duration::from_millis(10));
    }
    nodes.proxies[1].set(Faults::default());
    assert_converged(&nodes, &mut people, &documents);
    assert_eq!(people[1].shown()["own-0"], 2);
}
