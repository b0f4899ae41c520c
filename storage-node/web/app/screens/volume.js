// One volume: its state and the reason, who serves it, its replicas, what it did lately, jobs, events, policy.

import { Refused, get, newestEvents, problemOf } from "../api.js";
import { plural, size } from "../format.js";
import {
  badge, conditionTable, empty, healthRefs, html, jobProgress, labelList, loading, nodeLink, nothing, problem, stateBadge, time,
} from "../parts.js";
import { replace, route } from "../route.js";
import { changed, listen, state } from "../store.js";
import { level } from "../words.js";
import { LATENCY, REQUESTS, THROUGHPUT } from "./charts.js";
import { eventTable } from "./events.js";
import { policy, readAttributes } from "./policy.js";
import { replicaMap } from "./replicas.js";

/** @typedef {import("../types.js").Volume} Volume */

const EVENTS = 30;

/** What is shown; made anew for each volume. */
class Shown {
  /** @param {string} name */
  constructor(name) {
    this.name = name;
    /** @type {Volume | null} */ this.volume = null;
    /** @type {import("../types.js").Problem | null} */ this.refused = null;
    /** @type {import("../types.js").VolumeStats | null} */ this.stats = null;
    /** @type {import("../types.js").Problem | null} */ this.noStats = null;
    /** @type {import("../types.js").Event[] | null} */ this.events = null;
    this.left = new AbortController();
    /** @type {ReturnType<typeof setTimeout> | undefined} */ this.due = undefined;
  }

  /** Reads the volume; with more than the stream's 16 replicas that is the only way to see all. */
  async read() {
    clearTimeout(this.due);
    this.due = undefined;
    try {
      this.volume = await get(`volumes/${encodeURIComponent(this.name)}`, {}, this.left.signal);
      this.refused = null;
    } catch (e) {
      if (this.left.signal.aborted) return;
      this.refused = problemOf(e);
      if (e instanceof Refused && e.problem.status === 404) this.volume = null;
    }
    changed();
  }

  again() {
    this.due ??= setTimeout(() => this.read(), 500);
  }

  async readEvents() {
    try {
      const revision = state.cluster?.revision ?? 0;
      const found = await newestEvents(revision, EVENTS, { subject: this.name }, this.left.signal);
      const known = new Set(found.items.map((e) => `${e.revision} ${e.message}`));
      const newer = (this.events ?? []).filter((e) => e.revision > revision && !known.has(`${e.revision} ${e.message}`));
      this.events = [...newer, ...found.items];
    } catch {
      this.events ??= this.left.signal.aborted ? null : [];
    }
    changed();
  }

  /** Reads the history, and again after each of its intervals. */
  async readStats() {
    if (this.left.signal.aborted) return;
    let pause = 5;
    if (!document.hidden && this.volume) {
      try {
        this.stats = await get(`volumes/${encodeURIComponent(this.name)}/stats`, {}, this.left.signal);
        this.noStats = null;
        pause = Math.min(15, Math.max(2, this.stats?.interval_seconds ?? 5));
      } catch (e) {
        if (this.left.signal.aborted) return;
        this.noStats = problemOf(e);
      }
      changed();
    }
    setTimeout(() => this.readStats(), pause * 1000);
  }

  /** @param {import("../store.js").Message} m */
  hear(m) {
    if (m.what === "anew") {
      this.again();
      this.readEvents();
    }
    if (m.what === "event" && m.object.subject === this.name) {
      this.events = [m.object, ...(this.events ?? [])].slice(0, 4 * EVENTS);
      changed();
    }
    if (m.kind !== "volume") return;
    if (m.what === "put" && this.volume && m.object.id === this.volume.id && m.key !== this.name) {
      replace(`#/volumes/${encodeURIComponent(m.key ?? "")}`);
    } else if (m.what === "put" && m.key === this.name) {
      if (m.object.replicas.length < m.object.replicas_total) this.again();
      else this.volume = m.object;
      this.refused = null;
    } else if (m.what === "gone" && m.key === this.name) this.again();
  }
}

/** @type {Shown | null} */
let now = null;
let deaf = () => {};

function enter() {
  leave();
  const mine = (now = new Shown(route().path[1]));
  deaf = listen((m) => mine.hear(m));
  mine.read().then(() => mine.readStats());
  mine.readEvents();
  readAttributes();
}

function leave() {
  deaf();
  now?.left.abort();
  clearTimeout(now?.due);
  now = null;
}

export const volume = {
  title: () => route().path[1],
  enter,
  leave,
  moved: () => now?.name === route().path[1] || enter(),
  view,
};

function view() {
  if (!now) return nothing;
  const { volume: v, refused } = now;
  if (!v) {
    return refused ? problem(refused, html`<p><a href="#/volumes">All volumes</a></p>`) : loading("the volume");
  }
  return html`
    ${refused ? problem(refused) : nothing} ${head(v)}
    <div class="columns">
      <section aria-labelledby="h-conditions"><h2 id="h-conditions">Conditions</h2>${conditionTable(v.conditions)}</section>
      <section aria-labelledby="h-facts"><h2 id="h-facts">Facts</h2>${facts(v)}</section>
    </div>
    <section aria-labelledby="h-replicas">
      <h2 id="h-replicas">Replicas <span class="faint">${v.replicas_total}</span></h2>
      ${replicaMap(v)}
    </section>
    <section aria-labelledby="h-stats">
      <h2 id="h-stats">Latency and throughput <span class="faint">${history(v)}</span></h2>
      ${charts(v)}
    </section>
    <div class="columns">
      <section aria-labelledby="h-jobs"><h2 id="h-jobs">Jobs</h2>${jobs(v)}</section>
      <section aria-labelledby="h-policy"><h2 id="h-policy">Policy</h2>${policy(v)}</section>
    </div>
    <section aria-labelledby="h-events">
      <h2 id="h-events">Events</h2>
      ${now.events === null ? loading("events") : now.events.length ? lately(now.events) : empty("No event is about this volume.")}
    </section>`;
}

