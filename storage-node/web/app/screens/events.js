// What happened, newest first, and what happens now.

import { repeat } from "../../vendor/lit-html/directives/repeat.js";
import { newestEvents, problemOf } from "../api.js";
import { plural } from "../format.js";
import { badge, empty, html, link, loading, nothing, problem, time } from "../parts.js";
import { replace, route, withQuery } from "../route.js";
import { changed, listen, state } from "../store.js";
import { level, placeOfEvent } from "../words.js";

/** @typedef {import("../types.js").Event} Happened */

/** Events that are asked for at first, and kept at most. */
const FIRST = 200;
const MOST = 3000;
const SEVERITIES = ["info", "warning", "error"];

/** @type {Happened[] | null} */
let items = null;
/** Newer ones that wait for the reader: what is being read does not move away. @type {Happened[]} */
let waiting = [];
let complete = false;
let want = FIRST;
/** @type {import("../types.js").Problem | null} */
let refused = null;
let left = new AbortController();
let deaf = () => {};

export const events = {
  title: () => "Events",
  enter() {
    items = null;
    want = FIRST;
    deaf = listen(hear);
    read();
  },
  leave() {
    deaf();
    left.abort();
  },
  moved: read,
  view,
};

async function read() {
  left.abort();
  left = new AbortController();
  const mine = left.signal;
  const { query } = route();
  try {
    const filter = { subject: query.get("subject") ?? undefined, kind: query.get("kind") ?? undefined };
    const found = await newestEvents(state.cluster?.revision ?? 0, want, filter, mine);
    items = found.items;
    complete = found.complete;
    waiting = [];
    refused = null;
  } catch (e) {
    if (mine.aborted) return;
    refused = problemOf(e);
  }
  changed();
}

/** @param {Happened} e */
function wanted(e) {
  const { query } = route();
  const is = (/** @type {string} */ name, /** @type {string} */ value) => !query.get(name) || query.get(name) === value;
  return is("subject", e.subject) && is("kind", e.kind);
}

/** @param {import("../store.js").Message} m */
function hear(m) {
  if (m.what === "anew") read();
  if (m.what !== "event" || !wanted(m.object) || items?.some((e) => e.revision === m.object.revision && e.message === m.object.message)) return;
  waiting = [m.object, ...waiting].slice(0, MOST);
  if (scrollY < 80) show();
}

function show() {
  items = [...waiting, ...(items ?? [])].slice(0, MOST);
  waiting = [];
  changed();
}

/** @type {ReturnType<typeof setTimeout> | undefined} */
let typing;

/** @param {Event & {target: any}} e */
function typed({ target }) {
  clearTimeout(typing);
  typing = setTimeout(() => replace(withQuery({ [target.name]: target.value.trim() })), 250);
}

function view() {
  const { query } = route();
  const severity = query.get("severity") ?? "";
  const shown = (items ?? []).filter((e) => !severity || e.severity === severity);
  return html`
    <form class="filters" role="search" aria-label="Filters" @submit=${(/** @type {Event} */ e) => e.preventDefault()}>
      <label>About <input type="search" name="subject" data-q="subject" placeholder="volume, node or disk" maxlength="128" spellcheck="false" autocomplete="off" @input=${typed}></label>
      <label>Kind <input type="search" name="kind" data-q="kind" placeholder="replica.dropped" maxlength="64" spellcheck="false" autocomplete="off" @input=${typed}></label>
      <label>Severity
        <select name="severity" data-q="severity" @change=${typed}>
          <option value="">any</option>
          ${SEVERITIES.map((s) => html`<option value=${s}>${s}</option>`)}
        </select>
      </label>
      <a class="button" href="#/events">Clear</a>
    </form>
    <p class="newer-events" role="status">
      ${waiting.length ? html`<button type="button" @click=${() => { scrollTo(0, 0); show(); }}>Show ${plural(waiting.length, "newer event")}</button>` : nothing}
    </p>
    ${refused ? problem(refused) : nothing}
    ${items === null ? (refused ? nothing : loading("events")) : shown.length ? eventTable(shown, true) : empty("No event fits.")}
    ${items !== null && !complete && want < MOST
      ? html`<p><button type="button" @click=${() => { want = Math.min(MOST, want * 4); read(); }}>Older events</button></p>`
      : nothing}`;
}

/** One revision may bring several events. @param {Happened} e */
const key = (e) => `${e.revision} ${e.kind} ${e.subject} ${e.message}`;

/**
 * @param {Happened[]} list newest first
 * @param {boolean} subjects whether to say what each is about
 */
export const eventTable = (list, subjects) => html`
  <div class="scroll"><table class="events">
    <caption class="unseen">Events, newest first</caption>
    <thead><tr>
      <th scope="col">Time</th><th scope="col">Severity</th><th scope="col">Kind</th>
      ${subjects ? html`<th scope="col">About</th>` : nothing}<th scope="col">What happened</th>
    </tr></thead>
    <tbody>${repeat(list, key, (/** @type {Happened} */ e) => html`<tr data-event=${e.revision}>
      <td class="when">${time(e.at)}</td>
      <td>${badge(level("severity", e.severity), e.severity)}</td>
      <td><code>${e.kind}</code></td>
      ${subjects ? html`<td>${link(placeOfEvent(e), e.subject)}</td>` : nothing}
      <td class="reason">${e.message}</td>
    </tr>`)}</tbody>
  </table></div>`;
