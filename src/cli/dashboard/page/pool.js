// SPDX-License-Identifier: Apache-2.0
//
// A pool as a map: its bytes from left to right and from above to below, in cells. A cell is as much as
// fits, and shows in its width which part of it is in which state; of a pool of pages it is one page,
// where they fit.

import { html } from "./chart.js";
import { bytes, clock, count, percent } from "./format.js";

/**
 * @typedef {object} Pool as /data has it
 * @property {string} board
 * @property {string} name
 * @property {number} pid
 * @property {"pages" | "blocks" | "buffers"} kind
 * @property {string | null} segment
 * @property {boolean} live
 * @property {number} updatedMs
 * @property {number} everyMs
 * @property {Record<string, number>} stats
 * @property {{ objects: number, bytes: number } | null} buffers
 * @property {number} totalBytes
 * @property {number} cellBytes
 * @property {readonly (readonly [string, number, number])[]} ranges state, bytes, objects
 */

/** In the order of the legend. */
const STATES = /** @type {const} */ ([
  ["used", "used", "--used"],
  ["pinned", "pinned", "--pinned"],
  ["inFlight", "in flight", "--in-flight"],
  ["quarantined", "quarantined", "--quarantined"],
  ["free", "free", "--free"],
]);
const LARGEST_CELL = 22;
const USUAL_CELL = 12;
const SMALLEST_CELL = 6;
const MOST_ROWS = 16;
const GAP = 1;
const SECOND_ALPHA = 0.85;
/** A map that is older than so many times its interval, and than three seconds, is told as old. */
const OLD = 5;
const OLD_MS = 3_000;

/** Cells of the map for a width in pixels. @param {Pool} pool @param {number} width */
function layOut(pool, width) {
  if (pool.totalBytes === 0) return { cell: USUAL_CELL, columns: 1, cells: 0, cellBytes: 1 };
  const places = pool.kind === "pages" && pool.cellBytes === 0 ? pool.ranges.length : Infinity;
  for (let cell = LARGEST_CELL; cell >= SMALLEST_CELL; cell--) {
    const columns = Math.max(1, Math.floor((width + GAP) / cell));
    if (places <= columns * MOST_ROWS) {
      return { cell, columns, cells: places, cellBytes: pool.totalBytes / Math.max(1, places) };
    }
  }
  const columns = Math.max(1, Math.floor((width + GAP) / USUAL_CELL));
  const cells = columns * MOST_ROWS;
  return { cell: USUAL_CELL, columns, cells, cellBytes: pool.totalBytes / cells };
}

