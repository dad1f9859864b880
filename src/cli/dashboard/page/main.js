// SPDX-License-Identifier: Apache-2.0
//
// The page: asks for what it does not have yet, once a second while it is seen, and hands it to charts
// and maps. What it was not told while it was hidden, or while nothing answered, it is told later.

import { Chart } from "./chart.js";
import * as format from "./format.js";
import { PoolMap } from "./pool.js";

/** @typedef {import("./chart.js").Row} Row */
/** @typedef {{ next: number, everyMs: number, rows: Row[] }} Track */
/**
 * @typedef {object} Worker
 * @property {string} text
 * @property {boolean | null} up
 * @property {number} sinceMs
 * @property {string | null} error
 * @property {number} restarts
 * @property {number | null} askedMs
 * @property {Record<string, unknown> | null} facts
 * @property {Track} fine
 * @property {Track} coarse
 */
/**
 * @typedef {object} Data
 * @property {string} run
 * @property {number} nowMs
 * @property {string[]} columns
 * @property {Worker | null} worker
 * @property {{ version: number, list?: import("./pool.js").Pool[], more?: number }} pools
 */

const EVERY_MS = 1_000;
const LATE_MS = 2_500;
/** As many as the dashboard keeps. */
const KEPT = { fine: 900, coarse: 1440 };
const TOKEN = "lmshm-token";

/** @param {string} id */
const byId = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

const CHARTS = [
  new Chart({
    id: "bytes",
    title: "Throughput",
    format: format.bytesPerSecond,
    series: [
      { column: "getBytes", label: "get", style: "a" },
      { column: "putBytes", label: "put", style: "b dashed" },
    ],
  }),
  new Chart({
    id: "requests",
    title: "Requests",
    format: format.perSecond,
    series: [
      { column: "gets", label: "get", style: "a" },
      { column: "puts", label: "put", style: "b dashed" },
      { column: "others", label: "others", style: "c dotted" },
      { column: "errors", label: "failed", style: "d" },
    ],
  }),
  new Chart({
    id: "get-latency",
    title: "Latency of get",
    format: format.time,
    logarithmic: true,
    series: [
      { column: "getP50", label: "p50", style: "a" },
      { column: "getP99", label: "p99", style: "b dashed" },
    ],
  }),
  new Chart({
    id: "put-latency",
    title: "Latency of put",
    format: format.time,
    logarithmic: true,
    series: [
      { column: "putP50", label: "p50", style: "a" },
      { column: "putP99", label: "p99", style: "b dashed" },
    ],
  }),
  new Chart({
    id: "hits",
    title: "Hit ratio of gets",
    format: format.percent,
    top: 1,
    series: [{ column: "hitRatio", label: "found", style: "a" }],
  }),
  new Chart({
    id: "fill",
    title: "Fill of the store",
    format: format.bytes,
    without: "A worker counts it with --max-bytes (0: without a limit).",
    series: [
      { column: "usedBytes", label: "used", style: "a" },
      {
        column: "dirUsedBytes",
        label: "of that this directory",
        style: "b dashed",
        optional: true,
      },
      { column: "maxBytes", label: "limit", style: "limit", optional: true },
    ],
  }),
  new Chart({
    id: "evictions",
    title: "Evictions",
    format: format.bytesPerSecond,
    without: "A worker removes objects where --max-bytes sets a limit.",
    series: [{ column: "evictedBytes", label: "removed to make room", style: "d" }],
  }),
  new Chart({
    id: "queue",
    title: "Queue",
    format: format.count,
    series: [
      { column: "queued", label: "waiting", style: "a" },
      { column: "running", label: "at work", style: "b dashed" },
      { column: "clients", label: "clients", style: "c dotted" },
    ],
  }),
];

/** @type {Map<string, PoolMap>} */
const pools = new Map();
/** @type {Data | null} */
let last = null;
/** @type {{ fine: Row[], coarse: Row[] }} */
let rows = { fine: [], coarse: [] };
/** What the dashboard's clock is ahead of this one's. */
let aheadMs = 0;
let rangeMs = 300_000;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;
let asking = false;

function nowMs() {
  return Date.now() + aheadMs;
}

/** @param {string} state @param {string} text */
function say(state, text) {
  const status = byId("status");
  if (status.dataset["state"] !== state) status.dataset["state"] = state;
  if (status.textContent !== text) status.textContent = text;
  const name = last?.worker?.text ?? "lmshm";
  document.title = state === "up" || state === "pools" ? name : `${state} – ${name}`;
}

/** @param {Data} data */
function sayOfWorker({ worker }) {
  if (worker === null) return say("pools", "No worker was named: the pools of this user alone");
  const { up, sinceMs, error, restarts, askedMs } = worker;
  const since = format.clock(sinceMs);
  const late = askedMs !== null && nowMs() - askedMs > LATE_MS;
  if (late) {
    return say("late", `The worker was asked at ${format.clock(askedMs)} and has not answered`);
  }
  if (up === null) return say("starting", "Asking the worker…");
  if (!up) {
    return say("away", `The worker is away since ${since}, and is asked once a second: ${error}`);
  }
  const anew = restarts === 0
    ? ""
    : `, started anew ${restarts === 1 ? "once" : `${restarts} times`}`;
  say("up", `The worker answers since ${since}${anew}`);
}

