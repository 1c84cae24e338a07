//! A model of the deployed client's text core, written from section 8 of docs/text-state.md and on purpose independent
//! of the server's code: plain maps, strings and quadratic loops.

#![allow(dead_code, reason = "each test file uses its part")]

use serde_json::Value;
use std::collections::BTreeMap;
use unicode_segmentation::UnicodeSegmentation;

/// `(clock, client_id)`: sorts as IDs do.
pub type Id = (u64, String);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub text: Vec<String>,
    pub left: Option<Id>,
    pub right: Option<Id>,
    pub deleted: bool,
}

impl Block {
    pub fn first(&self, last: u64) -> u64 {
        last + 1 - self.text.len() as u64
    }
}

pub type Blocks = BTreeMap<Id, Block>;

/// One replica.
#[derive(Clone, Debug)]
pub struct Client {
    pub id: String,
    pub clock: u64,
    pub blocks: Blocks,
    /// What the user sees: a copy of its own, as in the real client.
    pub visible: Vec<String>,
    last_merged: String,
}

impl Client {
    pub fn new(id: &str) -> Client {
        Client {
            id: id.into(),
            clock: 0,
            blocks: Blocks::new(),
            visible: Vec::new(),
            last_merged: String::new(),
        }
    }

    pub fn shown(&self) -> String {
        self.visible.concat()
    }

    /// Inserts at a character position.
    pub fn insert(&mut self, at: usize, text: &str) {
        let text: Vec<String> = text.graphemes(true).map(String::from).collect();
        let order = live_characters(&self.blocks);
        let at = at.min(order.len()).min(self.visible.len());
        let left = at.checked_sub(1).map(|before| order[before].clone());
        let right = order.get(at).cloned();
        self.clock += text.len() as u64;
        self.visible.splice(at..at, text.iter().cloned());
        self.blocks.insert(
            (self.clock, self.id.clone()),
            Block {
                text,
                left,
                right,
                deleted: false,
            },
        );
    }

    /// Deletes `count` characters from a position on.
    pub fn delete(&mut self, at: usize, count: usize) {
        let order = live_characters(&self.blocks);
        let end = (at + count).min(order.len()).min(self.visible.len());
        if at >= end {
            return;
        }
        // A block stands in one run in document order, so what is touched of it is one range of values.
        let mut touched: BTreeMap<Id, (u64, u64)> = BTreeMap::new();
        for (value, client) in &order[at..end] {
            let id = find(&self.blocks, client, *value).expect("the character was listed");
            let range = touched.entry(id).or_insert((*value, *value));
            *range = (range.0.min(*value), range.1.max(*value));
        }
        for (id, (from, to)) in touched {
            self.delete_values(&id.1, from, to);
        }
        self.visible.drain(at..end);
    }

    /// Marks a range of values deleted, splitting the blocks at its ends.
    fn delete_values(&mut self, client: &str, from: u64, to: u64) {
        let overlapping: Vec<Id> = self
            .blocks
            .iter()
            .filter(|(id, block)| id.1 == client && block.first(id.0) <= to && id.0 >= from)
            .map(|(id, _)| id.clone())
            .collect();
        for id in overlapping {
            let (first, last) = (self.blocks[&id].first(id.0).max(from), id.0.min(to));
            self.split(&id, last + 1);
            self.split(&(last, id.1.clone()), first);
            self.blocks
                .get_mut(&(last, id.1))
                .expect("named by its last value")
                .deleted = true;
        }
    }

    /// Splits a block so that `value` begins the right part, which keeps the ID. Nothing to do at its ends.
    fn split(&mut self, id: &Id, value: u64) {
        let block = self.blocks.get_mut(id).expect("splits name existing blocks");
        let first = block.first(id.0);
        if value <= first || value > id.0 {
            return;
        }
        let right = block.text.split_off((value - first) as usize);
        let left = std::mem::replace(&mut block.text, right);
        let left = Block {
            text: left,
            ..block.clone()
        };
        self.blocks.insert((value - 1, id.1.clone()), left);
    }

    /// Takes a state from the server.
    pub fn receive(&mut self, state: &str) {
        if state == self.last_merged {
            return;
        }
        self.last_merged = state.into();
        self.merge(&parse(state).0);
    }

    pub fn merge(&mut self, remote: &Blocks) {
        loop {
            let shorter = remote.iter().find_map(|(id, block)| {
                let local = self.blocks.get(id)?;
                (block.text.len() < local.text.len()).then(|| (id.clone(), block.first(id.0)))
            });
            let Some((id, first)) = shorter else { break };
            self.split(&id, first);
        }
        for (id, block) in remote {
            if let Some(local) = self.blocks.get_mut(id) {
                local.deleted |= block.deleted;
                continue;
            }
            let first = block.first(id.0);
            let overlaps = self
                .blocks
                .iter()
                .any(|(other, local)| other.1 == id.1 && local.first(other.0) <= id.0 && other.0 >= first);
            if !overlaps {
                self.blocks.insert(id.clone(), block.clone());
            } else if block.deleted {
                self.delete_values(&id.1, first, id.0);
            }
        }
        self.clock = remote.keys().map(|id| id.0).fold(self.clock, u64::max);
        self.visible = live_text(&self.blocks);
    }

