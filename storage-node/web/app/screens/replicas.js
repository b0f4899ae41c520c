// The replicas of a volume by shard: which node and disk, in which state, and why. Of a volume with many shards those are
// shown that are not all in sync, and the first of the others.

import { plural, size, words } from "../format.js";
import { badge, diskLink, empty, html, nodeLink, nothing, progress, since, stateBadge } from "../parts.js";
import { level } from "../words.js";

/** @typedef {import("../types.js").Replica} Replica */
/** @typedef {import("../types.js").Volume} Volume */

/** Shards that are shown when they need no attention, and at most when they do. */
const SHOWN = 8;
const MOST = 200;

/** @param {Volume} v */
export function replicaMap(v) {
  if (v.replicas.length === 0) return empty("It has no replica yet.");
  /** @type {Map<number, Replica[]>} */
  const shards = new Map();
  for (const r of v.replicas) shards.set(r.shard, [...(shards.get(r.shard) ?? []), r]);
  const inOrder = (/** @type {Replica[]} */ rs) => rs.every((r) => r.state === "in_sync" && !r.moving);
  const all = [...shards].sort(([a], [b]) => a - b);
  const few = all.length <= 2 * SHOWN;
  const shown = few ? all : [...all.filter(([, rs]) => !inOrder(rs)).slice(0, MOST), ...all.filter(([, rs]) => inOrder(rs)).slice(0, SHOWN)];
  const hidden = all.length - shown.length;
  const unseen = v.replicas_total - v.replicas.length;
  return html`
    <table class="replicas">
      <caption class="unseen">Replicas by shard</caption>
      <thead><tr><th scope="col">Shard</th><th scope="col">Replicas</th></tr></thead>
      <tbody>
        ${shown.map(([shard, rs]) => html`<tr>
          <th scope="row">${shard}</th>
          <td><ul class="copies">${rs.map(copy)}</ul></td>
        </tr>`)}
      </tbody>
    </table>
    ${hidden > 0 ? html`<p class="faint">and ${plural(hidden, "more shard")}</p>` : nothing}
    ${unseen > 0 ? html`<p class="faint">and ${plural(unseen, "replica")} that are being read</p>` : nothing}`;
}

/** @param {Replica} r */
const copy = (r) => html`
  <li class="copy ${level("replica", r.state)}" data-replica=${r.id} data-state=${r.state}>
    <p class="head">${stateBadge("replica", r.state)} ${r.moving ? badge("busy", "moving") : nothing} ${r.held ? badge("warn", "held") : nothing}</p>
    <p>replica ${r.id} on ${nodeLink(r.node)} ${diskLink(r.disk)}</p>
    ${r.used_bytes === undefined ? nothing : html`<p class="faint">${size(r.used_bytes)} used</p>`}
    ${r.why ? html`<p class="why">${r.why} <span class="faint">${since(r.since)}</span></p>` : nothing}
    ${r.sync
      ? html`<div class="sync"><p class="faint">${words(r.sync.stage)}, ${size(r.sync.copied_bytes)} copied</p>
          ${progress(`copy to replica ${r.id}`, { done: r.sync.done_bytes, total: r.sync.total_bytes, rate: r.sync.bytes_per_second })}</div>`
      : nothing}
  </li>`;
