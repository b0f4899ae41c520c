// Racks, the nodes in them, the disks in those: where everything is, with the state of each as a word.

import { repeat } from "../../vendor/lit-html/directives/repeat.js";
import { maybeSize, percent, size, words } from "../format.js";
import { badge, bar, empty, fullness, html, link, nothing, stateBadge } from "../parts.js";
import { state } from "../store.js";
import { level } from "../words.js";

/** @typedef {import("../types.js").Node} Node */

export function map() {
  if (state.nodes.size === 0) return empty("No node is on record.");
  const racks = byRack([...state.nodes.values()]);
  return html`<div class="map">
    ${racks.map(([rack, nodes]) => html`
      <section class="rack" aria-label=${rack}>
        ${racks.length > 1 || rack !== NOWHERE ? html`<h3>${rack}</h3>` : nothing}
        <ul class="nodes">${repeat(nodes, (/** @type {Node} */ n) => n.id, node)}</ul>
      </section>`)}
  </div>`;
}

const NOWHERE = "no rack";

/** @param {Node[]} nodes @returns {[string, Node[]][]} */
export function byRack(nodes) {
  /** @type {Map<string, Node[]>} */
  const racks = new Map();
  for (const n of nodes.sort((a, b) => natural(a.name, b.name))) {
    const rack = [n.labels.region, n.labels.zone, n.labels.rack].filter(Boolean).join(" / ") || NOWHERE;
    racks.set(rack, [...(racks.get(rack) ?? []), n]);
  }
  return [...racks].sort(([a], [b]) => natural(a, b));
}

/** n2 before n10. @param {string} a @param {string} b */
export const natural = (a, b) => a.localeCompare(b, "en", { numeric: true });

/** What is special about a node, apart from its state. @param {Node} n */
export function roles(n) {
  const found = [];
  if (n.part === "leader") found.push("leader");
  else if (n.part === "voter" || n.part === "learner") found.push(n.part);
  if (n.mode !== "active") found.push(n.held ? `${n.mode}, held` : n.mode);
  return found;
}

/** @param {Node} n */
function node(n) {
  const down = n.state !== "up";
  const up = n.conditions.find((c) => c.type === "Up");
  return html`
    <li class="node ${level("node", n.state)}" data-node=${n.name} data-state=${n.state}>
      <p class="head">
        <a href=${`#/nodes/${encodeURIComponent(n.name)}`}><strong>${n.name}</strong></a>
        ${stateBadge("node", n.state)} ${roles(n).map((r) => html`<span class="role">${r}</span>`)}
      </p>
      <p class="faint" title=${(down && up?.message) || ""}>${down ? up?.message || "not heard" : `${n.replicas} replicas, ${n.attached} attached`}</p>
      <ul class="disks">
        ${n.disks.map((id) => disk(String(id)))}
        ${n.disks.length === 0 ? html`<li class="faint">no disk</li>` : nothing}
      </ul>
    </li>`;
}

/** @param {string} id */
function disk(id) {
  const d = state.disks.get(id);
  if (!d) return nothing;
  const used = d.used_bytes ?? 0;
  const said = d.used_bytes === undefined ? "?" : percent(used, d.capacity_bytes);
  const about = `${d.path}, ${d.media}, ${maybeSize(d.used_bytes)} used of ${size(d.capacity_bytes)}${d.why ? `: ${d.why}` : ""}`;
  return html`
    <li class="disk ${level("disk", d.state)}" data-disk=${id} data-state=${d.state}>
      ${link(`#/disks/${id}`, html`<span title=${about}>disk ${id}</span>`)}
      ${d.state === "ok" && d.draining ? badge("busy", "draining") : stateBadge("disk", d.state)}
      <span class="used">${bar(used, d.capacity_bytes, fullness(used, d.capacity_bytes))}<span>${said}</span></span>
      ${d.why ? html`<span class="why">${words(d.fault ?? "")}</span>` : nothing}
    </li>`;
}
