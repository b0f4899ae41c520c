// The first screen: what is wrong and what to do about it, then where everything is, then how full it is.

import { clock, plural, words } from "../format.js";
import { badge, empty, html, link, nothing, prose, time } from "../parts.js";
import { stale, state } from "../store.js";
import { byState, level, placeOf } from "../words.js";
import { capacity } from "./capacity.js";
import { map } from "./map.js";

/** @typedef {import("../types.js").HealthItem} HealthItem */

/** Subjects of one code that are shown before the rest is folded. */
const SHOWN = 4;

export const overview = {
  title: () => "Overview",
  enter: () => {},
  leave: () => {},
  view: () => html`
    ${verdict()}
    <div class="columns even">
      <section aria-labelledby="h-health">
        <h2 id="h-health">Health</h2>
        ${codes()}
      </section>
      <div>
        <section aria-labelledby="h-capacity">
          <h2 id="h-capacity">Capacity</h2>
          ${capacity()}
        </section>
        ${state.nodes.size <= BESIDE ? places() : nothing}
      </div>
    </div>
    ${state.nodes.size <= BESIDE ? nothing : places()}`,
};

/** A map of more nodes gets the whole width. */
const BESIDE = 12;

const places = () => html`
  <section aria-labelledby="h-map">
    <h2 id="h-map">Racks, nodes and disks</h2>
    ${map()}
  </section>`;

/** @param {import("../types.js").Health} h @param {HealthItem["severity"]} severity */
const raised = (h, severity) => h.items.filter((i) => !i.muted && i.severity === severity).length;

/** The state of everything in one line. */
function verdict() {
  const { health, cluster } = state;
  if (!health || !cluster) return nothing;
  const errors = raised(health, "error");
  const warnings = raised(health, "warning");
  const found = [];
  if (errors) found.push(plural(errors, "error"));
  if (warnings) found.push(plural(warnings, "warning"));
  const said = { ok: "Everything is in order", unknown: "The state is not known" }[health.state] ?? found.join(", ");
  const old = stale();
  const at = old ? "unknown" : level("health", health.state);
  return html`
    <div class="verdict ${at}">
      <p class="word" id="verdict" role="status">
        ${badge(at, `${said || words(health.state)}${old ? `, as of ${clock(new Date(old.since))}` : ""}`)}
      </p>
      <dl class="counts">
        ${counted("Volumes", "volume", cluster.volumes, (w) => `#/volumes?state=${w}`)}
        ${counted("Nodes", "node", cluster.nodes, () => "#/nodes")} ${counted("Disks", "disk", cluster.disks, () => "#/nodes")}
        <div><dt>Jobs</dt><dd>${link("#/jobs", state.jobs.size)}</dd></div>
      </dl>
    </div>`;
}

/**
 * @param {string} name
 * @param {string} of
 * @param {Record<string, number>} counts
 * @param {(word: string) => string} where
 */
const counted = (name, of, counts, where) => html`
  <div>
    <dt>${name}</dt>
    <dd>
      ${byState(of, counts).map((s) => html`<a class="count" href=${where(s.word)}>${badge(s.level, `${s.n} ${s.said}`)}</a>`)}
      ${Object.values(counts).some((n) => n > 0) ? nothing : html`<span class="faint">none</span>`}
    </dd>
  </div>`;

function codes() {
  const { health } = state;
  if (!health) return nothing;
  const open = grouped(health.items.filter((i) => !i.muted));
  const muted = health.items.filter((i) => i.muted);
  const rest = health.total - health.items.length;
  return html`
    ${open.length === 0
      ? empty(health.state === "ok" ? "Nothing is wrong." : "No code is raised.")
      : html`<ul class="codes">${open.map(code)}</ul>`}
    ${rest > 0 ? html`<p class="faint">and ${rest} more that are not listed</p>` : nothing}
    ${muted.length + health.mutes.length === 0 ? nothing : silenced(muted)}`;
}

/** @param {HealthItem[]} items @returns {HealthItem[][]} */
function grouped(items) {
  /** @type {Map<string, HealthItem[]>} */
  const by = new Map();
  for (const i of items) {
    const key = `${i.severity} ${i.code}`;
    by.set(key, [...(by.get(key) ?? []), i]);
  }
  return [...by.values()];
}

/** @param {HealthItem[]} items of one code */
function code(items) {
  const [first] = items;
  return html`
    <li>
      <h3>
        ${badge(level("severity", first.severity), first.severity)} <span class="code">${first.code}</span>
        ${items.length > 1 ? html`<span class="faint">${items.length} times</span>` : nothing}
      </h3>
      <ul class="subjects">${items.slice(0, SHOWN).map(subject)}</ul>
      ${items.length > SHOWN
        ? html`<details><summary>and ${items.length - SHOWN} more</summary><ul class="subjects">${items.slice(SHOWN).map(subject)}</ul></details>`
        : nothing}
      <p class="means">${prose(first.means)}</p>
      <p class="action"><strong>What to do:</strong> ${prose(first.action)}</p>
    </li>`;
}

/** @param {HealthItem} i */
const subject = (i) => html`
  <li>${link(placeOf(i.subject), i.subject)}: ${prose(i.message)} ${i.since ? html`<span class="faint">since ${time(i.since)}</span>` : nothing}</li>`;

/** @param {HealthItem[]} items */
const silenced = (items) => html`
  <details class="muted">
    <summary>${plural(items.length, "raised code is", "raised codes are")} silenced</summary>
    <ul class="subjects">
      ${items.map((i) => html`<li><span class="code">${i.code}</span> ${link(placeOf(i.subject), i.subject)}: ${i.message}</li>`)}
    </ul>
    <ul class="subjects">
      ${(state.health?.mutes ?? []).map((m) => html`<li>
        <span class="code">${m.code}</span> ${m.subject || "everywhere"} until ${time(m.until)}, by ${m.by}: ${m.reason}
      </li>`)}
    </ul>
  </details>`;
