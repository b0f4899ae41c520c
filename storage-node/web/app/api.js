// Reads from the REST API. Promises: only GET and HEAD, only to the origin of the page; every answer is JSON or a Problem
// that says what, why and what to do; `Holdfast-Stale` is noted from every answer.

import { changed, state } from "./store.js";

/** @typedef {import("./types.js").Problem} Problem */

/** An answer takes no longer. */
const PATIENCE_MS = 20_000;

/** An error with the API's problem. */
export class Refused extends Error {
  /** @param {Problem} problem */
  constructor(problem) {
    super(problem.what);
    this.problem = problem;
  }
}

/**
 * @param {string} path below `/v1/`
 * @param {Record<string, string | number | undefined>} [query]
 */
export function address(path, query = {}) {
  const url = new URL(`v1/${path}`, document.baseURI);
  url.hash = "";
  for (const [k, v] of Object.entries(query)) if (v !== undefined && v !== "") url.searchParams.set(k, String(v));
  return url;
}

/** @param {unknown} e @returns {Problem} */
export function problemOf(e) {
  if (e instanceof Refused) return e.problem;
  return {
    code: "unreachable", status: 0, what: "The node does not answer.", why: e instanceof Error ? e.message : String(e),
    next: "Look whether the daemon runs; the page of another node shows the same cluster.",
  };
}

/**
 * @param {string} path below `/v1/`
 * @param {Record<string, string | number | undefined>} [query]
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export async function get(path, query, signal) {
  const limit = AbortSignal.timeout(PATIENCE_MS);
  const answer = await fetch(address(path, query), {
    headers: { Accept: "application/json" }, cache: "no-store",
    signal: signal ? AbortSignal.any([signal, limit]) : limit,
  });
  note(answer);
  if (answer.ok) return answer.json();
  /** @type {any} */
  const p = await answer.json().catch(() => ({}));
  throw new Refused({
    code: p.code ?? "http", status: answer.status, what: p.what ?? p.detail ?? p.title ?? `The node answered ${answer.status}.`,
    why: p.why ?? "", next: p.next ?? "",
  });
}

/** @param {Response} answer */
function note(answer) {
  const old = answer.headers.get("Holdfast-Stale");
  aloneFor(old === null ? undefined : Number(old));
}

/** Notes that the node hears no leader. @param {number | undefined} seconds for so long; undefined: it does hear one */
export function aloneFor(seconds) {
  // The time at which it began is kept while it lasts: it must not wander with each answer.
  if (seconds === undefined) state.link.alone = null;
  else state.link.alone = Math.min(state.link.alone ?? Infinity, Date.now() - seconds * 1000);
  changed();
}

/** At most so many pages are read of one list. */
const PAGES = 20;

/**
 * All items of a list that is short by nature.
 * @param {string} path
 * @returns {Promise<any[]>}
 */
export async function all(path) {
  const items = [];
  let after;
  for (let i = 0; i < PAGES; i++) {
    const page = await get(path, { limit: 1000, after });
    items.push(...page.items);
    after = page.next;
    if (after === undefined || after === null) break;
  }
  return items;
}

/**
 * The newest events, newest first: the API gives them oldest first, so it is asked for ever longer times.
 * @param {number} revision of the record now
 * @param {number} want at least so many, if there are
 * @param {{subject?: string, kind?: string}} filter
 * @param {AbortSignal} [signal]
 * @returns {Promise<{items: import("./types.js").Event[], complete: boolean}>}
 */
export async function newestEvents(revision, want, filter, signal) {
  for (let back = 4 * want; ; back *= 16) {
    const from = Math.max(0, revision - back);
    /** @type {import("./types.js").Event[]} */
    let items = [];
    let after = from;
    for (let i = 0; i < PAGES; i++) {
      const page = await get("events", { after, limit: 1000, ...filter }, signal);
      items.push(...page.items);
      items = items.slice(-4 * want);
      if (page.next === undefined || page.next === null || page.items.length === 0) break;
      after = Number(page.next);
    }
    if (items.length >= want || from === 0) return { items: items.reverse(), complete: from === 0 && items.length < 4 * want };
  }
}
