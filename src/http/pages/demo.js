// The page's own client: JSON text frames, three documents (docs/protocol.md).

const byName = (id) => document.getElementById(id);
const client = `demo-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
const room = (new URLSearchParams(location.search).get("room") || "main").replace(/[^A-Za-z0-9_-]/g, "").slice(0, 40);
const documents = { todos: `demo-todos-${room}`, text: `demo-text-${room}`, presence: `demo-presence-${room}` };

const colours = ["#2456c7", "#a1356b", "#0f766e", "#9a4a00", "#6d3fc0", "#b3261e", "#476a1c", "#0b6a94"];
const animals = ["Otter", "Heron", "Lynx", "Finch", "Badger", "Marten", "Plover", "Hare", "Ibex", "Wren"];
const any = (list) => list[crypto.getRandomValues(new Uint32Array(1))[0] % list.length];
const me = { name: any(animals), color: any(colours), x: null, y: null };

// ---- connection ----

let socket = null;
let serial = 0;
let retryMs = 250;
const unacknowledged = new Map();

function send(type, fields) {
  serial += 1;
  const id = `${client}-${serial}`;
  const message = JSON.stringify({ type, id, timestamp: Date.now(), ...fields });
  if (type === "delta") unacknowledged.set(id, message);
  if (socket?.readyState === WebSocket.OPEN) socket.send(message);
}

function say(state, text) {
  byName("status").dataset.state = state;
  byName("status-text").textContent = text;
}

async function token() {
  const wished = Object.values(documents);
  const body = { email: "demo@localhost", password: "demo", permissions: { canRead: wished, canWrite: wished } };
  const answer = await fetch("/auth/login", { method: "POST", body: JSON.stringify(body) });
  return answer.ok ? (await answer.json()).accessToken : null;
}

async function connect() {
  const bearer = await token().catch(() => null);
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`);
  socket.onopen = () => {
    retryMs = 250;
    say("open", "Connected");
    if (bearer) send("auth", { token: bearer });
    for (const documentId of [documents.todos, documents.text]) send("subscribe", { documentId });
    send("awareness_subscribe", { documentId: documents.presence });
    for (const message of unacknowledged.values()) socket.send(message);
    if (text.blocks.length) sendText();
    sendPresence();
  };
  socket.onmessage = (event) => receive(JSON.parse(event.data));
  socket.onclose = () => {
    say("closed", "Connection lost, trying again");
    others.clear();
    showPeople();
    setTimeout(connect, retryMs);
    retryMs = Math.min(2 * retryMs, 8000);
  };
}

function receive(message) {
  if (message.type === "ack") unacknowledged.delete(message.messageId ?? message.id);
  else if (message.type === "error") say("open", `Connected; the server refused something: ${message.error}`);
  else if (message.documentId === documents.todos) receiveTodos(message);
  else if (message.documentId === documents.text) receiveText(message);
  else if (message.documentId === documents.presence) receivePresence(message);
}

// ---- the list: one field per entry ----

const todos = new Map();

function receiveTodos(message) {
  if (message.type === "sync_response") {
    todos.clear();
    for (const [field, value] of Object.entries(message.state)) todos.set(field, value);
  } else if (message.type === "delta") {
    takeTodo(message.field, message.value);
  }
  showTodos();
}

function takeTodo(field, value) {
  if (!value || value.__deleted) todos.delete(field);
  else todos.set(field, value);
}

function writeTodo(field, value) {
  takeTodo(field, value);
  showTodos();
  send("delta", { documentId: documents.todos, field, value });
}

