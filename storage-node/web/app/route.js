// The screen and its filters live in the part of the address after `#`, so that a link or a reload shows the same.

/**
 * @typedef {object} Route
 * @property {string[]} path as in `#/volumes/web`: `["volumes", "web"]`
 * @property {URLSearchParams} query
 */

/** @returns {Route} */
export function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?", 2);
  return { path: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(query ?? "") };
}

/** A hand-made address may hold anything. @param {string} part */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/**
 * The address of the present screen with other filters; empty ones are left out.
 * @param {Record<string, string | undefined>} changes
 */
export function withQuery(changes) {
  const { path, query } = route();
  for (const [k, v] of Object.entries(changes)) {
    if (v) query.set(k, v);
    else query.delete(k);
  }
  const text = query.toString();
  return `#/${path.map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
}

/**
 * Goes there without a new entry in the browser's history: for what is typed into a filter.
 * @param {string} hash
 */
export const replace = (hash) => location.replace(hash);
