// How full the cluster is, and whether it could make anew what its largest node holds.

import { percent, size } from "../format.js";
import { badge, bar, empty, fullness, html, nodeLink, nothing } from "../parts.js";
import { state } from "../store.js";

/** More provisioned than there is needs attention when so much is in use: as the code POOL_OVERCOMMIT has it. */
const CROWDED = 0.7;

export function capacity() {
  const c = state.cluster?.capacity;
  if (!c) return nothing;
  if (c.raw_bytes === 0) return empty("No disk serves yet.");
  const widest = Math.max(c.raw_bytes, c.provisioned_bytes);
  return html`
    <table class="capacity">
      <caption class="unseen">Capacity of all disks that serve</caption>
      <tbody>
        ${row("Disks", c.raw_bytes, widest, "plain", "all that serve")}
        ${row("Used", c.used_bytes, widest, fullness(c.used_bytes, c.raw_bytes), `${percent(c.used_bytes, c.raw_bytes)} of the disks`)}
        ${row("Provisioned", c.provisioned_bytes, widest, c.over_commit > 1 && c.used_bytes > CROWDED * c.raw_bytes ? "warn" : "plain", `${c.over_commit.toFixed(2)} times the disks`)}
        <tr>
          <th scope="row">Spare</th>
          <td class="number">${c.spare_bytes < 0 ? `−${size(-c.spare_bytes)}` : size(c.spare_bytes)}</td>
          <td colspan="2">${spare(c)}</td>
        </tr>
      </tbody>
    </table>`;
}

/**
 * @param {string} name
 * @param {number} bytes
 * @param {number} whole
 * @param {import("../words.js").Level} at
 * @param {string} words
 */
const row = (name, bytes, whole, at, words) => html`
  <tr>
    <th scope="row">${name}</th>
    <td class="number">${size(bytes)}</td>
    <td class="wide">${bar(bytes, whole, at)}</td>
    <td>${words}</td>
  </tr>`;

/** @param {import("../types.js").Capacity} c */
function spare(c) {
  if (!c.largest_node) return badge("unknown", "no node holds data yet");
  const lost = html`${nodeLink(c.largest_node)} (${size(c.largest_node_used_bytes)} used)`;
  return c.spare_bytes < 0
    ? html`${badge("warn", "not enough")} if ${lost} were lost, ${size(-c.spare_bytes)} could not be rebuilt`
    : html`${badge("ok", "enough")} stays free after ${lost} is lost and rebuilt`;
}