/** @param {import("../types.js").Event[]} events */
const lately = (events) => html`${eventTable(events.slice(0, EVENTS), false)}
  <p><a href=${`#/events?subject=${encodeURIComponent(now?.name ?? "")}`}>All events about it</a></p>`;

/** @param {Volume} v */
const head = (v) => html`
  <div class="verdict ${level("volume", v.state)}" data-volume=${v.name} data-state=${v.state}>
    <p class="word" role="status">${stateBadge("volume", v.state)} <span class="why">${v.why ?? nothing}</span></p>
    ${healthRefs(v.health)}
  </div>`;

/** @param {Volume} v */
function facts(v) {
  const a = v.attachment;
  return html`<dl class="facts">
    <dt>Size</dt>
    <dd>${size(v.size_bytes)}${v.usable_bytes < v.size_bytes ? html`, usable so far ${size(v.usable_bytes)}` : nothing}</dd>
    <dt>Used</dt>
    <dd>${v.used_bytes === undefined ? "not told" : html`${size(v.used_bytes)} by all replicas`}</dd>
    <dt>Copies</dt>
    <dd>${v.copies_ok} of ${v.copies_wanted} in sync${v.copies_ok < v.copies_wanted ? html` in the shard that has the fewest` : nothing}</dd>
    <dt>Attached to</dt>
    <dd>
      ${a
        ? html`${nodeLink(a.node)} ${served(a)} term ${a.term}${a.since ? html`, since ${time(a.since)}` : nothing}
            ${a.looked_after_by ? html`; ${nodeLink(a.looked_after_by)} looks after the replicas` : nothing}`
        : "no node"}
    </dd>
    ${a ? html`<dt>Clients</dt><dd>${a.clients ?? "not told"}</dd>` : nothing}
    ${a && a.uris.length ? html`<dt>Reached at</dt><dd>${a.uris.map((u) => html`<code class="uri">${u}</code> `)}</dd>` : nothing}
    <dt>Labels</dt>
    <dd>${Object.keys(v.labels).length ? labelList(v.labels) : "none"}</dd>
    <dt>Last scrub</dt>
    <dd>${v.scrubbed ? scrubbed(v.scrubbed) : "none yet"}</dd>
    <dt>Created</dt>
    <dd>${time(v.created_at, "not known")}</dd>
    <dt>Record</dt>
    <dd>id ${v.id}, epoch ${v.epoch}, revision ${v.revision}</dd>
  </dl>`;
}

/** @param {import("../types.js").Attachment} a */
function served(a) {
  if (a.serving === true) return badge("ok", "served");
  if (a.serving === false) return html`${badge("bad", "not served")} ${a.waits_for ? html`waits for ${a.waits_for};` : nothing}`;
  return badge("unknown", "serving not known");
}

/** @param {import("../types.js").Scrubbed} s */
const scrubbed = (s) => html`${time(s.at)}, ${plural(s.chunks, "chunk")}:
  ${s.bad + s.lost + s.diverged === 0 ? "all in order" : html`${s.bad} bad, ${s.repaired} repaired, ${s.lost} lost, ${s.diverged} diverged`}${s.skipped
    ? html`, ${s.skipped} skipped`
    : nothing}`;

/** @param {Volume} v */
function jobs(v) {
  const about = v.jobs.map((id) => ({ id, job: state.jobs.get(id) }));
  if (about.length === 0) return empty("No job is about this volume.");
  return html`<ul class="plain">
    ${about.map(({ id, job }) => html`<li>
      <p><strong>${id}</strong> ${job ? html`${stateBadge("job", job.state)} ${job.message}` : nothing}</p>
      ${job ? html`${jobProgress(job)}<p class="faint">${job.why_waiting ?? job.because}</p>` : nothing}
    </li>`)}
  </ul>`;
}

/** @param {Volume} v */
const history = (v) => {
  const node = now?.stats?.node;
  return node ? html`the last 15 minutes, as ${node} saw it${v.attachment && v.attachment.node !== node ? ", to which it was attached" : ""}` : nothing;
};

/** @param {Volume} v */
function charts(v) {
  const { stats, noStats } = now ?? {};
  if (noStats) return problem(noStats);
  if (!stats) return loading("the history");
  if (stats.points.length === 0) {
    return empty(v.attachment ? "There is no history yet." : "It is not attached: no node keeps a history of it.");
  }
  return html`<div class="charts">
    ${[LATENCY, THROUGHPUT, REQUESTS].map((kind) => html`<hf-chart .kind=${kind} .points=${stats.points} .step=${stats.interval_seconds}></hf-chart>`)}
  </div>`;
}

