// All volumes, a page at a time: the node filters and sorts, so that a hundred thousand are as easy as ten. A change of a
// volume on this page is shown at once; what may change which volumes are on the page makes it be read anew.

import { repeat } from "../../vendor/lit-html/directives/repeat.js";
import { get, problemOf } from "../api.js";
import { maybeSize, size, words } from "../format.js";
import { empty, healthRefs, html, labelList, loading, nodeLink, nothing, problem, stateBadge, volumeLink } from "../parts.js";
import { replace, route, withQuery } from "../route.js";
import { changed, listen, state } from "../store.js";
import { VOLUME_STATES } from "../words.js";
import { natural } from "./map.js";

/** @typedef {import("../types.js").Volume} Volume */

const SIZES = ["50", "100", "200", "500"];
const FILTERS = ["name", "state", "label", "node", "health", "disk"];
/** A page is not read anew more often. */
const AGAIN_MS = 1000;

/** @type {{items: Volume[], next?: string, total_estimate: number} | null} */
let page = null;
/** @type {import("../types.js").Problem | null} */
let refused = null;
let busy = false;
/** The cursors of the pages before this one, as the reader came: the API knows only forward. @type {string[]} */
let before = [];
let shown = "";
/** @type {AbortController | null} */
let asking = null;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let due;
let deaf = () => {};

export const volumes = {
  title: () => "Volumes",
  enter() {
    page = null;
    shown = "";
    before = [];
    deaf = listen(hear);
    read();
  },
  leave() {
    deaf();
    asking?.abort();
    clearTimeout(due);
    due = undefined;
  },
  /** Another page, or other filters. */
  moved: read,
  view,
};

async function read() {
  clearTimeout(due);
  due = undefined;
  const { query } = route();
  shown = query.toString();
  asking?.abort();
  const mine = (asking = new AbortController());
  busy = true;
  changed();
  try {
    const filters = Object.fromEntries(FILTERS.map((f) => [f, query.get(f) ?? undefined]));
    page = await get("volumes", { ...filters, limit: limit(), after: query.get("after") ?? undefined }, mine.signal);
    refused = null;
  } catch (e) {
    if (mine.signal.aborted) return;
    refused = problemOf(e);
  }
  if (mine !== asking) return;
  busy = false;
  changed();
}

const limit = () => route().query.get("limit") ?? "100";

/** Reads the page anew, soon; several reasons make one reading. */
function again() {
  due ??= setTimeout(read, AGAIN_MS);
}

/** @param {import("../store.js").Message} m */
function hear(m) {
  if (m.what === "anew") return again();
  if (m.kind !== "volume" || !page) return;
  const at = page.items.findIndex((v) => v.name === m.key);
  if (m.what === "put" && at >= 0) page.items[at] = m.object;
  const query = new URLSearchParams(shown);
  const filtered = FILTERS.some((f) => query.get(f));
  const last = page.items.at(-1)?.name;
  const here = at >= 0 || page.next === undefined || (last !== undefined && (m.key ?? "") < last);
  if (m.what === "gone" ? at >= 0 : (at < 0 && here) || filtered) again();
}

/** @type {ReturnType<typeof setTimeout> | undefined} */
let typing;

/** @param {Event} e */
function typed(e) {
  const input = /** @type {HTMLInputElement} */ (e.target);
  clearTimeout(typing);
  typing = setTimeout(() => narrow(input.name, input.value.trim()), 250);
}

/** @param {string} name @param {string} value */
function narrow(name, value) {
  before = [];
  replace(withQuery({ [name]: value, after: undefined }));
}

function view() {
  const { query } = route();
  const codes = [...new Set((state.health?.items ?? []).filter((i) => i.subject.startsWith("volume/")).map((i) => i.code))];
  const nodes = [...state.nodes.keys()].sort(natural);
  return html`
    <form class="filters" role="search" aria-label="Filters" @submit=${(/** @type {Event} */ e) => e.preventDefault()}>
      ${text("name", "Name", "part of the name")} ${choice("state", "State", VOLUME_STATES)}
      ${choice("node", "Node", nodes)} ${text("label", "Label", "key=value, key")}
      ${choice("health", "Health code", [...new Set([...codes, query.get("health") ?? ""])].filter(Boolean))}
      ${query.get("disk") ? html`<label>Disk <input name="disk" data-q="disk" @input=${typed}></label>` : nothing}
      <a class="button" href="#/volumes">Clear</a>
    </form>
    ${refused ? problem(refused) : nothing} ${page ? table(page) : refused ? nothing : loading("volumes")}`;
}

