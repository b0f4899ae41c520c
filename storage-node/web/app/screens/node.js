// All nodes with their disks, or one of them: state, reasons, disks, events.

import { newestEvents } from "../api.js";
import { maybeSize, percent, size } from "../format.js";
import { badge, bar, conditionTable, empty, fullness, healthRefs, html, labelList, link, loading, nothing, stateBadge, time } from "../parts.js";
import { route } from "../route.js";
import { changed, listen, state } from "../store.js";
import { level } from "../words.js";
import { eventTable } from "./events.js";
import { byRack, natural, roles } from "./map.js";

/** @typedef {import("../types.js").Node} Node */
/** @typedef {import("../types.js").Disk} Disk */

const EVENTS = 30;

/** @type {import("../types.js").Event[] | null} */
let events = null;
let of = "";
let left = new AbortController();
let deaf = () => {};

/** The node of the address: by its name, or by one of its disks. */
function named() {
  const [kind, name] = route().path;
  if (kind === "disks") return state.disks.get(name ?? "")?.node;
  return name;
}

async function read() {
  left.abort();
  left = new AbortController();
  const mine = left.signal;
  events = null;
  of = named() ?? "";
  if (!of) return;
  const found = await newestEvents(state.cluster?.revision ?? 0, EVENTS, { subject: of }, mine).catch(() => null);
  if (mine.aborted) return;
  events = found?.items ?? [];
  changed();
}

export const node = {
  title: () => named() ?? "Nodes",
  enter() {
    deaf = listen((m) => {
      if (m.what === "anew") read();
      if (m.what === "event" && of && (m.object.subject === of || m.object.subject.startsWith(`${of}:`))) events = [m.object, ...(events ?? [])];
    });
    read();
  },
  leave() {
    deaf();
    left.abort();
  },
  moved: read,
  view() {
    const [kind, given] = route().path;
    if (given === undefined) return everything();
    const n = state.nodes.get(named() ?? "");
    if (!n) return empty(kind === "disks" ? `There is no disk ${given}.` : `There is no node ${given}.`, html`<a href="#/nodes">All nodes</a>`);
    return one(n, kind === "disks" ? given : "");
  },
};

function everything() {
  if (state.nodes.size === 0) return empty("No node is on record.");
  const nodes = byRack([...state.nodes.values()]).flatMap(([rack, ns]) => ns.map((n) => ({ rack, n })));
  return html`
    <div class="scroll"><table class="nodes">
      <caption class="unseen">Nodes</caption>
      <thead><tr>
        <th scope="col">Node</th><th scope="col">State</th><th scope="col">Part</th><th scope="col">Rack</th><th scope="col" class="number">Replicas</th>
        <th scope="col" class="number">Attached</th><th scope="col">Release</th><th scope="col">Address</th>
      </tr></thead>
      <tbody>${nodes.map(({ rack, n }) => html`<tr data-node=${n.name} data-state=${n.state}>
        <th scope="row">${link(`#/nodes/${encodeURIComponent(n.name)}`, n.name)}</th>
        <td>${stateBadge("node", n.state)}</td>
        <td>${roles(n).join(", ") || n.part}</td>
        <td>${rack}</td>
        <td class="number">${n.replicas}</td>
        <td class="number">${n.attached}</td>
        <td>${n.version}</td>
        <td>${n.addresses.api}</td>
      </tr>`)}</tbody>
    </table></div>
    <section aria-labelledby="h-disks">
      <h2 id="h-disks">Disks</h2>
      ${diskTable([...state.disks.values()].sort((a, b) => natural(a.node, b.node) || a.id - b.id), "")}
    </section>`;
}

/** @param {Node} n @param {string} disk that was asked for */
function one(n, disk) {
  const disks = n.disks.map((id) => state.disks.get(String(id))).filter((d) => d !== undefined);
  const name = encodeURIComponent(n.name);
  return html`
    <div class="verdict ${level("node", n.state)}" data-node=${n.name} data-state=${n.state}>
      <p class="word" role="status">${stateBadge("node", n.state)} ${roles(n).map((r) => html`<span class="role">${r}</span>`)}</p>
      ${healthRefs(n.health)}
    </div>
    <section aria-labelledby="h-disks"><h2 id="h-disks">Disks</h2>${disks.length ? diskTable(disks, disk) : empty("It has no disk.")}</section>
    <div class="columns">
      <section aria-labelledby="h-conditions"><h2 id="h-conditions">Conditions</h2>${conditionTable(n.conditions)}</section>
      <section aria-labelledby="h-facts">
        <h2 id="h-facts">Facts</h2>
        <dl class="facts">
          <dt>Replicas</dt><dd>${n.replicas}; <a href=${`#/volumes?node=${name}`}>volumes that concern it</a></dd>
          <dt>Attached</dt><dd>${n.attached} volumes</dd>
          <dt>Release</dt><dd>${n.version}</dd>
          <dt>Control</dt><dd>${n.addresses.api}</dd>
          <dt>Data</dt><dd>${n.addresses.data}</dd>
          <dt>NBD</dt><dd>${n.addresses.nbd || "off"}</dd>
          <dt>Labels</dt><dd>${Object.keys(n.labels).length ? labelList(n.labels) : "none"}</dd>
          <dt>Record</dt><dd>id ${n.id}, revision ${n.revision}, uuid ${n.uuid}</dd>
        </dl>
      </section>
    </div>
    <section aria-labelledby="h-events">
      <h2 id="h-events">Events</h2>
      ${events === null ? loading("events") : events.length ? eventTable(events, false) : empty("No event is about this node.")}
    </section>`;
}

/** @param {Disk[]} disks @param {string} marked */
const diskTable = (disks, marked) => html`
  <div class="scroll"><table class="disks">
    <caption class="unseen">Disks</caption>
    <thead><tr>
      <th scope="col">Disk</th><th scope="col">Node</th><th scope="col">State</th><th scope="col">Media</th><th scope="col" class="number">Size</th>
      <th scope="col" class="number">Used</th><th scope="col"><span class="unseen">How full</span></th><th scope="col" class="number">Provisioned</th>
      <th scope="col" class="number">Replica slots</th><th scope="col">Path</th><th scope="col">Reason</th>
    </tr></thead>
    <tbody>${disks.map((d) => html`<tr class=${String(d.id) === marked ? "marked" : ""} data-disk=${d.id} data-state=${d.state}>
      <th scope="row">${d.id}</th>
      <td>${link(`#/nodes/${encodeURIComponent(d.node)}`, d.node)}</td>
      <td>${stateBadge("disk", d.state)} ${d.draining ? badge("busy", d.held ? "drain held" : "draining") : nothing}</td>
      <td>${d.media}</td>
      <td class="number">${size(d.capacity_bytes)}</td>
      <td class="number">${maybeSize(d.used_bytes)}</td>
      <td class="bars">${bar(d.used_bytes ?? 0, d.capacity_bytes, fullness(d.used_bytes ?? 0, d.capacity_bytes))}</td>
      <td class="number">${percent(d.provisioned_bytes, d.capacity_bytes)}</td>
      <td class="number">${d.replica_slots.used} of ${d.replica_slots.total ?? "?"}</td>
      <td><code>${d.path}</code></td>
      <td class="reason">${d.why ?? nothing} ${d.state !== "ok" && d.since ? html`<span class="faint">since ${time(d.since)}</span>` : nothing}</td>
    </tr>`)}</tbody>
  </table></div>`;
