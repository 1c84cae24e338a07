"use strict";
// Asks for the server's numbers once a second, keeps two minutes of them, and shows what they say.

const byName = (id) => document.getElementById(id);
const PERIOD_MS = 1000;
const KEPT = 120;

const make = (name, attributes = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
};

// ---- numbers as words ----

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

function count(value) {
  return value < 1e6 ? whole.format(Math.round(value)) : `${short.format(value / 1e6)} M`;
}

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = value < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(value) / 10));
  return `${short.format(value / 1024 ** power)} ${units[power]}`;
}

function rate(value) {
  return `${value < 10 ? short.format(value) : count(value)}/s`;
}

function milliseconds(value) {
  return `${new Intl.NumberFormat("en", { maximumSignificantDigits: 3 }).format(value)} ms`;
}

function span(ms) {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

const ago = (then, now) => `${span(Math.max(0, now - then))} ago`;

// ---- asking ----

let token = sessionStorage.getItem("token") || "";

async function ask(path) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { headers, cache: "no-store" });
  if (answer.status === 401 || answer.status === 403) throw new Refused();
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer.json();
}

class Refused extends Error {}

function say(state, words) {
  const status = byName("status");
  // Said again only when it changes, so that screen readers are left in peace.
  if (status.dataset.state === state && byName("status-text").textContent === words) return;
  status.dataset.state = state;
  byName("status-text").textContent = words;
}

// ---- samples ----

const samples = [];
let previous = null;

function sum(data, name) {
  return data.shards.reduce((total, shard) => total + (shard.numbers[name] ?? 0), 0);
}

function sample(data) {
  const seconds = previous ? Math.max(0.001, (data.now - previous.now) / 1000) : null;
  const grown = (name) => (previous ? Math.max(0, sum(data, name) - sum(previous, name)) : 0);
  const per = (name) => (seconds ? grown(name) / seconds : 0);
  const mean = (total, times) => (grown(times) > 0 ? grown(total) / grown(times) / 1000 : 0);
  return {
    at: data.now,
    connections: sum(data, "websockets"),
    subscriptions: sum(data, "subscriptions"),
    documents: sum(data, "documents"),
    received: per("messages_received"),
    sent: per("messages_sent"),
    flushMs: mean("flush_wait_sum_us_total", "flushes_total"),
    turnMs: mean("turn_us_total", "turns_total"),
    storeMs: mean("storage_us_total", "storage_commits_total"),
    resident: data.shards[0]?.memoryBytes ?? 0,
    waiting: sum(data, "outbox_bytes"),
    load: data.shards.map((shard, at) => {
      const before = previous?.shards[at]?.numbers.turn_us_total;
      return before === undefined ? 0 : (shard.numbers.turn_us_total - before) / seconds / 1e6;
    }),
  };
}

// ---- charts ----

const charts = [
  { title: "Connections", format: count, lines: [["connections", "Connections"], ["subscriptions", "Subscriptions"]] },
  { title: "Messages", format: rate, lines: [["received", "In"], ["sent", "Out"]] },
  { title: "Latency", format: milliseconds, lines: [["flushMs", "Wait for flush"], ["turnMs", "Loop turn"], ["storeMs", "Commit"]] },
  { title: "Memory", format: bytes, lines: [["resident", "Resident"], ["waiting", "Waiting to be sent"]] },
];
const names = ["one", "two", "three"];
const SVG = "http://www.w3.org/2000/svg";

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function buildChart(chart) {
  chart.legend = make("ul", { className: "legend" });
  chart.values = chart.lines.map(([, label], at) => {
    const value = make("b");
    chart.legend.append(make("li", {}, make("i", { className: names[at] }), `${label} `, value));
    return value;
  });
  chart.plot = shape("svg", { class: "plot", viewBox: "0 0 120 100", preserveAspectRatio: "none", role: "img" });
  for (const y of [0, 50, 100]) chart.plot.append(shape("line", { class: "grid", x1: 0, x2: 120, y1: y, y2: y }));
  chart.paths = chart.lines.map((_, at) => shape("path", { class: `line-${names[at]}` }));
  chart.plot.append(...chart.paths);
  chart.top = make("span");
  chart.body = make("tbody");
  const head = make("tr", {}, ...["Seconds ago", ...chart.lines.map(([, label]) => label)].map((text) => make("th", { scope: "col" }, text)));
  chart.table = make("details", {}, make("summary", {}, "As a table"),
    make("table", {}, make("caption", {}, `${chart.title}, every ten seconds`), make("thead", {}, head), chart.body));
  return make("section", { className: "card chart", "aria-label": chart.title },
    make("div", { className: "chart-head" }, make("h3", {}, chart.title), chart.legend),
    chart.plot,
    make("div", { className: "axis" }, make("span", {}, "2 min ago"), chart.top, make("span", {}, "now")),
    chart.table);
}

