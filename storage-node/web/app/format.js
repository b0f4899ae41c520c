// Numbers, sizes and times as people read them. Promises: a size reads exactly as `format_size` in
// volume-policy/src/unit.rs writes it (a test compares the two). No DOM here.

/** @type {[string, bigint][]} */
const UNITS = [["PiB", 50n], ["TiB", 40n], ["GiB", 30n], ["MiB", 20n], ["KiB", 10n]];

/**
 * Bytes with a binary unit: whole if they are a multiple of it, else two digits, ties to even.
 * @param {number} bytes
 * @returns {string}
 */
export function size(bytes) {
  if (bytes < 0) return "−" + size(-bytes);
  const n = BigInt(Math.round(bytes));
  for (const [name, bits] of UNITS) {
    const unit = 1n << bits;
    if (n < unit) continue;
    if (n % unit === 0n) return `${n / unit}${name}`;
    let hundredths = (n * 100n) / unit;
    const twice = ((n * 100n) % unit) * 2n;
    if (twice > unit || (twice === unit && hundredths % 2n === 1n)) hundredths += 1n;
    return `${hundredths / 100n}.${String(hundredths % 100n).padStart(2, "0")}${name}`;
  }
  return `${n}B`;
}

/** @param {number | undefined | null} bytes */
export const maybeSize = (bytes) => (bytes === undefined || bytes === null ? "not told" : size(bytes));

/** @param {number} bytes in a second */
export const rate = (bytes) => `${size(bytes)}/s`;

/**
 * A part of a whole as a percentage; what is there is never shown as 0 %, what is missing never as 100 %.
 * @param {number} part
 * @param {number} whole
 */
export function percent(part, whole) {
  if (whole <= 0) return "0%";
  const p = (part / whole) * 100;
  if (p > 0 && p < 1) return "<1%";
  if (p > 99 && p < 100) return "99%";
  return `${Math.round(p)}%`;
}

/**
 * A span of time with its two largest units.
 * @param {number} seconds
 */
export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return s % 60 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${s / 60} min`;
  const m = Math.round(s / 60);
  if (m < 1440) return m % 60 ? `${Math.floor(m / 60)} h ${m % 60} min` : `${m / 60} h`;
  const h = Math.round(s / 3600);
  return h % 24 ? `${Math.floor(h / 24)} d ${h % 24} h` : `${h / 24} d`;
}

/**
 * A policy's duration, as `format_duration_us` writes it.
 * @param {number} seconds
 */
export function duration(seconds) {
  const us = Math.round(seconds * 1e6);
  /** @type {[string, number][]} */
  const units = [["d", 864e8], ["h", 36e8], ["m", 6e7], ["s", 1e6], ["ms", 1e3]];
  for (const [name, unit] of units) if (us >= unit && us % unit === 0) return `${us / unit}${name}`;
  return `${us}us`;
}

/**
 * A latency: three digits and a unit.
 * @param {number | null | undefined} seconds
 */
export function latency(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const digits = (/** @type {number} */ x) => (x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2));
  if (seconds >= 1) return `${digits(seconds)} s`;
  if (seconds >= 1e-3) return `${digits(seconds * 1e3)} ms`;
  return `${digits(seconds * 1e6)} µs`;
}

/** @param {number} n */
export const count = (n) => (n >= 100 || Number.isInteger(n) ? String(Math.round(n)) : n.toFixed(1));

/** @param {number} n */
const two = (n) => String(n).padStart(2, "0");

/**
 * A time by the reader's clock: without the date if it is today.
 * @param {Date} at
 * @param {Date} [now]
 */
export function clock(at, now = new Date()) {
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  if (at.toDateString() === now.toDateString()) return time;
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
}

/**
 * The same time in UTC, for those who compare logs.
 * @param {Date} at
 */
export const utc = (at) => `${at.toISOString().replace("T", " ").replace("Z", "")} UTC`;

/** @param {number} n @param {string} one @param {string} [many] */
export const plural = (n, one, many = one + "s") => `${n} ${n === 1 ? one : many}`;

/** @param {string} word of the API, such as `writes_wait` */
export const words = (word) => word.replaceAll("_", " ");
