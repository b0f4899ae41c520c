// Keeps the store as the cluster is: lists once, then one stream of changes. Promises: one EventSource for the whole page;
// it is opened before the lists are read, and what it says meanwhile is applied after them, so that no change is lost and
// no old list covers a new change; after `reset` all is listed anew.

import { address, all, aloneFor, get, problemOf } from "./api.js";
import { QUIET_MS, changed, state, tell } from "./store.js";

const KINDS = "volume,node,disk,job,event,health,cluster";
/** A stream that is quiet for twice as long as the page bears is opened anew. */
const DEAD_MS = 2 * QUIET_MS;
/** Shortest and longest pause between two attempts. */
const FIRST_PAUSE_MS = 250;
const PAUSE_MS = 8_000;

/** @type {EventSource | null} */
let source = null;
/** @type {Map<string, import("./store.js").Message> | null} What the stream said while the lists are read: the last of each. */
let early = null;
let attempt = 0;
let round = 0;
let pause = FIRST_PAUSE_MS;

/** Begins, and never ends while the page is open. */
export function start() {
  begin();
  setInterval(watchdog, 1000);
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
}

/** Opens a stream, and lists everything. */
async function begin() {
  const mine = ++attempt;
  source?.close();
  source = null;
  early = new Map();
  try {
    state.cluster = await get("cluster");
    if (mine !== attempt) return;
    open(state.cluster?.revision ?? 0, mine);
    await list();
  } catch (e) {
    if (mine !== attempt) return;
    state.problem = problemOf(e);
    again();
  }
  changed();
}

let lists = 0;

/** Lists everything. What the stream says meanwhile is kept, and applied to the lists. */
async function list() {
  const mine = ++lists;
  early ??= new Map();
  const [cluster, health, nodes, disks, jobs] = await Promise.all([get("cluster"), get("health"), all("nodes"), all("disks"), all("jobs")]);
  if (mine !== lists) return;
  state.cluster = cluster;
  state.health = health;
  state.nodes = new Map(nodes.map((n) => [n.name, n]));
  state.disks = new Map(disks.map((d) => [String(d.id), d]));
  state.jobs = new Map(jobs.map((j) => [j.id, j]));
  state.ready = true;
  state.problem = null;
  const said = early ?? new Map();
  early = null;
  tell({ what: "anew" });
  said.forEach(apply);
  sameDaemon();
  changed();
}

/** The stream goes on, but changes were missed: lists everything, after a pause that grows while this happens often. */
function anew() {
  early ??= new Map();
  const mine = ++lists;
  setTimeout(() => mine === lists && list().catch(again), pause);
  pause = Math.min(PAUSE_MS, pause * 2);
}

/** Begins anew after a pause, which grows until it works. */
function again() {
  const mine = ++attempt;
  lists += 1;
  source?.close();
  source = null;
  state.link.open = false;
  setTimeout(() => mine === attempt && begin(), pause);
  pause = Math.min(PAUSE_MS, pause * 2);
  changed();
}

/**
 * @param {number} after revision
 * @param {number} mine the attempt that it belongs to
 */
function open(after, mine) {
  const es = new EventSource(address("watch", { kinds: KINDS, after }));
  source = es;
  es.onopen = () => {
    state.link.open = true;
    seen();
  };
  es.onerror = () => {
    state.link.open = false;
    // The browser tries again by itself, unless the answer was an error.
    if (es.readyState === EventSource.CLOSED && mine === attempt) again();
    changed();
  };
  /** @param {string} name @param {(data: any) => void} then */
  const on = (name, then) =>
    es.addEventListener(name, (m) => {
      if (mine !== attempt) return;
      seen();
      then(JSON.parse(m.data));
    });
  for (const what of /** @type {const} */ (["put", "gone", "event"])) {
    on(what, (m) => {
      const message = { what, ...m };
      if (early) early.set(`${m.kind} ${m.key}`, message);
      else apply(message);
    });
  }
  on("soft", ({ jobs }) => {
    for (const j of jobs) if (state.jobs.has(j.id)) state.jobs.set(j.id, j);
  });
  on("bookmark", ({ stale_seconds }) => {
    // A stream that lived so long is in order: the next attempt need not wait.
    pause = FIRST_PAUSE_MS;
    aloneFor(stale_seconds);
    refresh();
  });
  on("reset", anew);
}

function seen() {
  state.link.seen = Date.now();
  changed();
}

/** @param {import("./store.js").Message} m */
function apply(m) {
  const { what, kind, key = "", object } = m;
  /** @type {Record<string, Map<string, any>>} */
  const maps = { node: state.nodes, disk: state.disks, job: state.jobs };
  const map = maps[kind ?? ""];
  if (map && what === "put") map.set(key, object);
  if (map && what === "gone") map.delete(key);
  if (kind === "health" && what === "put") state.health = object;
  if (kind === "cluster" && what === "put") state.cluster = object;
  tell(m);
  changed();
}

/** Reads what changes without a change of the record: bytes in use, who leads. */
async function refresh() {
  const mine = ++round;
  const cluster = await get("cluster").catch(() => null);
  if (cluster && mine === round) state.cluster = cluster;
  changed();
}

let ticks = 0;

function watchdog() {
  const { link } = state;
  ticks += 1;
  if (source && link.seen && Date.now() - link.seen > DEAD_MS) {
    link.seen = Math.min(link.seen, Date.now() - QUIET_MS - 1);
    if (ticks % 10 === 0) begin();
  }
  if (link.alone !== null && ticks % 3 === 0) refresh();
  changed();
}

/** @type {string | null} */
let tag = null;

/** Whether the daemon still serves the page that runs here. */
async function sameDaemon() {
  const answer = await fetch(new URL(".", document.baseURI), { method: "HEAD", cache: "no-store" }).catch(() => null);
  const now = answer?.ok ? answer.headers.get("ETag") : null;
  if (!now) return;
  tag ??= now;
  state.newer = tag !== now;
  changed();
}
