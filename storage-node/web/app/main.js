// The frame of the page: head, navigation, the line that says how fresh everything is, and the screen of the address.
// Promises: the page changes nothing in the cluster; it goes on by itself after every fault of the node or the network.

import { render } from "../vendor/lit-html/lit-html.js";
import { clock, span, utc } from "./format.js";
import { start } from "./live.js";
import { badge, empty, html, link, loading, nodeLink, nothing, problem } from "./parts.js";
import { route } from "./route.js";
import { events } from "./screens/events.js";
import { jobs } from "./screens/jobs.js";
import { node } from "./screens/node.js";
import { overview } from "./screens/overview.js";
import { volume } from "./screens/volume.js";
import { volumes } from "./screens/volumes.js";
import { renderBy, stale, state, changed } from "./store.js";
import { level } from "./words.js";

/**
 * A screen: `enter` and `leave` bracket its life, `moved` tells of another address within it.
 * @typedef {{title: () => string, enter: () => void, leave: () => void, moved?: () => void, view: () => unknown}} Screen
 */

/** @type {Screen} */
const nowhere = {
  title: () => "Not found",
  enter: () => {},
  leave: () => {},
  view: () => empty("This page has no such screen.", html`<a href="#/">Overview</a>`),
};

/** @returns {Screen} */
function screenOf() {
  const [first, second] = route().path;
  if (first === undefined) return overview;
  if (first === "volumes") return second === undefined ? volumes : volume;
  if (first === "nodes" || first === "disks") return node;
  if (first === "jobs") return jobs;
  if (first === "events") return events;
  return nowhere;
}

/** @type {Screen | null} */
let screen = null;

/** The address changed. */
function moved() {
  if (!state.ready) return;
  const next = screenOf();
  const before = screen;
  if (next === before) next.moved?.();
  else {
    before?.leave();
    screen = next;
    next.enter();
  }
  draw();
  if (before && next !== before) {
    scrollTo(0, 0);
    // Who uses the keyboard or hears the page begins at the new heading.
    document.getElementById("title")?.focus({ preventScroll: true });
  }
}

const app = /** @type {HTMLElement} */ (document.getElementById("app"));
app.replaceChildren();

function draw() {
  const name = state.cluster?.name;
  const title = screen ? screen.title() : "Holdfast";
  document.title = [title, name, "Holdfast"].filter(Boolean).join(" – ");
  render(frame(title), app);
  // What someone types is theirs; every other field shows the address.
  const { query } = route();
  for (const field of app.querySelectorAll("[data-q]")) {
    const input = /** @type {HTMLInputElement} */ (field);
    const want = query.get(input.name) ?? "";
    if (input !== document.activeElement && input.value !== want) input.value = want;
  }
}

/** @param {string} title */
const frame = (title) => html`
  <a class="skip" href="#main" @click=${skip}>To the content</a>
  <header>
    <p class="brand"><a href="#/">Holdfast</a> <span class="cluster">${state.cluster?.name ?? nothing}</span></p>
    <nav aria-label="Screens">
      ${tab("#/", "Overview", [undefined])} ${tab("#/volumes", "Volumes", ["volumes"])} ${tab("#/nodes", "Nodes", ["nodes", "disks"])}
      ${tab("#/jobs", html`Jobs <span class="n">${state.ready ? state.jobs.size : nothing}</span>`, ["jobs"])}
      ${tab("#/events", "Events", ["events"])}
    </nav>
    <p class="overall">${health()}</p>
  </header>
  ${freshness()}
  <main id="main" tabindex="-1">
    <h1 id="title" tabindex="-1">${title}</h1>
    ${body()}
  </main>
  <footer>
    <p>This page changes nothing; use the command line or the API. ${link("docs", "API")} · ${link("metrics", "Metrics")}</p>
  </footer>`;

/** What is old is never shown as the state of now. */
function health() {
  const word = state.health?.state;
  if (!word) return nothing;
  return stale() ? badge("unknown", `health was ${word}`) : badge(level("health", word), `health: ${word}`);
}

/** @param {Event} e */
function skip(e) {
  e.preventDefault();
  document.getElementById("main")?.focus();
}

/** @param {string} href @param {unknown} name @param {(string | undefined)[]} firsts */
const tab = (href, name, firsts) =>
  html`<a href=${href} aria-current=${firsts.includes(route().path[0]) ? "page" : "false"}>${name}</a>`;

function body() {
  if (!state.ready) {
    return state.problem ? problem(state.problem, html`<p>The page tries again by itself.</p>`) : loading("the cluster");
  }
  try {
    return screen?.view();
  } catch (e) {
    // A fault of the page must not leave an old screen standing as if it were fresh.
    console.error(e);
    return problem({
      code: "page", status: 0, what: "The page could not show this.", why: String(e),
      next: "Load it again; the command line shows the same. Please report it.",
    });
  }
}

/** One line, always there, so that its words move nothing: how fresh the page is, who answers, who leads. */
function freshness() {
  const { cluster, link: stream, newer } = state;
  const old = stale();
  const text = old
    ? html`${badge("bad", "Stale")} <span>since <time title=${utc(new Date(old.since))}>${clock(new Date(old.since))}</time>: ${old.why}</span>`
    : stream.open
      ? badge("ok", "Live")
      : badge("unknown", state.ready || state.problem ? "Connecting again" : "Connecting");
  return html`<section aria-label="How fresh this page is" class="freshness ${old ? "stale" : ""}">
    <p id="freshness" role="status">${text}</p>
    ${old ? html`<p class="age">${span((Date.now() - old.since) / 1000)} old</p>` : nothing}
    ${cluster
      ? html`<p class="who">
          ${cluster.leader ? html`leader ${nodeLink(cluster.leader)}` : badge("bad", "no leader")} · voters ${cluster.voters.join(", ")}
          ${cluster.voters_changing ? badge("warn", "voters change") : nothing} · answered by ${nodeLink(cluster.answered_by)}
        </p>`
      : nothing}
    ${newer ? html`<p class="newer">${badge("warn", "The node serves a newer page.")} <a href="" @click=${() => location.reload()}>Load it</a></p>` : nothing}
  </section>`;
}

renderBy(() => {
  if (state.ready && !screen) moved();
  else draw();
});
addEventListener("hashchange", moved);
changed();
start();

