// What the page knows of the cluster, and who wants to hear of changes. Promises: at most one render for each
// animation frame; nothing here asks or writes. live.js fills it.

/** @typedef {import("./types.js").Cluster} Cluster */
/** @typedef {import("./types.js").Health} Health */
/** @typedef {import("./types.js").Node} Node */
/** @typedef {import("./types.js").Disk} Disk */
/** @typedef {import("./types.js").Job} Job */
/** @typedef {import("./types.js").Problem} Problem */

/**
 * Something that the stream said, or that all lists were made anew.
 * @typedef {{what: "put" | "gone" | "event" | "anew", kind?: string, key?: string, object?: any}} Message
 */

export const state = {
  /** @type {Cluster | null} */ cluster: null,
  /** @type {Health | null} */ health: null,
  /** @type {Map<string, Node>} */ nodes: new Map(),
  /** @type {Map<string, Disk>} */ disks: new Map(),
  /** @type {Map<string, Job>} */ jobs: new Map(),
  /** All of the above were read once. */
  ready: false,
  /** @type {Problem | null} Why the first reading failed. */
  problem: null,
  link: {
    /** The stream is open. */
    open: false,
    /** The last sign of life, in Unix milliseconds; 0: none yet. */
    seen: 0,
    /** @type {number | null} The node hears no leader since then, in Unix milliseconds. */
    alone: null,
  },
  /** The daemon serves another page than this one. */
  newer: false,
};

/** @type {Set<(m: Message) => void>} */
const listeners = new Set();

/**
 * Calls `hear` for each message until the answer is called.
 * @param {(m: Message) => void} hear
 * @returns {() => void}
 */
export function listen(hear) {
  listeners.add(hear);
  return () => listeners.delete(hear);
}

/** @param {Message} m */
export function tell(m) {
  for (const hear of listeners) hear(m);
}

let render = () => {};
let asked = false;

/** @param {() => void} how */
export function renderBy(how) {
  render = how;
}

/** Shows what changed, at the next frame. */
export function changed() {
  if (asked) return;
  asked = true;
  const frame = () => {
    asked = false;
    render();
  };
  // A hidden page gets no frames; it is kept right all the same.
  if (document.hidden) setTimeout(frame, 250);
  else requestAnimationFrame(frame);
}

/** Without a sign of life for so long, the page says that it is stale. */
export const QUIET_MS = 15_000;

/**
 * Since when what is shown may be old, in Unix milliseconds, and why; null: it is fresh.
 * @returns {{since: number, why: string} | null}
 */
export function stale(now = Date.now()) {
  const { link, cluster } = state;
  if (link.seen && now - link.seen > QUIET_MS) {
    return { since: link.seen, why: "this node does not answer; the page tries again" };
  }
  if (link.alone !== null) {
    const who = cluster ? cluster.answered_by : "this node";
    return { since: link.alone, why: `${who} hears no leader; this is what it knew last` };
  }
  return null;
}
