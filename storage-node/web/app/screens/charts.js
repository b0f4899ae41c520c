// Graphs of a volume's history, by uPlot. Promises: of a fixed height, so that nothing moves; series differ by dashes, not by
// colour alone; who does not see the graph hears its last values; colours follow light and dark.

import uPlot from "../../vendor/uplot/uPlot.esm.js";
import { count, latency, rate } from "../format.js";

/** @typedef {import("../types.js").StatsPoint} Point */
/**
 * @typedef {object} Series
 * @property {string} label
 * @property {(p: Point) => number | null} of
 * @property {string} colour a variable of the style sheet
 * @property {number[]} [dash]
 */
/** @typedef {{title: string, series: Series[], said: (v: number | null | undefined) => string, steps?: number[]}} Kind */

/** @type {Kind} */
export const LATENCY = {
  title: "Latency",
  said: latency,
  series: [
    { label: "read p50", of: (p) => p.read_p50_seconds, colour: "--read", dash: [5, 4] },
    { label: "read p99", of: (p) => p.read_p99_seconds, colour: "--read" },
    { label: "write p50", of: (p) => p.write_p50_seconds, colour: "--write", dash: [5, 4] },
    { label: "write p99", of: (p) => p.write_p99_seconds, colour: "--write" },
  ],
};
/** @type {Kind} */
export const THROUGHPUT = {
  title: "Throughput",
  steps: Array.from({ length: 40 }, (_, i) => 2 ** i),
  said: (v) => (v === null || v === undefined ? "–" : rate(v)),
  series: [
    { label: "read", of: (p) => p.read_bytes_per_second, colour: "--read" },
    { label: "written", of: (p) => p.written_bytes_per_second, colour: "--write" },
  ],
};
/** @type {Kind} */
export const REQUESTS = {
  title: "Requests in a second",
  said: (v) => (v === null || v === undefined ? "–" : `${count(v)}/s`),
  series: [
    { label: "reads", of: (p) => p.reads_per_second, colour: "--read" },
    { label: "writes", of: (p) => p.writes_per_second, colour: "--write" },
  ],
};

const HEIGHT = 176;
const dark = matchMedia("(prefers-color-scheme: dark)");

/** @param {number} n */
const two = (n) => String(n).padStart(2, "0");

/** The element `<hf-chart>`: give it `kind`, `step` and `points`. */
class Chart extends HTMLElement {
  constructor() {
    super();
    /** @type {Kind} */ this.kind = LATENCY;
    /** Seconds between two points. */
    this.step = 5;
    /** @type {Point[]} */ this.now = [];
    /** @type {any} */ this.plot = null;
    this.resized = new ResizeObserver(() => this.fit());
    this.redo = () => this.make();
  }

  connectedCallback() {
    this.setAttribute("role", "img");
    dark.addEventListener("change", this.redo);
    this.resized.observe(this);
    this.make();
  }

  disconnectedCallback() {
    dark.removeEventListener("change", this.redo);
    this.resized.disconnect();
    this.plot?.destroy();
    this.plot = null;
  }

  /** @param {Point[]} points */
  set points(points) {
    if (points === this.now) return;
    this.now = points;
    this.plot?.setData(this.data());
    this.describe();
    if (this.plot) this.showLast(this.plot);
  }

  data() {
    /** @type {(number | null)[][]} */
    const rows = [this.now.map((p) => Date.parse(p.at) / 1000)];
    for (const s of this.kind.series) rows.push(this.now.map(s.of));
    return rows;
  }

  describe() {
    const last = this.now.at(-1);
    const values = this.kind.series.map((s) => `${s.label} ${last ? this.kind.said(s.of(last)) : "–"}`);
    this.setAttribute("aria-label", `${this.kind.title}: ${values.join(", ")}`);
  }

  /** The legend shows the last values while no pointer is over the graph. @param {any} plot */
  showLast(plot) {
    if (this.now.length && (plot.cursor.left ?? -1) < 0) plot.setLegend({ idx: this.now.length - 1 }, false);
  }

  fit() {
    if (this.plot && this.clientWidth > 0 && this.clientWidth !== this.plot.width) {
      this.plot.setSize({ width: this.clientWidth, height: HEIGHT });
    }
  }

  make() {
    this.plot?.destroy();
    const style = getComputedStyle(this);
    const colour = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
    const axis = {
      stroke: colour("--faint"), font: "11px system-ui, sans-serif",
      grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1, size: 4 },
    };
    const { kind } = this;
    this.plot = new /** @type {any} */ (uPlot)(
      {
        width: Math.max(200, this.clientWidth), height: HEIGHT, title: kind.title,
        hooks: { setLegend: [(/** @type {any} */ plot) => this.showLast(plot)] },
        cursor: { y: false, points: { size: 6 } },
        legend: { markers: { width: 2, dash: (/** @type {any} */ _, /** @type {number} */ i) => (kind.series[i - 1]?.dash ? "dashed" : "solid") } },
        scales: { y: { range: (/** @type {any} */ _, /** @type {number} */ _low, /** @type {number} */ high) => [0, high > 0 ? high * 1.1 : 1] } },
        axes: [
          { ...axis, size: 30, values: (/** @type {any} */ _, /** @type {number[]} */ at) => at.map(hourAndMinute) },
          { ...axis, size: 80, space: 28, ...(kind.steps ? { incrs: kind.steps } : {}), values: (/** @type {any} */ _, /** @type {number[]} */ vs) => vs.map((v) => (v === 0 ? "0" : kind.said(v))) },
        ],
        series: [
          { label: "at", value: (/** @type {any} */ _, /** @type {number | null} */ t) => (t === null || t === undefined ? "–" : withSeconds(t)) },
          ...kind.series.map((s) => ({
            label: s.label, stroke: colour(s.colour), width: 1.5, dash: s.dash, points: { show: false },
            value: (/** @type {any} */ _, /** @type {number | null} */ v) => kind.said(v),
          })),
        ],
      },
      this.data(),
      this,
    );
    this.describe();
  }
}

/** @param {number} t Unix seconds */
function hourAndMinute(t) {
  const d = new Date(t * 1000);
  return `${two(d.getHours())}:${two(d.getMinutes())}${d.getSeconds() ? `:${two(d.getSeconds())}` : ""}`;
}

/** @param {number} t Unix seconds */
function withSeconds(t) {
  const d = new Date(t * 1000);
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
}

customElements.define("hf-chart", Chart);
