//! Several nodes behave as one: three server processes over one Redis, with PostgreSQL and without, 50 people at each, who
//! write fields of their own and shared ones, type, and show themselves. When they pause, all people, all nodes and the
//! database hold the same. Then again while connections to Redis are cut at random, Redis is killed and restarted, a node is
//! killed and restarted, and a proxy loses, repeats and reorders every twentieth envelope: still the same, and nothing
//! acknowledged is missing. Without a database a killed node takes with it what it had not published, so there no node is
//! killed. `PEOPLE=` and `ROUNDS=` make it larger, `SEED=` repeats it.

#[path = "support/nodes.rs"]
mod nodes;
use test_support as support;
#[path = "support/text_client.rs"]
mod text_client;

use nodes::{Nodes, Person, assert_converged, assert_presence, settle};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::{Duration, Instant};
use support::bus_proxy::Faults;
use support::database::Postgres;
use support::redis::Redis;

const NODES: usize = 3;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

fn live_for(nodes: &Nodes, people: &mut [Person], dice: &mut StdRng, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        for person in people.iter_mut() {
            person.come(nodes);
            match dice.random_range(0..100) {
                0..6 => person.write(),
                6..7 => person.type_letter(),
                7..8 => person.show(),
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
    let person = |number: usize| Person::new(number, &documents[number % 3], number / 3 % NODES);
    let mut people: Vec<Person> = (0..count).map(person).collect();

    live_for(&nodes, &mut people, &mut dice, Duration::from_secs(2));
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
        live_for(&nodes, &mut people, &mut dice, Duration::from_secs(1));
        redis.cut(if dice.random() { "pubsub" } else { "normal" });
        live_for(&nodes, &mut people, &mut dice, Duration::from_millis(500));
        redis.kill();
        live_for(&nodes, &mut people, &mut dice, Duration::from_millis(500));
        redis.restart();
        live_for(&nodes, &mut people, &mut dice, Duration::from_millis(500));
        if database.is_some() {
            let victim = dice.random_range(0..NODES);
            nodes.kill(victim);
            settle(&mut people, Duration::from_millis(50));
            live_for(&nodes, &mut people, &mut dice, Duration::from_millis(500));
            nodes.restart(victim);
            people
                .iter_mut()
                .filter(|person| person.wish == victim)
                .for_each(Person::vanish);
        }
        live_for(&nodes, &mut people, &mut dice, Duration::from_secs(1));
        nodes.proxies.iter().for_each(|proxy| proxy.set(Faults::default()));
        people.iter_mut().for_each(|person| person.come(&nodes));
        assert_converged(&nodes, &mut people, &documents);
        println!(
            "round {round}: equal; the proxies lost {:?}",
            nodes.proxies.iter().map(|proxy| proxy.counts().0).collect::<Vec<_>>()
        );
    }
    if database.is_some() {
        // What the database holds is what nodes without any memory of it show.
        let before: Vec<_> = documents
            .iter()
            .map(|document| nodes.snapshot(0, document)["state"].clone())
            .collect();
        (0..NODES).for_each(|node| nodes.kill(node));
        nodes.restart(1);
        for (document, state) in documents.iter().zip(before) {
            assert_eq!(
                nodes.snapshot(1, document)["state"],
                state,
                "the database holds another {document}"
            );
        }
    }
}

#[test]
fn over_redis_alone() {
    converge(None);
}

#[test]
fn over_redis_and_postgresql() {
    converge(Some(&Postgres::start()));
}

#[test]
fn a_lost_last_message_is_found() {
    let redis = Redis::start();
    let nodes = Nodes::start(&redis, 2, None, 1);
    let documents = ["quiet".to_owned()];
    let mut people: Vec<Person> = (0..2).map(|number| Person::new(number, "quiet", number)).collect();
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
    assert_eq!(people[1].fields["own-0"], 2);
}