// The next number of the form 1, 2 or 5 times a power of ten.
function roundUp(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

function drawChart(chart) {
  const most = Math.max(...samples.flatMap((one) => chart.lines.map(([key]) => one[key])));
  const unit = chart.format === bytes ? 1024 ** Math.floor(Math.log2(Math.max(1, most)) / 10) : 1;
  const top = roundUp(most / unit) * unit;
  const latest = samples.at(-1);
  chart.lines.forEach(([key], at) => {
    chart.values[at].textContent = chart.format(latest[key]);
    const points = samples.map((one, index) => {
      const x = 120 - (samples.length - 1 - index);
      return `${x} ${(100 - (one[key] / top) * 100).toFixed(2)}`;
    });
    chart.paths[at].setAttribute("d", points.length > 1 ? `M${points.join("L")}` : "");
  });
  chart.top.textContent = `top ${chart.format(top)}`;
  const now = chart.lines.map(([key, label]) => `${label} ${chart.format(latest[key])}`).join(", ");
  chart.plot.setAttribute("aria-label", `${chart.title}: now ${now}`);
  if (chart.table.open) {
    const rows = samples.filter((_, at) => (samples.length - 1 - at) % 10 === 0).reverse();
    chart.body.replaceChildren(...rows.map((one) => make("tr", {},
      make("th", { scope: "row" }, whole.format(Math.round((latest.at - one.at) / 1000))),
      ...chart.lines.map(([key]) => make("td", {}, chart.format(one[key]))))));
  }
}

// ---- the rest of the board ----

function tiles(list) {
  return list.map(([label, value]) => make("div", {}, make("dt", {}, label), make("dd", {}, value)));
}

function table(element, columns, rows) {
  const head = make("tr", {}, ...columns.map(([label, words]) => make("th", { scope: "col", className: words ? "words" : "" }, label)));
  const body = rows.map((row) => make("tr", {}, ...row.map((cell, at) =>
    make(at ? "td" : "th", { className: columns[at][1] ? "words" : "", ...(at ? {} : { scope: "row" }) }, cell ?? "–"))));
  element.replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
}

function show(data) {
  const one = samples.at(-1);
  const server = data.shards[0];
  byName("about").textContent = `Version ${data.version}, ${data.shards.length} shards, up ${span(server.uptimeMs)}`;
  byName("tiles").replaceChildren(...tiles([
    ["Connections", count(one.connections)],
    ["Documents", count(one.documents)],
    ["Messages in", rate(one.received)],
    ["Messages out", rate(one.sent)],
    ["Memory", bytes(one.resident)],
    ["Busiest shard", `${Math.round(100 * Math.max(...one.load))} %`],
  ]));
  charts.forEach(drawChart);
  table(byName("shards"), [["Shard"], ["Connections"], ["Documents"], ["Subscriptions"], ["Mailbox"], ["Longest turn"], ["Busy"]],
    data.shards.map((shard, at) => {
      const { numbers } = shard;
      return [String(shard.shard), count(numbers.websockets), count(numbers.documents), count(numbers.subscriptions),
        count(numbers.mailbox_letters), milliseconds(numbers.turn_us_max / 1000), `${Math.round(100 * one.load[at])} %`];
    }));
  const checks = [
    ["Server", server.draining ? "closed" : "open", server.draining ? "Shutting down" : "Takes connections"],
    ["Database", server.storage === null ? "none" : server.storage ? "open" : "closed",
      server.storage === null ? "None: memory only" : server.storage ? "Answers" : "Does not answer"],
  ];
  if (server.storage !== null) checks.push(["Waiting to be stored", "none", `${count(sum(data, "unsaved_documents"))} documents`]);
  if (server.redis === null) checks.push(["Redis", "none", "None: a single server"]);
  else {
    checks.push(["Redis", server.redis.available ? "open" : "closed", server.redis.available ? "Connected" : "Does not answer"]);
    checks.push(["Other nodes", "none", `${count(server.redis.peers)}; ${count(server.redis.queueDepth)} messages wait for Redis`]);
  }
  byName("health").replaceChildren(...checks.map(([label, state, words]) => {
    const row = make("li", {}, make("span", { className: "dot", ariaHidden: "true" }), label, make("span", { className: "quiet" }, words));
    row.dataset.state = state;
    return row;
  }));
  const slow = data.shards.flatMap((shard) => shard.slow).sort((a, b) => b.queuedBytes - a.queuedBytes).slice(0, 10);
  const closed = sum(data, "slow_consumers_total");
  const summary = make("p", { className: "quiet" }, slow.length ? "" : `None now; ${count(closed)} closed since the start.`);
  if (slow.length) {
    const list = make("table");
    table(list, [["Connection"], ["User", true], ["Waiting"], ["Behind on"]],
      slow.map((entry) => [entry.connection, entry.user, bytes(entry.queuedBytes), `${entry.behindOn} documents`]));
    byName("slow").replaceChildren(list);
  } else byName("slow").replaceChildren(summary);
}

// ---- documents ----

// A field's name comes as JSON text, and may be cut.
function plain(name) {
  try {
    return String(JSON.parse(name));
  } catch {
    return name;
  }
}

async function search() {
  const { documents, matching, complete } = await ask(`/dashboard/documents?q=${encodeURIComponent(byName("search").value.trim())}`);
  const more = matching > documents.length ? `, the ${documents.length} changed last are shown` : "";
  byName("found").textContent = `${count(matching)} found${more}${complete ? "" : "; not all documents were looked at"}`;
  byName("documents").hidden = documents.length === 0;
  const now = Date.now();
  table(byName("documents"), [["Document", true], ["Subscribers"], ["Fields"], ["Size"], ["Last write"], ["Shard"]],
    documents.map((found) => {
      const open = make("button", { type: "button", className: "link" }, found.id);
      open.onclick = () => guarded(() => inspect(found.id));
      return [open, count(found.subscribers), found.text ? `${count(found.fields)} and text` : count(found.fields),
        bytes(found.bytes), ago(found.modified, now), String(found.shard)];
    }));
}

async function inspect(id) {
  const { document: found, subscribers } = await ask(`/dashboard/document?id=${encodeURIComponent(id)}`);
  const now = Date.now();
  const part = (title, columns, rows, none) => {
    const list = make("table");
    table(list, columns, rows);
    return [make("h3", {}, title), rows.length ? make("div", { className: "scroll", tabIndex: 0, role: "group", ariaLabel: title }, list) : make("p", { className: "quiet" }, none)];
  };
  byName("document-title").textContent = found.id;
  byName("document-facts").replaceChildren(
    make("dl", { className: "tiles" }, ...tiles([
      ["Subscribers", count(found.subscribers)],
      ["Fields", count(found.fields)],
      ["Size", bytes(found.bytes)],
      ["Text", found.textBlocks ? `${bytes(found.textBytes)}` : "none"],
      ["Present", count(found.present)],
    ])),
    ...part("Last writes", [["Field", true], ["Value", true], ["When"]],
      found.lastWrites.map((write) => [plain(write.field), write.value ?? "deleted", ago(write.at, now)]), "None since the document was loaded."),
    ...part(found.subscribers > subscribers.length ? `Subscribers (${subscribers.length} of ${count(found.subscribers)})` : "Subscribers",
      [["Connection"], ["User", true], ["Client", true], ["Waiting"]],
      subscribers.map((one) => [one.connection, one.user, one.client, bytes(one.queuedBytes)]), "Nobody listens."),
    ...part("Presence", [["Client", true], ["State", true]], found.presence.map((one) => [one.client, one.state]), "Nobody is present."),
  );
  byName("document").hidden = false;
  byName("document-title").focus();
}

// ---- running ----

let paused = false;
let timer = null;

function needToken() {
  say("closed", "Token needed");
  byName("board").hidden = true;
  byName("login").hidden = false;
  byName("token").focus();
}

async function guarded(work) {
  try {
    await work();
    return true;
  } catch (error) {
    if (error instanceof Refused) needToken();
    else say("closed", error instanceof TypeError ? "The server does not answer" : error.message);
    return false;
  }
}

async function tick() {
  clearTimeout(timer);
  const went = await guarded(async () => {
    const data = await ask("/dashboard/data");
    samples.push(sample(data));
    if (samples.length > KEPT) samples.shift();
    previous = data;
    const isFirst = byName("board").hidden;
    byName("login").hidden = true;
    byName("board").hidden = false;
    show(data);
    if (!paused) say("open", "Live");
    if (isFirst) await search();
  });
  const waits = byName("login").hidden;
  if (!paused && waits) timer = setTimeout(tick, went ? PERIOD_MS : 3 * PERIOD_MS);
}

byName("pause").onclick = () => {
  paused = !paused;
  byName("pause").setAttribute("aria-pressed", String(paused));
  byName("pause").textContent = paused ? "Go on" : "Pause";
  say(paused ? "connecting" : "open", paused ? "Paused" : "Live");
  if (paused) clearTimeout(timer);
  else tick();
};

byName("login-form").onsubmit = async (event) => {
  event.preventDefault();
  token = byName("token").value.trim();
  sessionStorage.setItem("token", token);
  byName("login-error").textContent = "";
  await tick();
  if (!byName("login").hidden) byName("login-error").textContent = "This token is not an administrator’s, or has expired.";
};

byName("search-form").onsubmit = (event) => {
  event.preventDefault();
  guarded(search);
};

byName("charts").append(...charts.map(buildChart));
tick();