/** @param {Data} data */
function take(data) {
  if (data.run !== last?.run) rows = { fine: [], coarse: [] };
  last = data;
  aheadMs = data.nowMs - Date.now();
  for (const kind of /** @type {const} */ (["fine", "coarse"])) {
    rows[kind] = [...rows[kind], ...data.worker?.[kind].rows ?? []].slice(-KEPT[kind]);
  }
  byId("main").hidden = false;
  byId("login").hidden = true;
  byId("range").hidden = data.worker === null;
  byId("worker").hidden = data.worker === null;
  byId("name").textContent = data.worker?.text ?? "";
  const { maxBytes, ...facts } = data.worker?.facts ?? {};
  byId("facts").textContent = Object.entries({
    ...facts,
    ...(typeof maxBytes === "number" && maxBytes > 0 ? { limit: format.bytes(maxBytes) } : {}),
  }).filter(([, value]) => value !== null)
    .map(([name, value]) => name === "worker" ? String(value) : `${name} ${value}`).join(" · ");
  sayOfWorker(data);
  showCharts();
  if (data.pools.list !== undefined) showPools(data.pools.list, data.pools.more ?? 0);
  for (const pool of pools.values()) pool.age(nowMs());
}

function showCharts() {
  if (!last?.worker) return;
  const kind = rangeMs > 900_000 ? "coarse" : "fine";
  const toMs = nowMs();
  const fromMs = toMs - rangeMs;
  const shown = {
    columns: last.columns,
    rows: rows[kind].filter(([atMs]) => (atMs ?? 0) >= fromMs),
    everyMs: last.worker[kind].everyMs,
    fromMs,
    toMs,
  };
  for (const chart of CHARTS) chart.show(shown);
}

/** @param {readonly import("./pool.js").Pool[]} list @param {number} more that are not in it */
function showPools(list, more) {
  for (const [board, pool] of pools) {
    if (list.some((one) => one.board === board)) continue;
    pool.element.remove();
    pools.delete(board);
  }
  for (const one of list) {
    let pool = pools.get(one.board);
    if (pool === undefined) pools.set(one.board, pool = new PoolMap());
    pool.show(one, nowMs());
    // In their order; what is there stays where it is, and keeps the focus.
    const index = list.indexOf(one);
    const there = byId("pools").children[index];
    if (there !== pool.element) byId("pools").insertBefore(pool.element, there ?? null);
  }
  byId("no-pools").hidden = list.length > 0;
  byId("more-pools").textContent = more === 0 ? "" : `There are ${more} more, which are not shown.`;
}

/** @param {string} text */
function askForToken(text) {
  const login = byId("login");
  say("token", "The dashboard asks for its token");
  byId("main").hidden = true;
  byId("range").hidden = true;
  byId("login-error").textContent = text;
  if (!login.hidden) return;
  login.hidden = false;
  byId("token").focus();
}

async function ask() {
  clearTimeout(timer);
  if (asking || document.hidden) return;
  asking = true;
  const token = sessionStorage.getItem(TOKEN);
  const query = new URLSearchParams(
    last === null ? {} : {
      run: last.run,
      fine: String(last.worker?.fine.next ?? -1),
      coarse: String(last.worker?.coarse.next ?? -1),
      pools: String(last.pools.version),
    },
  );
  let again = true;
  try {
    const response = await fetch(`/data?${query}`, {
      headers: token === null ? {} : { authorization: `Bearer ${token}` },
      cache: "no-store",
      signal: AbortSignal.timeout(10_000),
    });
    if (response.status === 401) {
      again = false;
      askForToken(token === null ? "" : "That token is not the one.");
    } else if (!response.ok) {
      say("lost", `The dashboard refuses: ${(await response.text()).trim()}`);
    } else {
      take(await response.json());
    }
  } catch {
    say("lost", "The dashboard does not answer, and is asked once a second");
    showCharts();
  } finally {
    asking = false;
  }
  if (again) timer = setTimeout(ask, EVERY_MS);
}

byId("charts").append(...CHARTS.map(({ element }) => element));
byId("range").hidden = true;

byId("range").addEventListener("change", (event) => {
  rangeMs = Number(/** @type {HTMLInputElement} */ (event.target).value) * 1000;
  showCharts();
});
byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  const { value } = /** @type {HTMLInputElement} */ (byId("token"));
  sessionStorage.setItem(TOKEN, value.trim());
  void ask();
});
document.addEventListener("visibilitychange", () => void ask());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const pool of pools.values()) pool.redraw();
});

// The printed address has the token behind "#", which no browser sends.
const [, given] = /^#token=(.+)$/.exec(location.hash) ?? [];
if (given !== undefined) {
  sessionStorage.setItem(TOKEN, given);
  history.replaceState(null, "", "/");
}
void ask();