    /// The complete state as the client sends it.
    pub fn state(&self) -> String {
        to_json(&self.blocks, self.clock, &self.id)
    }
}

pub fn to_json(blocks: &Blocks, clock: u64, client: &str) -> String {
    let quoted = |text: &str| serde_json::to_string(text).expect("text can be quoted");
    let id = |id: &Id| format!("{{\"client_id\":{},\"clock\":{},\"offset\":0}}", quoted(&id.1), id.0);
    let origin = |origin: &Option<Id>| origin.as_ref().map_or("null".into(), id);
    let mut list: Vec<String> = Vec::new();
    for (key, block) in blocks {
        let (id, text) = (id(key), quoted(&block.text.concat()));
        let (left, right, deleted) = (origin(&block.left), origin(&block.right), block.deleted);
        list.push(format!(
            "[{id},{{\"id\":{id},\"text\":{text},\"left_origin\":{left},\"right_origin\":{right},\
             \"deleted\":{deleted}}}]"
        ));
    }
    let client = quoted(client);
    format!(
        "{{\"blocks\":[{}],\"clock\":{{\"value\":{clock}}},\"client_id\":{client}}}",
        list.join(",")
    )
}

/// The blocks with text of a state, and its clock.
pub fn parse(state: &str) -> (Blocks, u64) {
    let state: Value = serde_json::from_str(state).expect("only valid states are parsed");
    let id = |id: &Value| {
        (
            id["clock"].as_u64().unwrap(),
            id["client_id"].as_str().unwrap().to_string(),
        )
    };
    let origin = |origin: &Value| (!origin.is_null()).then(|| id(origin));
    let blocks = state["blocks"].as_array().unwrap().iter().map(|pair| {
        let block = &pair[1];
        let text = block["text"]
            .as_str()
            .unwrap()
            .graphemes(true)
            .map(String::from)
            .collect();
        let (left, right) = (origin(&block["left_origin"]), origin(&block["right_origin"]));
        (
            id(&pair[0]),
            Block {
                text,
                left,
                right,
                deleted: block["deleted"].as_bool().unwrap(),
            },
        )
    });
    (
        blocks.filter(|(_, block)| !block.text.is_empty()).collect(),
        state["clock"]["value"].as_u64().unwrap(),
    )
}

fn find(blocks: &Blocks, client: &str, value: u64) -> Option<Id> {
    let holds = |(id, block): &(&Id, &Block)| id.1 == client && block.first(id.0) <= value && value <= id.0;
    blocks.iter().find(holds).map(|(id, _)| id.clone())
}

/// The IDs of all blocks in document order.
pub fn document_order(blocks: &Blocks) -> Vec<Id> {
    let mut parent: BTreeMap<&Id, Id> = BTreeMap::new();
    let mut children: BTreeMap<Option<Id>, [Vec<&Id>; 2]> = BTreeMap::new();
    for (id, block) in blocks {
        let held = |origin: &Option<Id>| origin.as_ref().and_then(|(value, client)| find(blocks, client, *value));
        let (above, side) = match (held(&block.left), held(&block.right)) {
            (None, None) => (None, 1),
            (Some(a), None) => (Some(a), 1),
            (None, Some(b)) => (Some(b), 0),
            (Some(a), Some(b)) => {
                let mut at = Some(&b);
                while let Some(here) = at
                    && *here != a
                {
                    at = parent.get(here);
                }
                if at.is_some() { (Some(b), 0) } else { (Some(a), 1) }
            }
        };
        if let Some(above) = &above {
            parent.insert(id, above.clone());
        }
        children.entry(above).or_default()[side].push(id);
    }
    let mut order = Vec::new();
    for root in children.get(&None).map(|lists| lists[1].clone()).unwrap_or_default() {
        emit(root, &children, &mut order);
    }
    order
}

fn emit(id: &Id, children: &BTreeMap<Option<Id>, [Vec<&Id>; 2]>, order: &mut Vec<Id>) {
    let lists = children.get(&Some(id.clone()));
    for child in lists.map_or(&[][..], |lists| &lists[0]) {
        emit(child, children, order);
    }
    order.push(id.clone());
    for child in lists.map_or(&[][..], |lists| &lists[1]) {
        emit(child, children, order);
    }
}

/// `(value, client)` of every live character in document order.
fn live_characters(blocks: &Blocks) -> Vec<Id> {
    let live = document_order(blocks).into_iter().filter(|id| !blocks[id].deleted);
    live.flat_map(|id| (blocks[&id].first(id.0)..=id.0).map(move |value| (value, id.1.clone())))
        .collect()
}

fn live_text(blocks: &Blocks) -> Vec<String> {
    let live = document_order(blocks).into_iter().filter(|id| !blocks[id].deleted);
    live.flat_map(|id| blocks[&id].text.clone()).collect()
}
