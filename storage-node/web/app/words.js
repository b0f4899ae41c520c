// What the API's words mean for the eye: each state's level, which gives colour and sign, and how it is said. Promises: a
// word that this page does not know is shown as it is, at the level "unknown", never as ok.

import { words } from "./format.js";

/** @typedef {"ok" | "busy" | "warn" | "bad" | "unknown" | "plain"} Level */

/** @type {Record<string, Record<string, Level>>} */
const LEVELS = {
  volume: {
    ok: "ok", creating: "busy", growing: "busy", degraded: "warn", writes_wait: "bad", not_served: "bad", unavailable: "bad",
  },
  replica: { in_sync: "ok", creating: "busy", syncing: "busy", out: "warn", away: "warn", disk_down: "bad" },
  node: { up: "ok", down: "bad" },
  disk: { ok: "ok", failing: "warn", failed: "bad", missing: "bad", away: "warn" },
  job: { running: "busy", waiting: "plain", held: "warn" },
  severity: { info: "plain", warning: "warn", error: "bad" },
  health: { ok: "ok", warning: "warn", error: "bad" },
};

/** How grave a level is: a list shows the gravest first. */
export const GRAVITY = { bad: 0, warn: 1, unknown: 2, busy: 3, plain: 4, ok: 5 };

/**
 * @param {string} of `volume`, `node`, …
 * @param {string} word
 * @returns {Level}
 */
export const level = (of, word) => LEVELS[of]?.[word] ?? "unknown";

/** The states of a volume, the gravest first. */
export const VOLUME_STATES = ["unavailable", "not_served", "writes_wait", "degraded", "unknown", "growing", "creating", "ok"];

/**
 * The counts of a resource by state, the gravest first.
 * @param {string} of
 * @param {Record<string, number>} counts
 * @returns {{word: string, said: string, n: number, level: Level}[]}
 */
export function byState(of, counts) {
  return Object.entries(counts)
    .filter(([, n]) => n > 0)
    .map(([word, n]) => ({ word, said: words(word), n, level: level(of, word) }))
    .sort((a, b) => GRAVITY[a.level] - GRAVITY[b.level] || b.n - a.n);
}

/**
 * Where the page shows a subject, as `volume/web` of a health code.
 * @param {string} subject
 * @returns {string | null}
 */
export function placeOf(subject) {
  const [kind, ...rest] = subject.split("/");
  const name = rest.join("/");
  if (!name) return null;
  if (kind === "volume") return `#/volumes/${encodeURIComponent(name)}`;
  if (kind === "node") return `#/nodes/${encodeURIComponent(name)}`;
  if (kind === "disk") return `#/disks/${encodeURIComponent(name)}`;
  if (kind === "job") return "#/jobs";
  return null;
}

/**
 * Where the page shows the subject of an event: its kind says what the name names.
 * @param {import("./types.js").Event} e
 * @returns {string | null}
 */
export function placeOfEvent(e) {
  const noun = e.kind.split(".")[0];
  if (e.kind === "volume.deleted" || e.kind === "node.removed") return null;
  if (noun === "volume" || noun === "replica") return placeOf(`volume/${e.subject}`);
  if (noun === "node") return placeOf(`node/${e.subject}`);
  if (noun === "disk") return placeOf(`node/${e.subject.split(":")[0]}`);
  return null;
}
