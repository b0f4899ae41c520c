// A volume's policy: what was set, and what the defaults add, with the help of the attribute table.

import { get } from "../api.js";
import { duration, size } from "../format.js";
import { html, nothing } from "../parts.js";
import { changed } from "../store.js";

/** @type {import("../types.js").AttributeInfo[]} */
let attributes = [];

/** Reads the attribute table once; without it the policy is shown in the order of its keys. */
export async function readAttributes() {
  if (attributes.length) return;
  const list = await get("attributes").catch(() => null);
  attributes = list?.items ?? [];
  changed();
}

/** @param {import("../types.js").Volume} v */
export function policy(v) {
  const known = attributes.map((a) => a.key);
  const others = Object.keys(v.effective).filter((k) => !known.includes(k));
  const keys = [...known.filter((k) => k in v.effective), ...others];
  return html`
    <table class="policy">
      <caption class="unseen">Policy</caption>
      <thead><tr><th scope="col">Attribute</th><th scope="col">Value</th><th scope="col">From</th></tr></thead>
      <tbody>
        ${keys.map((k) => html`<tr>
          <th scope="row" title=${help(k)}>${k}</th>
          <td>${said(k, v.effective[k])}</td>
          <td>${k in v.spec ? "set" : html`<span class="faint">default</span>`}</td>
        </tr>`)}
      </tbody>
    </table>
    ${keys.length ? nothing : html`<p class="faint">none</p>`}`;
}

/** @param {string} key */
const help = (key) => attributes.find((a) => a.key === key)?.help ?? "";

/** @param {string} key @param {any} value */
function said(key, value) {
  const kind = attributes.find((a) => a.key === key)?.kind;
  if (typeof value !== "number") return String(value);
  if (kind === "bytes") return size(value);
  if (kind === "seconds") return value === 0 ? "0" : duration(value);
  if (kind === "percent") return `${value}%`;
  return String(value);
}
