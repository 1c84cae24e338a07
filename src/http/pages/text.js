"use strict";
// Shared text: the state-based CRDT of docs/text-state.md, with its names. A block is one insert or a piece of one;
// its characters are named by its client and the values up to `last`.

const segmenter = new Intl.Segmenter("en", { granularity: "grapheme" });

function characters(text) {
  return /^[\x00-\x0c\x0e-\x7f]*$/.test(text) ? [...text] : Array.from(segmenter.segment(text), (part) => part.segment);
}

const first = (block) => block.last - block.chars.length + 1;
const sameOrigin = (a, b) => (a === null ? b === null : b !== null && a.client_id === b.client_id && a.clock === b.clock);
const byId = (a, b) => a.last - b.last || (a.client < b.client ? -1 : a.client > b.client ? 1 : 0);

// Merge(A, B), section 4: every block is cut at the limits of both states, equal pieces are joined in the map.
function mergeBlocks(ours, theirs) {
  const limits = new Map();
  const limit = (client, value) => {
    if (!limits.has(client)) limits.set(client, new Set());
    limits.get(client).add(value);
  };
  for (const block of [...ours, ...theirs]) {
    limit(block.client, first(block));
    limit(block.client, block.last + 1);
    if (block.left) limit(block.left.client_id, block.left.clock + 1);
    if (block.right) limit(block.right.client_id, block.right.clock);
  }
  const sorted = new Map([...limits].map(([client, values]) => [client, [...values].sort((a, b) => a - b)]));
  const pieces = new Map();
  for (const block of [...ours, ...theirs]) {
    const start = first(block);
    const cuts = sorted.get(block.client).filter((value) => value >= start && value <= block.last + 1);
    for (let at = 0; at + 1 < cuts.length; at += 1) {
      const piece = { ...block, last: cuts[at + 1] - 1, chars: block.chars.slice(cuts[at] - start, cuts[at + 1] - start) };
      const key = `${piece.last} ${piece.client}`;
      const known = pieces.get(key);
      if (!known) pieces.set(key, piece);
      else if (
        known.chars.join("") === piece.chars.join("") &&
        sameOrigin(known.left, piece.left) &&
        sameOrigin(known.right, piece.right)
      ) {
        known.deleted ||= piece.deleted;
      }
    }
  }
  return [...pieces.values()].sort(byId);
}

// Document order, section 5.
function inOrder(blocks) {
  const ofClient = new Map();
  for (const block of blocks) {
    if (!ofClient.has(block.client)) ofClient.set(block.client, []);
    ofClient.get(block.client).push(block);
  }
  const find = (origin) => {
    const own = (origin && ofClient.get(origin.client_id)) || [];
    let [low, high] = [0, own.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (own[middle].last < origin.clock) low = middle + 1;
      else high = middle;
    }
    return low < own.length && first(own[low]) <= origin.clock ? own[low] : null;
  };
  const nodes = new Map(blocks.map((block) => [block, { left: [], right: [], parent: null }]));
  const roots = [];
  for (const block of blocks) {
    const [a, b] = [find(block.left), find(block.right)];
    let side = "right";
    let parent = a;
    if (b) {
      let above = b;
      while (a && above && above !== a) above = nodes.get(above).parent;
      if (!a || above === a) [parent, side] = [b, "left"];
    }
    nodes.get(block).parent = parent;
    if (parent) nodes.get(parent)[side].push(block);
    else roots.push(block);
  }
  const order = [];
  const stack = roots.map((block) => [block, false]).reverse();
  while (stack.length) {
    const [block, leftDone] = stack.pop();
    const node = nodes.get(block);
    if (!leftDone) {
      stack.push([block, true]);
      for (const child of [...node.left].reverse()) stack.push([child, false]);
    } else {
      order.push(block);
      for (const child of [...node.right].reverse()) stack.push([child, false]);
    }
  }
  return order;
}

class SharedText {
  constructor(client) {
    this.client = client;
    this.clock = 0;
    this.blocks = [];
    this.visible = [];
  }

  get text() {
    return this.visible.map((character) => character.text).join("");
  }

  // Names of the visible characters, in order.
  get names() {
    return this.visible.map((character) => `${character.value} ${character.client}`);
  }

  renew(blocks) {
    this.blocks = blocks;
    this.visible = inOrder(blocks)
      .filter((block) => !block.deleted)
      .flatMap((block) =>
        block.chars.map((text, at) => ({ text, client: block.client, value: first(block) + at })),
      );
  }

  insert(position, text) {
    const chars = characters(text);
    if (!chars.length) return;
    const origin = (at) => {
      const character = this.visible[at];
      return character ? { client_id: character.client, clock: character.value, offset: 0 } : null;
    };
    this.clock += chars.length;
    const block = {
      client: this.client, last: this.clock, chars, left: origin(position - 1), right: origin(position), deleted: false,
    };
    this.renew(mergeBlocks([...this.blocks, block], []));
  }

  remove(position, count) {
    const gone = new Set(this.names.slice(position, position + count));
    if (!gone.size) return;
    const blocks = this.blocks.flatMap((block) => {
      const parts = [];
      block.chars.forEach((text, at) => {
        const value = first(block) + at;
        const deleted = block.deleted || gone.has(`${value} ${block.client}`);
        const part = parts.at(-1);
        if (part && part.deleted === deleted) {
          part.chars.push(text);
          part.last = value;
        } else parts.push({ ...block, chars: [text], last: value, deleted });
      });
      return parts;
    });
    this.renew(blocks.sort(byId));
  }

  // What somebody typed, as the difference between the text before and after.
  edit(after) {
    const [old, now] = [this.visible.map((character) => character.text), characters(after)];
    let start = 0;
    while (start < old.length && start < now.length && old[start] === now[start]) start += 1;
    let end = 0;
    while (end < old.length - start && end < now.length - start && old[old.length - 1 - end] === now[now.length - 1 - end]) {
      end += 1;
    }
    this.remove(start, old.length - start - end);
    this.insert(start, now.slice(start, now.length - end).join(""));
  }

  merge(state) {
    const theirs = JSON.parse(state).blocks.map(([id, block]) => ({
      client: id.client_id,
      last: id.clock,
      chars: characters(block.text),
      left: block.left_origin,
      right: block.right_origin,
      deleted: block.deleted,
    }));
    this.clock = theirs.reduce((most, block) => Math.max(most, block.last), this.clock);
    this.renew(mergeBlocks(this.blocks, theirs.filter((block) => block.chars.length)));
  }

  state() {
    const blocks = this.blocks.map((block) => {
      const id = { client_id: block.client, clock: block.last, offset: 0 };
      return [id, {
        id, text: block.chars.join(""), left_origin: block.left, right_origin: block.right, deleted: block.deleted,
      }];
    });
    return JSON.stringify({ blocks, clock: { value: this.clock }, client_id: this.client });
  }
}
