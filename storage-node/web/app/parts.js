// Small components that every screen uses. Promises: a state is a word and a sign, never a colour alone; each component has
// a fixed place, so that an update moves nothing; no style attribute, which the page's own policy forbids.

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { clock, percent, plural, size, span, utc, words } from "./format.js";
import { level } from "./words.js";

export { html, nothing };

/** @typedef {import("./words.js").Level} Level */
/** @typedef {import("./types.js").Problem} Problem */

/** Signs that differ in form, for those who do not see the colours. */
const SIGNS = { ok: "●", busy: "◐", warn: "▲", bad: "■", unknown: "?", plain: "○" };

/** @param {Level} at @param {string} word */
export const badge = (at, word) =>
  html`<span class="badge ${at}"><span class="sign" aria-hidden="true">${SIGNS[at]}</span>${word}</span>`;

/**
 * The state of a resource.
 * @param {string} of `volume`, `node`, …
 * @param {string} word of the API
 */
export const stateBadge = (of, word) => badge(level(of, word), words(word));

/** A sentence of the API, in which what is to be typed stands between backticks. @param {string} text */
export const prose = (text) => text.split("`").map((part, i) => (i % 2 ? html`<code>${part}</code>` : part));

/** @param {string | null | undefined} at RFC 3339 @param {string} [none] */
export function time(at, none = "–") {
  if (!at) return html`<span class="faint">${none}</span>`;
  const date = new Date(at);
  return html`<time datetime=${at} title=${utc(date)}>${clock(date)}</time>`;
}

/** @param {string | null | undefined} at */
export const since = (at) => (at ? html`since ${time(at)}` : nothing);

/** @param {string | null} href @param {unknown} inner */
export const link = (href, inner) => (href ? html`<a href=${href}>${inner}</a>` : html`${inner}`);

/** @param {string} name */
export const volumeLink = (name) => link(`#/volumes/${encodeURIComponent(name)}`, name);
/** @param {string} name */
export const nodeLink = (name) => link(`#/nodes/${encodeURIComponent(name)}`, name);
/** @param {number} id */
export const diskLink = (id) => link(`#/disks/${id}`, `disk ${id}`);

/** @param {string} what is being read */
export const loading = (what) => html`<p class="note loading" role="status">Reading ${what} …</p>`;

/** @param {unknown} what @param {unknown} [more] */
export const empty = (what, more = nothing) => html`<p class="note empty">${what} ${more}</p>`;

/** @param {Problem} p @param {unknown} [more] */
export const problem = (p, more = nothing) => html`
  <div class="note problem" role="alert">
    <strong>${p.what}</strong>
    ${p.why ? html`<p>${p.why}</p>` : nothing} ${p.next ? html`<p>What to do: ${p.next}</p>` : nothing} ${more}
    <p class="faint">${p.code}${p.status ? html` · ${p.status}` : nothing}</p>
  </div>`;

/**
 * How full something is. The bar has no words of its own: what stands beside it says the same.
 * @param {number} part
 * @param {number} whole
 * @param {Level} [at]
 */
export function bar(part, whole, at = "plain") {
  const width = whole > 0 ? Math.min(100, Math.max(part > 0 ? 0.75 : 0, (part / whole) * 100)) : 0;
  return html`<svg class="bar ${at}" viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">
    <rect class="track" width="100" height="4"></rect><rect class="fill" width=${width} height="4"></rect></svg>`;
}

/** How full a disk is: above 85 % it is time to add one. @param {number} used @param {number} whole @returns {Level} */
export const fullness = (used, whole) => (used > whole * 0.95 ? "bad" : used > whole * 0.85 ? "warn" : "plain");

/**
 * The progress of a job or a copy.
 * @param {string} name for who hears the page
 * @param {{done?: number, total?: number, rate?: number, eta?: number}} p
 */
export function progress(name, { done, total, rate, eta }) {
  if (done === undefined || !total) return html`<span class="faint">not counted</span>`;
  const parts = [`${size(done)} of ${size(total)}`];
  if (rate) parts.push(`${size(rate)}/s`);
  if (eta !== undefined) parts.push(`${span(eta)} left at most`);
  return html`<div class="progress">
    <progress max=${total} .value=${Math.min(done, total)} aria-label=${name}></progress>
    <span class="of">${percent(done, total)}</span><span class="figures">${parts.join(" · ")}</span>
  </div>`;
}

/** @param {import("./types.js").Job} j */
export const jobProgress = (j) =>
  j.total_bytes === undefined && j.replicas_left !== undefined
    ? html`<span>${plural(j.replicas_left, "replica")} left</span>`
    : progress(`progress of ${j.id}`, {
        done: j.done_bytes, total: j.total_bytes, rate: j.bytes_per_second, eta: j.eta_seconds,
      });

/** @param {Record<string, string>} labels */
export const labelList = (labels) =>
  Object.entries(labels).map(([k, v]) => html`<span class="label">${k}=${v}</span> `);

/** @param {import("./types.js").Condition[]} conditions */
export const conditionTable = (conditions) => html`
  <table class="conditions">
    <caption class="unseen">Conditions</caption>
    <thead><tr><th scope="col">Condition</th><th scope="col">Holds</th><th scope="col">Reason</th></tr></thead>
    <tbody>
      ${conditions.map((c) => html`<tr>
        <th scope="row">${c.type}</th>
        <td>${badge(truthLevel(c), c.status === "true" ? "yes" : c.status === "false" ? "no" : "unknown")}</td>
        <td>${c.message || words(c.reason ?? "")}</td>
      </tr>`)}
    </tbody>
  </table>`;

/** A volume that nobody attached is not at fault. @param {import("./types.js").Condition} c @returns {Level} */
function truthLevel(c) {
  if (c.status === "true") return "ok";
  if (c.status === "unknown") return "unknown";
  return c.type === "Attached" || (c.type === "Served" && /detached|not_?attached/i.test(c.reason ?? "")) ? "plain" : "warn";
}

/** Codes that are raised about one resource. @param {import("./types.js").HealthRef[]} refs */
export const healthRefs = (refs) =>
  refs.length === 0
    ? nothing
    : html`<ul class="codes short">
        ${refs.map((h) => html`<li>${badge(level("severity", h.severity), h.code)} ${h.message}</li>`)}
      </ul>`;
