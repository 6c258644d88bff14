"use strict";
// All that comes from people or models is set as text, never as HTML. What is shown is made from the two streams of
// events alone, so a page that is loaded again shows the same.

const $ = (id) => document.getElementById(id);
const make = (tag, className, text) => Object.assign(document.createElement(tag), { className, textContent: text ?? "" });

let follower = null;  // of the workflow that is shown
let mayKill = false;
let shown = 0;  // grows with each workflow, so that late answers about the one before are not shown

// --- the service -------------------------------------------------------------------------------------------

async function ask(path, body, headers = {}) {
  const sent = body === undefined ? {} : { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json", ...headers } };
  const response = await fetch(path, sent).catch(() => { throw new Error("The service does not answer."); });
  const text = await response.text();
  if (response.ok) return text ? JSON.parse(text) : null;
  let detail = text;
  try { detail = JSON.parse(text).detail; } catch { /* it is no JSON */ }
  const words = Array.isArray(detail) ? detail.map((one) => `${one.loc.at(-1)}: ${one.msg}`).join("; ") : detail;
  throw Object.assign(new Error(words || `The service answers ${response.status}.`), { status: response.status });
}

async function trying(action) {
  $("problem").hidden = true;
  try { return await action(); } catch (error) {
    $("problem").textContent = error.message;
    $("problem").hidden = false;
  }
}

// Reads a stream of events; goes on behind the last one when the connection breaks, or when it is opened again. A browser
// has six connections to a server for all its tabs, so only a tab in front reads.
class Stream {
  constructor(path, take, ended) {
    Object.assign(this, { path, take, ended, last: null, over: false });
    this.open();
  }

  open() {
    if (document.hidden || this.over) return;
    clearTimeout(this.timer);
    this.source?.close();
    const source = new EventSource(this.last ? `${this.path}?after=${encodeURIComponent(this.last)}` : this.path);
    this.source = source;
    source.onopen = () => { $("link").hidden = true; };
    source.onmessage = (message) => {
      this.last = message.lastEventId;
      this.take(JSON.parse(message.data), message.lastEventId);
    };
    source.addEventListener("end", () => { this.over = true; source.close(); this.ended(); });
    source.onerror = () => {  // a browser tries again by itself, unless it got an answer that is no stream
      $("link").hidden = false;
      if (source.readyState === EventSource.CLOSED) this.timer = setTimeout(() => this.open(), 1000);
    };
  }

  close() {
    clearTimeout(this.timer);
    this.source?.close();
    $("link").hidden = true;
  }
}

// --- one workflow ------------------------------------------------------------------------------------------

const WHY = { owner_gone: ": its worker is gone", lease_over: ": its worker is silent", queue_empty: ": its message is lost" };
const WORDS = {
  started: () => ["recorded, and sent to the first worker"],
  claimed: (fields) => [fields.attempt === "1" ? "a worker takes it" : `a worker takes it over, attempt ${fields.attempt}`],
  completed: () => ["done", "good"],
  resumed: (fields) => [`goes on from its record: ${fields.replayed} calls replayed, ${fields.made} made`],
  retrying: (fields) => [`failed with ${fields.error}, tried again in ${Math.round(fields.delay_ms / 1000)} s`, "bad"],
  released: () => ["given back by a worker that ends"],
  resent: (fields) => [`sent again${WHY[fields.why] ?? ""}`, "wait"],
  suspended: () => ["waits for a person, and holds no worker", "wait"],
  answered: (fields) => [fields.by ? `answered by ${fields.by}` : "answered", "good"],
  failed: (fields) => [`failed with ${fields.error}`, "bad"],
  parked: (fields) => [`set aside: ${fields.error}`, "bad"],
  redriven: () => ["let go on"],
  workflow_completed: () => ["the workflow is complete", "good"],
  workflow_failed: (fields) => [`the workflow failed: ${fields.error}`, "bad"],
  workflow_cancelled: () => ["the workflow was cancelled", "bad"],
};
const STEP = {  // what the step's card says after an event of its own
  claimed: (fields) => ["running", `running, attempt ${fields.attempt}`],
  completed: () => ["done", "done"],
  retrying: (fields) => ["retrying", `failed with ${fields.error}; tried again`],
  released: () => ["queued", "waits for a worker"],
  resent: () => ["queued", "waits for a worker"],
  suspended: () => ["waiting", "waits for a person"],
  answered: () => ["queued", "answered, waits for a worker"],
  failed: (fields) => ["failed", fields.error],
  parked: (fields) => ["failed", fields.error],
  redriven: () => ["queued", "waits for a worker"],
};
const STATE = {  // of the workflow
  started: "queued", claimed: "running", completed: "queued", retrying: "retrying", released: "queued", resent: "queued",
  suspended: "suspended", answered: "queued", parked: "parked", redriven: "queued",
  workflow_completed: "completed", workflow_failed: "failed", workflow_cancelled: "cancelled",
};
const ENDED = ["completed", "failed", "cancelled"];

class Follower {
  constructor(id, steps) {
    this.id = id;
    this.number = shown;
    this.path = `workflows/${encodeURIComponent(id)}`;
    this.cards = new Map(steps.map((step) => [step, this.card(step)]));
    this.screen = new Screen();
    this.streams = [
      new Stream(`${this.path}/events`, (event) => this.happened(event), () => loadArticles()),
      new Stream(`${this.path}/ag-ui`, (event, place) => this.screen.show(event, place), () => this.screen.end()),
    ];
  }

  card(step) {
    const card = make("li", "planned");
    card.append(make("b", "", step), make("small", "", "planned"));
    $("steps").append(card);
    return card;
  }

  happened(event) {
    if (STATE[event.type]) this.state(STATE[event.type]);
    const words = WORDS[event.type];
    if (words) {
      const [text, kind] = words(event.fields);
      const line = make("li"), time = make("time", "", new Date(event.at).toLocaleTimeString([], { hourCycle: "h23" }));
      time.dateTime = event.at;
      line.append(time, make("span", kind, event.path && !event.type.startsWith("workflow") && event.type !== "started" ? `${event.path}: ${text}` : text));
      $("log").append(line);
    }
    const step = STEP[event.type], card = this.cards.get(event.path);
    if (step && card) this.mark(card, ...step(event.fields));
    if (event.type === "started" || event.type === "completed") this.next();
    if (event.type === "workflow_cancelled") {
      for (const other of this.cards.values()) {
        if (other.className !== "done" && other.className !== "planned") this.mark(other, "failed", "cancelled");
      }
    }
    if (["suspended", "answered", "claimed"].includes(event.type) || event.type.startsWith("workflow_")) this.look();
  }

  mark(card, state, text) {
    card.className = state;
    card.lastChild.textContent = text;
  }

  next() {
    const card = [...this.cards.values()].find((one) => one.className === "planned");
    if (card) this.mark(card, "queued", "waits for a worker");
  }

  state(state) {
    $("state").textContent = state;
    $("state").dataset.state = state;
    $("cancel").hidden = ENDED.includes(state);
    $("redrive").hidden = state !== "parked";
    $("kill").hidden = !mayKill || ENDED.includes(state);
    document.title = `${state} · Newsroom`;
  }

  look() {  // once for events that come together
    clearTimeout(this.looking);
    this.looking = setTimeout(() => this.showQuestions(), 50);
  }

  async showQuestions() {
    const asked = await ask(`${this.path}/questions`).catch(() => []);
    if (this.number !== shown) return;
    const open = new Set(asked.map((question) => question.call));
    for (const form of $("questions").children) if (!open.has(form.dataset.call)) form.remove();
    const here = new Set([...$("questions").children].map((form) => form.dataset.call));
    for (const question of asked) if (!here.has(question.call)) $("questions").append(this.form(question));
  }

  form(question) {
    const form = $("question").content.firstElementChild.cloneNode(true), { headline, body, by, reason } = form.elements;
    form.dataset.call = question.call;
    headline.value = question.arguments.headline;
    body.value = question.arguments.body;
    by.value = localStorage.getItem("name") ?? "";
    form.onsubmit = (event) => {
      event.preventDefault();
      const approve = event.submitter?.value !== "no";
      localStorage.setItem("name", by.value);
      const edited = { headline: headline.value, body: body.value };
      const same = edited.headline === question.arguments.headline && edited.body === question.arguments.body;
      trying(async () => {
        try {
          await ask(`${this.path}/answers`, { call: question.call, approve, by: by.value, arguments: approve && !same ? edited : null, reason: reason.value.trim() || null });
        } finally {
          await this.showQuestions();
        }
      });
    };
    return form;
  }

  again() {  // also what had ended, because the workflow was parked
    for (const stream of this.streams) stream.over = false;
    this.open();
  }

  open() {
    for (const stream of this.streams) stream.open();
  }

  close() {
    for (const stream of this.streams) stream.close();
  }
}

// What the agents do: events of AG-UI.
class Screen {
  constructor() {
    this.texts = new Map();
    this.calls = new Map();
    this.attempts = new Map();
    this.group = this.begin("");
  }

  begin(title) {
    const group = make("div", "step");
    if (title) group.append(make("h3", "", title));
    this.group = group;
    return group;
  }

  add(element) {
    $("screen").querySelector(".none")?.remove();
    if (!this.group.isConnected) $("screen").append(this.group);
    this.group.append(element);
    return element;
  }

  show(event, place) {
    const cursor = place.split("/")[0];
    switch (event.type) {
      case "STEP_STARTED": {
        const attempt = (this.attempts.get(event.stepName) ?? 0) + 1;
        this.attempts.set(event.stepName, attempt);
        if (this.ended?.cursor === cursor) this.ended.text?.classList.add("cut");  // what began anew has cut it off
        this.begin(attempt > 1 ? `${event.stepName}, begun again` : event.stepName);
        break;
      }
      case "STEP_FINISHED":
        break;
      case "TEXT_MESSAGE_START":
        this.texts.set(event.messageId, this.add(make("p", "open")));
        break;
      case "TEXT_MESSAGE_CONTENT":
        this.texts.get(event.messageId)?.append(event.delta);
        break;
      case "TEXT_MESSAGE_END":
        this.ended = { text: this.texts.get(event.messageId), cursor };
        this.ended.text?.classList.remove("open");
        if (this.ended.text?.textContent === "") this.ended.text.remove();  // an answer that is a call alone
        break;
      case "TOOL_CALL_START": {
        const call = this.add(make("div", "call"));
        call.append(make("b", "", event.toolCallName), make("span", "arguments"));
        this.calls.set(event.toolCallId, call);
        break;
      }
      case "TOOL_CALL_ARGS":
        this.calls.get(event.toolCallId)?.querySelector(".arguments").append(event.delta);
        break;
      case "TOOL_CALL_END": {
        const told = this.calls.get(event.toolCallId)?.querySelector(".arguments");
        if (told) told.textContent = readable(told.textContent);
        break;
      }
      case "TOOL_CALL_RESULT":
        this.calls.get(event.toolCallId)?.append(make("div", "answer", event.content));
        break;
      case "RUN_ERROR":
        this.add(make("p", "problem", event.message));
        break;
    }
  }

  end() {
    if (!$("screen").children.length) $("screen").append(make("p", "none", "Nothing."));
  }
}

// A line for each argument of a call.
function readable(text) {
  try {
    return Object.entries(JSON.parse(text)).map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`).join("\n");
  } catch {
    return text;  // it was broken off
  }
}

// --- the page ----------------------------------------------------------------------------------------------

async function open() {
  const id = decodeURIComponent(location.hash.slice(1)), number = ++shown;
  follower?.close();
  follower = null;
  for (const list of ["steps", "questions", "screen", "log"]) $(list).replaceChildren();
  $("workflow").hidden = true;
  $("problem").hidden = true;
  document.title = "Newsroom";
  if (!id) return;
  await trying(async () => {
    const status = await ask(`workflows/${encodeURIComponent(id)}`);
    if (number !== shown) return;
    $("workflow").hidden = false;
    $("id").textContent = id;
    $("screen").append(make("p", "none", "Nothing yet."));
    follower = new Follower(id, [...status.executed, ...status.remaining]);
    follower.state(status.state);
    $("agui").href = `${follower.path}/ag-ui`;
    $("raw").href = `${follower.path}/events`;
  });
}

async function loadArticles() {
  const articles = await ask("articles").catch(() => []);
  $("articles").replaceChildren(...articles.map(({ headline, body }) => {
    const article = make("article");
    article.append(make("h3", "", headline), make("p", "", body));
    return article;
  }));
  if (!articles.length) $("articles").append(make("p", "none", "Nothing yet."));
}

$("notes").onsubmit = (event) => {
  event.preventDefault();
  const button = $("notes").querySelector("button");
  button.disabled = true;
  // The same key for each try: if the answer is lost and somebody presses the button again, nothing begins twice.
  key ??= crypto.randomUUID();
  trying(async () => {
    const { id } = await ask("workflows", { text: $("text").value }, { "Idempotency-Key": key });
    key = null;
    location.hash = id;
  }).finally(() => { button.disabled = false; });
};
let key = null;
$("text").oninput = () => { key = null; };
$("cancel").onclick = () => trying(() => ask(`${follower.path}/cancel`, {}));
$("redrive").onclick = () => trying(async () => { await ask(`${follower.path}/redrive`, {}); follower.again(); });
$("kill").onclick = () => trying(() => ask("worker/kill", {}));
window.onhashchange = open;
document.onvisibilitychange = () => { if (document.hidden) follower?.close(); else follower?.open(); };
window.onpagehide = () => follower?.close();
window.onpageshow = ({ persisted }) => { if (persisted) follower?.open(); };

ask("offer").then(({ notes, may_kill }) => {
  mayKill = may_kill;
  $("kill").hidden = !mayKill || ENDED.includes($("state").dataset.state);
  $("text").value ||= notes;
}).catch(() => {});
loadArticles();
open();