function showTodos() {
  const focused = document.activeElement?.dataset?.key;
  const rows = [...todos].sort(([, a], [, b]) => a.at - b.at).map(([field, todo]) => {
    const row = document.createElement("li");
    const label = document.createElement("label");
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = todo.done;
    box.dataset.key = `box ${field}`;
    box.onchange = () => writeTodo(field, { ...todo, done: box.checked });
    const words = document.createElement("span");
    words.textContent = todo.text;
    words.className = todo.done ? "done" : "";
    label.append(box, words);
    const remove = document.createElement("button");
    remove.className = "plain";
    remove.type = "button";
    remove.textContent = "Remove";
    remove.setAttribute("aria-label", `Remove ${todo.text}`);
    remove.dataset.key = `remove ${field}`;
    remove.onclick = () => {
      writeTodo(field, { __deleted: true });
      byName("todo-new").focus();
    };
    row.append(label, remove);
    return row;
  });
  byName("todos").replaceChildren(...rows);
  byName("todo-empty").hidden = rows.length > 0;
  if (focused) document.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

byName("todo-form").onsubmit = (event) => {
  event.preventDefault();
  const words = byName("todo-new").value.trim();
  if (!words) return;
  writeTodo(`${Date.now()}-${client}-${serial}`, { text: words, done: false, at: Date.now() });
  byName("todo-new").value = "";
};

// ---- the text ----

const text = new SharedText(client);
const area = byName("text");
let textTimer = null;

function sendText() {
  const element = { type: "text-state", state: text.state(), documentId: documents.text, clientId: client, timestamp: Date.now() };
  send("delta_batch", { documentId: documents.text, deltas: [{ ...element, clock: { [client]: text.clock } }] });
}

area.oninput = () => {
  text.edit(area.value);
  showTextFacts();
  textTimer ??= setTimeout(() => {
    textTimer = null;
    sendText();
  }, 120);
};

function receiveText(message) {
  const states = message.type === "sync_response" ? [message.textState] : (message.deltas ?? []).map((delta) => delta.state);
  for (const state of states.filter(Boolean)) {
    const before = text.names;
    text.merge(state);
    const places = new Map(text.names.map((name, at) => [name, at]));
    // A caret stays behind the character it stood behind.
    const moved = (units) => {
      let at = characters(area.value.slice(0, units)).length;
      while (at > 0 && !places.has(before[at - 1])) at -= 1;
      const count = at > 0 ? places.get(before[at - 1]) + 1 : 0;
      return text.visible.slice(0, count).reduce((sum, character) => sum + character.text.length, 0);
    };
    const [start, end] = [moved(area.selectionStart), moved(area.selectionEnd)];
    if (area.value !== text.text) {
      area.value = text.text;
      if (document.activeElement === area) area.setSelectionRange(start, end);
    }
  }
  showTextFacts();
}

function showTextFacts() {
  byName("text-facts").textContent = `${text.visible.length} characters`;
}

// ---- who is here, and where they point ----

const others = new Map();
let presenceClock = 0;
let presenceTimer = null;

function sendPresence() {
  presenceClock += 1;
  send("awareness_update", { documentId: documents.presence, clientId: client, state: me, clock: presenceClock });
}

function receivePresence(message) {
  const entries = message.type === "awareness_state" ? message.states : message.type === "awareness_update" ? [message] : [];
  for (const { clientId, state } of entries) {
    if (clientId === client) continue;
    if (state) others.set(clientId, state);
    else others.delete(clientId);
  }
  showPeople();
}

// Places are shares of the area with the cards, so that they fit windows of other widths.
addEventListener("pointermove", (event) => {
  const stage = byName("stage").getBoundingClientRect();
  me.x = (event.clientX - stage.left) / stage.width;
  me.y = event.clientY - stage.top;
  presenceTimer ??= setTimeout(() => {
    presenceTimer = null;
    sendPresence();
  }, 200);
});

function showPeople() {
  const rows = [[client, { ...me, name: `${me.name} (you)` }], ...others].map(([, person]) => {
    const row = document.createElement("li");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = person.color;
    row.append(swatch, String(person.name));
    return row;
  });
  byName("people").replaceChildren(...rows);
  showCursors();
}

const arrow = '<svg width="16" height="20" viewBox="0 0 16 20"><path d="M1 1v15l4-4 3 7 3-1-3-7h6z" stroke="#fff" stroke-width="1.2"/></svg>';

function showCursors() {
  const stage = byName("stage").getBoundingClientRect();
  const known = new Map([...byName("cursors").children].map((element) => [element.dataset.client, element]));
  for (const [id, person] of others) {
    if (typeof person.x !== "number" || typeof person.y !== "number") continue;
    let element = known.get(id);
    known.delete(id);
    if (!element) {
      element = document.createElement("div");
      element.className = "cursor";
      element.dataset.client = id;
      element.innerHTML = arrow;
      const label = document.createElement("span");
      label.textContent = String(person.name);
      label.style.background = person.color;
      element.firstChild.style.fill = person.color;
      element.append(label);
      byName("cursors").append(element);
    }
    element.style.transform = `translate(${stage.left + person.x * stage.width}px, ${stage.top + person.y}px)`;
  }
  for (const element of known.values()) element.remove();
}

addEventListener("scroll", showCursors, { passive: true });
addEventListener("resize", showCursors);
showPeople();
connect();
