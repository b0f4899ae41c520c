// Jobs: whatever moves, copies or compares replicas, with bytes, rate and time left.

import { repeat } from "../../vendor/lit-html/directives/repeat.js";
import { plural, words } from "../format.js";
import { empty, html, jobProgress, link, nodeLink, nothing, stateBadge } from "../parts.js";
import { state } from "../store.js";
import { placeOf } from "../words.js";
import { natural } from "./map.js";

/** @typedef {import("../types.js").Job} Job */

/** Jobs that are listed; a drain of a full cluster has thousands that wait. */
const SHOWN = 500;
const ORDER = { running: 0, held: 1, waiting: 2 };

export const jobs = {
  title: () => "Jobs",
  enter: () => {},
  leave: () => {},
  view() {
    const all = [...state.jobs.values()].sort((a, b) => ORDER[a.state] - ORDER[b.state] || natural(a.id, b.id));
    const paused = state.cluster?.rebuild_paused
      ? html`<p class="note held" role="status">An operator holds all making and moving of replicas.</p>`
      : nothing;
    if (all.length === 0) return html`${paused}${empty("No job is under way.")}`;
    return html`${paused}
      <div class="scroll"><table class="jobs">
        <caption class="unseen">Jobs</caption>
        <thead><tr>
          <th scope="col">Job</th><th scope="col">State</th><th scope="col">About</th><th scope="col">Progress</th><th scope="col">What and why</th>
        </tr></thead>
        <tbody>${repeat(all.slice(0, SHOWN), (/** @type {Job} */ j) => j.id, row)}</tbody>
      </table></div>
      ${all.length > SHOWN ? html`<p class="faint">and ${plural(all.length - SHOWN, "more job")}</p>` : nothing}`;
  },
};

/** @param {Job} j */
function about(j) {
  if (j.kind === "node") return nodeLink(j.subject);
  if (j.kind === "disk") return link(placeOf(`disk/${j.subject}`), `disk ${j.subject}`);
  if (j.kind === "replica" || j.kind === "scrub") return link(placeOf(`volume/${j.subject}`), j.subject);
  return j.subject;
}

/** @param {Job} j */
const row = (j) => html`
  <tr data-job=${j.id} data-state=${j.state}>
    <th scope="row">${j.id}</th>
    <td>${stateBadge("job", j.state)}</td>
    <td>${about(j)}</td>
    <td class="progressing">${jobProgress(j)}</td>
    <td>
      <p>${j.message}${j.node ? html`, by ${nodeLink(j.node)}` : nothing}</p>
      ${j.why_waiting ? html`<p>waits: ${words(j.why_waiting)}</p>` : nothing}
      <p class="faint">because: ${j.because}</p>
    </td>
  </tr>`;