export class PoolMap {
  /** @readonly */ element;
  /** @readonly */ #title = html("h3");
  /** @readonly */ #about = html("p", { class: "read" });
  /** @readonly */ #gone = html("p", { class: "gone" });
  /** @readonly */ #legend = html("ul", { class: "legend" });
  /** @readonly */ #canvas = html("canvas", { "aria-hidden": "true" });
  /** @readonly */ #plot = html("div", { class: "plot", role: "slider", tabindex: 0 }, [
    this.#canvas,
  ]);
  /** @readonly */ #read = html("p", { class: "read" });
  /** @readonly */ #table = html("table");
  /** @readonly */ #summary = html("summary", {}, ["As a table"]);
  /** @type {Pool | null} */ #pool = null;
  /** @type {number | null} */ #cursor = null;
  #width = 0;

  constructor() {
    this.element = html("figure", {}, [
      html("figcaption", {}, [this.#title, this.#about, this.#gone, this.#legend]),
      this.#plot,
      this.#read,
      html("details", {}, [this.#summary, this.#table]),
    ]);
    this.#plot.addEventListener("keydown", (event) => this.#onKey(event));
    this.#plot.addEventListener("pointermove", (event) => this.#onPointer(event));
    this.#plot.addEventListener("pointerdown", (event) => this.#onPointer(event));
    this.#plot.addEventListener("pointerleave", () => this.#moveTo(null));
    new ResizeObserver(([entry]) => {
      const width = Math.floor(entry?.contentRect.width ?? 0);
      if (width === this.#width) return;
      this.#width = width;
      this.redraw();
    }).observe(this.#plot);
  }

  /** @param {Pool} pool @param {number} nowMs of the dashboard's clock */
  show(pool, nowMs) {
    this.#pool = pool;
    const { name, pid, kind, segment, stats, buffers, totalBytes } = pool;
    this.element.setAttribute("data-pool", name);
    this.#title.textContent = name;
    this.#summary.setAttribute("aria-label", `${name} as a table`);
    const free = stats.freeBytes ?? 0;
    const about = [
      `${bytes(totalBytes)} in ${kind}`,
      `process ${pid}`,
      ...(segment !== null && segment !== name ? [`segment ${segment}`] : []),
      `${count(stats.liveObjects ?? 0)} objects`,
      ...(free > 0 && kind === "blocks"
        ? [
          `largest free ${bytes(stats.largestFreeBytes ?? 0)} of ${bytes(free)}: ` +
          `fragmentation ${percent(stats.fragmentation ?? 0)}`,
        ]
        : []),
      ...(buffers !== null && buffers.objects > 0
        ? [`beside it ${count(buffers.objects)} buffers with ${bytes(buffers.bytes)}`]
        : []),
    ];
    this.#about.textContent = about.join(" · ");
    this.age(nowMs);
    const sums = STATES.map(([state, label]) => {
      const ranges = pool.ranges.filter(([one]) => one === state);
      return {
        state,
        label,
        ranges: ranges.length,
        bytes: ranges.reduce((sum, [, size]) => sum + size, 0),
        objects: ranges.reduce((sum, [, , objects]) => sum + objects, 0),
        largest: Math.max(0, ...ranges.map(([, size]) => size)),
      };
    });
    this.#legend.replaceChildren(
      ...sums.filter(({ state, bytes }) => state !== "quarantined" || bytes > 0).map((sum) =>
        html("li", {}, [
          html("i", { class: sum.state }),
          `${sum.label} `,
          html("b", { "data-state": sum.state }, [bytes(sum.bytes)]),
        ])
      ),
    );
    const head = [
      "state",
      "bytes",
      "share",
      "objects",
      ...(pool.cellBytes === 0 ? ["largest"] : []),
    ];
    this.#table.replaceChildren(
      html("thead", {}, [
        html("tr", {}, head.map((text) => html("th", { scope: "col" }, [text]))),
      ]),
      html(
        "tbody",
        {},
        sums.map((sum) =>
          html("tr", {}, [
            html("th", { scope: "row" }, [sum.label]),
            ...[
              bytes(sum.bytes),
              percent(sum.bytes / Math.max(1, totalBytes)),
              sum.state === "free" ? "–" : count(sum.objects),
              ...(pool.cellBytes === 0 ? [bytes(sum.largest)] : []),
            ].map((text) => html("td", {}, [text])),
          ])
        ),
      ),
    );
    this.redraw();
  }

  /** Says it when nobody draws it any more. @param {number} nowMs */
  age(nowMs) {
    if (this.#pool === null) return;
    const { live, updatedMs, everyMs, pid } = this.#pool;
    const old = nowMs - updatedMs > Math.max(OLD_MS, OLD * everyMs);
    const text = !live
      ? `Process ${pid} was killed at about ${clock(updatedMs)}; lmshm shm gc removes what it left.`
      : old
      ? `Drawn last at ${clock(updatedMs)}: process ${pid} is stopped, or busy.`
      : "";
    if (this.#gone.textContent !== text) this.#gone.textContent = text;
  }

  /** @param {number} index of a cell */
  #words(index) {
    const pool = this.#pool;
    if (pool === null) return "";
    const { cellBytes, cells } = layOut(pool, this.#width);
    const [from, to] = [index * cellBytes, (index + 1) * cellBytes];
    const found = new Map();
    let at = 0;
    for (const [state, size] of pool.ranges) {
      const inside = Math.min(at + size, to) - Math.max(at, from);
      if (inside > 0.5) found.set(state, (found.get(state) ?? 0) + inside);
      at += size;
    }
    const parts = STATES.filter(([state]) => found.has(state))
      .map(([state, label]) => `${label} ${bytes(Math.round(found.get(state)))}`);
    const where = pool.kind === "pages" && cells === pool.ranges.length
      ? `page ${index}`
      : `${bytes(Math.floor(from))} to ${bytes(Math.floor(to))}`;
    return `${where}: ${parts.join(", ")}`;
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (this.#pool === null || event.altKey || event.ctrlKey || event.metaKey) return;
    const { columns, cells } = layOut(this.#pool, this.#width);
    const steps = /** @type {Record<string, number>} */ ({
      ...{ ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns },
      ...{ PageUp: -columns, PageDown: columns, Home: -Infinity, End: Infinity },
    });
    const step = steps[event.key];
    if (event.key === "Escape") this.#moveTo(null);
    else if (step === undefined || cells === 0) return;
    else if (this.#cursor === null) this.#moveTo(step === Infinity ? cells - 1 : 0);
    else this.#moveTo(Math.max(0, Math.min(cells - 1, this.#cursor + step)));
    event.preventDefault();
  }

  /** @param {PointerEvent} event */
  #onPointer(event) {
    if (this.#pool === null) return;
    const { cell, columns, cells } = layOut(this.#pool, this.#width);
    const { left, top } = this.#plot.getBoundingClientRect();
    const column = Math.floor((event.clientX - left) / cell);
    const index = Math.floor((event.clientY - top) / cell) * columns + column;
    this.#moveTo(column < columns && index >= 0 && index < cells ? index : null);
  }

  /** @param {number | null} index */
  #moveTo(index) {
    this.#cursor = index;
    this.redraw();
  }

  redraw() {
    const pool = this.#pool;
    if (pool === null || this.#width === 0) return;
    const { cell, columns, cells, cellBytes } = layOut(pool, this.#width);
    const rows = Math.max(1, Math.ceil(cells / columns));
    const ratio = globalThis.devicePixelRatio || 1;
    const [width, height] = [this.#width, rows * cell];
    if (this.#cursor !== null && this.#cursor >= cells) this.#cursor = null;
    this.#canvas.width = Math.round(width * ratio);
    this.#canvas.height = Math.round(height * ratio);
    this.#canvas.style.height = `${height}px`;
    const context = this.#canvas.getContext("2d");
    if (context === null) return;
    context.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    const colours = new Map(STATES.map(([state, , name]) => [state, style.getPropertyValue(name)]));
    const inner = cell - GAP;
    const mark = style.getPropertyValue("--mark");
    // What lies in one cell is drawn as a part of its width.
    let at = 0;
    let odd = false;
    for (const [state, size] of pool.ranges) {
      // Two objects side by side are told apart.
      odd = state !== "free" && pool.kind === "blocks" && pool.cellBytes === 0 && !odd;
      context.globalAlpha = odd ? SECOND_ALPHA : 1;
      context.fillStyle = colours.get(/** @type {"free"} */ (state)) ?? "";
      const end = at + size;
      let index = Math.min(cells - 1, Math.floor(at / cellBytes + 1e-9));
      for (let from = at; from < end && index < cells; index++) {
        const to = index === cells - 1 ? end : Math.min(end, (index + 1) * cellBytes);
        const x = (index % columns) * cell + inner * (from / cellBytes - index);
        const part = inner * (to - from) / cellBytes;
        const y = Math.floor(index / columns) * cell;
        context.fillRect(x, y, part, inner);
        if (part > inner * 0.9 && inner >= 8) markCell(context, state, x, y, inner, mark);
        from = to;
      }
      at = end;
    }
    context.globalAlpha = 1;
    if (this.#cursor !== null) {
      context.strokeStyle = style.getPropertyValue("--text");
      context.lineWidth = 2;
      const [column, row] = [this.#cursor % columns, Math.floor(this.#cursor / columns)];
      context.strokeRect(column * cell, row * cell, inner, inner);
    }
    const words = this.#cursor === null ? "" : this.#words(this.#cursor);
    this.#read.textContent = words;
    const facts = {
      "aria-label": `Map of ${pool.name}`,
      "aria-valuemin": 0,
      "aria-valuemax": Math.max(0, cells - 1),
      "aria-valuenow": this.#cursor ?? 0,
      "aria-valuetext": words === "" ? "arrow keys move through the cells" : words,
    };
    for (const [name, value] of Object.entries(facts)) {
      if (this.#plot.getAttribute(name) !== String(value)) {
        this.#plot.setAttribute(name, String(value));
      }
    }
  }
}

/**
 * Pinned and in flight are told by a form, too, and not by colour alone.
 * @param {CanvasRenderingContext2D} context
 * @param {string} state
 * @param {number} x
 * @param {number} y
 * @param {number} size
 * @param {string} colour
 */
function markCell(context, state, x, y, size, colour) {
  context.save();
  if (state === "pinned") {
    const part = Math.max(2, Math.round(size / 4));
    context.fillStyle = colour;
    context.fillRect(x + (size - part) / 2, y + (size - part) / 2, part, part);
  } else if (state === "inFlight") {
    context.strokeStyle = colour;
    context.lineWidth = 1.5;
    context.beginPath();
    context.moveTo(x + 1, y + size - 1);
    context.lineTo(x + size - 1, y + 1);
    context.stroke();
  }
  context.restore();
}