/** @param {string} name @param {string} label @param {string} hint */
const text = (name, label, hint) =>
  html`<label>${label} <input type="search" name=${name} data-q=${name} placeholder=${hint} maxlength="128" spellcheck="false" autocomplete="off" @input=${typed}></label>`;

/** @param {string} name @param {string} label @param {string[]} options */
const choice = (name, label, options) => html`
  <label>${label}
    <select name=${name} data-q=${name} @change=${(/** @type {Event} */ e) => narrow(name, /** @type {HTMLSelectElement} */ (e.target).value)}>
      <option value="">any</option>
      ${options.map((o) => html`<option value=${o}>${words(o)}</option>`)}
    </select>
  </label>`;

/** @param {NonNullable<typeof page>} p */
function table(p) {
  const { query } = route();
  const filtered = FILTERS.some((f) => query.get(f));
  if (p.items.length === 0) {
    if (query.get("after")) return html`${empty("There is nothing on this page any more.")}${pager(p)}`;
    if (filtered) return empty("No volume fits these filters.", html`<a href="#/volumes">Show all</a>`);
    return empty("There is no volume yet.", html`Create one: <code>holdfast volume create NAME --size 10GiB</code>`);
  }
  return html`
    <div class="scroll">
    <table class="volumes" aria-busy=${busy}>
      <caption class="unseen">Volumes</caption>
      <thead>
        <tr>
          <th scope="col">Name</th><th scope="col">State</th><th scope="col" class="number">Size</th>
          <th scope="col" class="number">Used</th><th scope="col" class="number">Copies</th><th scope="col">Attached to</th>
          <th scope="col">Labels</th><th scope="col">Reason</th>
        </tr>
      </thead>
      <tbody>${repeat(p.items, (/** @type {Volume} */ v) => v.id, row)}</tbody>
    </table>
    </div>
    ${pager(p)}`;
}

/** @param {Volume} v */
const row = (v) => html`
  <tr data-volume=${v.name} data-state=${v.state}>
    <th scope="row">${volumeLink(v.name)}</th>
    <td>${stateBadge("volume", v.state)}</td>
    <td class="number">${size(v.size_bytes)}</td>
    <td class="number">${v.used_bytes === undefined ? html`<span class="faint">not told</span>` : maybeSize(v.used_bytes)}</td>
    <td class="number">${v.copies_ok}/${v.copies_wanted}</td>
    <td>${v.attachment ? nodeLink(v.attachment.node) : html`<span class="faint">–</span>`}</td>
    <td class="labels">${labelList(v.labels)}</td>
    <td class="reason">${v.why ?? (v.health.length ? healthRefs(v.health) : nothing)}</td>
  </tr>`;

/** @param {NonNullable<typeof page>} p */
function pager(p) {
  const { query } = route();
  const after = query.get("after") ?? "";
  const range = p.items.length ? html`${p.items[0].name} to ${p.items.at(-1)?.name}` : nothing;
  return html`
    <nav class="pager" aria-label="Pages">
      ${after ? html`<a class="button" href=${withQuery({ after: undefined })} @click=${() => (before = [])}>First</a>` : html`<span class="button off">First</span>`}
      ${after && before.length
        ? html`<a class="button" href=${withQuery({ after: before.at(-1) })} @click=${() => before.pop()}>Back</a>`
        : html`<span class="button off">Back</span>`}
      ${p.next
        ? html`<a class="button" href=${withQuery({ after: p.next })} @click=${() => before.push(after)}>Next</a>`
        : html`<span class="button off">Next</span>`}
      <span>${p.items.length} shown of about ${p.total_estimate} in all · ${range}</span>
      <label>Rows
        <select name="limit" aria-label="Rows on a page" @change=${(/** @type {Event} */ e) => narrow("limit", /** @type {HTMLSelectElement} */ (e.target).value)}>
          ${SIZES.map((n) => html`<option value=${n} ?selected=${n === limit()}>${n}</option>`)}
        </select>
      </label>
    </nav>`;
}
