// SPDX-License-Identifier: Apache-2.0
//
// Lines over time, drawn as SVG. A chart takes the focus and is then a slider along its points, so that
// a screen reader tells each one; beside that there is a table.

import { clock } from "./format.js";

/**
 * @typedef {object} Series
 * @property {string} column of the rows
 * @property {string} label
 * @property {string} style classes: a, b, c, d or limit for the colour; dashed or dotted
 * @property {boolean} [optional] not shown where it never has a value
 */

/**
 * @typedef {object} ChartOptions
 * @property {string} id
 * @property {string} title
 * @property {readonly Series[]} series
 * @property {import("./format.js").Format} format
 * @property {number} [top] of the scale; else it is what the data need
 * @property {boolean} [logarithmic]
 * @property {string} [without] what is said where no series has a value
 */

/** @typedef {readonly (number | null)[]} Row */

/**
 * What all charts show.
 * @typedef {object} Shown
 * @property {readonly string[]} columns
 * @property {readonly Row[]} rows in the order of their times
 * @property {number} everyMs
 * @property {number} fromMs
 * @property {number} toMs
 */

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 150;
const LEFT = 66;
const RIGHT = 6;
const TOP = 8;
const BOTTOM = 20;
/** Rows of the table: more says no more. */
const TABLE_ROWS = 30;
const MINUTE = 60_000;
const TIME_STEPS = [1, 2, 5, 15, 60, 120, 360].map((minutes) => minutes * MINUTE);
const TIME_CELLS = 64;

/**
 * @param {string} name
 * @param {Readonly<Record<string, string | number>>} [attributes]
 * @param {readonly (Node | string)[]} [children]
 */
export function svg(name, attributes = {}, children = []) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  element.append(...children);
  return element;
}

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} name
 * @param {Readonly<Record<string, string | number>>} [attributes]
 * @param {readonly (Node | string)[]} [children]
 * @returns {HTMLElementTagNameMap[K]}
 */
export function html(name, attributes = {}, children = []) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  element.append(...children);
  return element;
}

/** A round number that is not smaller. @param {number} value */
function niceTop(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((one) => one * power >= value * 0.999) ?? 10;
  return step * power;
}

/** "50.0 MB/s" is "50 MB/s" beside a scale. @param {string} text */
function tickText(text) {
  return text.replace(/\.0+(?= |$)|(\.\d*[1-9])0+(?= |$)/, "$1");
}

export class Chart {
  /** @readonly */ element;
  /** @readonly */ #options;
  /** @readonly */ #plot = html("div", { class: "plot", role: "slider", tabindex: 0 });
  /** @readonly */ #svg = svg("svg", { "aria-hidden": "true", height: HEIGHT });
  /** @readonly */ #read = html("p", { class: "read" });
  /** @readonly @type {HTMLElement[]} */ #values = [];
  /** @readonly @type {HTMLElement[]} */ #labels = [];
  /** @readonly */ #table = html("table");
  /** @readonly */ #details = html("details");
  /** @type {Shown | null} */ #shown = null;
  /** Of the row that is read; null: the last one. @type {number | null} */
  #cursorMs = null;
  #width = 0;

  /** @param {ChartOptions} options */
  constructor(options) {
    this.#options = options;
    const { id, title, series } = options;
    const legend = html(
      "ul",
      { class: "legend" },
      series.map(({ label, style, column }) => {
        const value = html("b", { "data-value": column }, ["–"]);
        this.#values.push(value);
        const swatch = svg("svg", { "aria-hidden": "true" }, [
          svg("line", { class: `line ${style}`, x1: 0, x2: 24, y1: 5, y2: 5 }),
        ]);
        const item = html("li", {}, [swatch, ` ${label} `, value]);
        this.#labels.push(item);
        return item;
      }),
    );
    this.#plot.append(this.#svg);
    this.#details.append(
      html("summary", { "aria-label": `${title} as a table` }, ["As a table"]),
      html(
        "div",
        { class: "scrolls", tabindex: 0, role: "group", "aria-label": `${title}, table` },
        [
          this.#table,
        ],
      ),
    );
    this.element = html("figure", { "data-chart": id }, [
      html("figcaption", {}, [html("h3", {}, [title]), legend]),
      this.#plot,
      this.#read,
      this.#details,
    ]);
    this.#plot.setAttribute("aria-label", title);
    this.#plot.addEventListener("keydown", (event) => this.#onKey(event));
    this.#plot.addEventListener("pointermove", (event) => this.#onPointer(event));
    this.#plot.addEventListener("pointerdown", (event) => this.#onPointer(event));
    this.#plot.addEventListener("pointerleave", () => this.#readAt(null));
    this.#details.addEventListener("toggle", () => this.#drawTable());
    new ResizeObserver(([entry]) => {
      const width = Math.floor(entry?.contentRect.width ?? 0);
      if (width === this.#width) return;
      this.#width = width;
      this.#draw();
    }).observe(this.#plot);
  }

  /** @param {Shown} shown */
  show(shown) {
    this.#shown = shown;
    this.#draw();
    this.#drawTable();
  }

  /** @param {Row} row @param {string} column */
  #value(row, column) {
    const index = this.#shown?.columns.indexOf(column) ?? -1;
    return row[index] ?? null;
  }

  /** @param {Row} row */
  #timeOf(row) {
    return row[0] ?? 0;
  }

  /** The row that is read, and its index; -1: there is none. */
  #cursor() {
    const rows = this.#shown?.rows ?? [];
    if (this.#cursorMs === null) return rows.length - 1;
    const cursorMs = this.#cursorMs;
    let best = -1;
    let least = Infinity;
    rows.forEach((row, index) => {
      const away = Math.abs(this.#timeOf(row) - cursorMs);
      if (away < least) [best, least] = [index, away];
    });
    return best;
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const last = (this.#shown?.rows.length ?? 0) - 1;
    if (last < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const steps = /** @type {Record<string, number>} */ ({
      ...{ ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 },
      ...{ PageDown: -10, PageUp: 10, Home: -Infinity, End: Infinity },
    });
    const step = steps[event.key];
    if (event.key === "Escape") this.#readAt(null);
    else if (step === undefined) return;
    else this.#readAt(Math.max(0, Math.min(last, this.#cursor() + step)));
    event.preventDefault();
  }

  /** @param {PointerEvent} event */
  #onPointer(event) {
    const { rows = [], fromMs = 0, toMs = 0 } = this.#shown ?? {};
    if (rows.length === 0) return;
    const { left } = this.#plot.getBoundingClientRect();
    const share = (event.clientX - left - LEFT) / Math.max(1, this.#width - LEFT - RIGHT);
    this.#cursorMs = fromMs + share * (toMs - fromMs);
    this.#readAt(this.#cursor());
  }

  /** @param {number | null} index */
  #readAt(index) {
    const row = index === null ? undefined : this.#shown?.rows[index];
    this.#cursorMs = row === undefined ? null : this.#timeOf(row);
    this.#draw();
  }

  /** @param {Row} row */
  #words(row) {
    const { series, format } = this.#options;
    if (this.#value(row, "up") === 0) return "the worker did not answer";
    return series.map(({ label, column }) => {
      const value = this.#value(row, column);
      return `${label} ${value === null ? "–" : format(value)}`;
    }).join(", ");
  }

  /** From a value to a share of the height, and the values that have a line. */
  #scale() {
    const { series, logarithmic, top } = this.#options;
    const values = (this.#shown?.rows ?? []).flatMap((row) =>
      series.map(({ column }) => this.#value(row, column))
    ).filter((value) => value !== null);
    if (logarithmic) {
      const low = Math.floor(Math.log10(Math.max(1e-6, Math.min(...values, 1e-3))));
      const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values, 1e-6))));
      const ticks = Array.from({ length: high - low + 1 }, (_, index) => 10 ** (low + index));
      const every = Math.ceil(ticks.length / 5);
      return {
        share: (/** @type {number} */ value) =>
          (Math.log10(Math.max(value, 10 ** low)) - low) / (high - low),
        ticks: ticks.filter((_, index) => index % every === 0),
      };
    }
    const high = top ?? niceTop(Math.max(0, ...values));
    return {
      share: (/** @type {number} */ value) => value / high,
      ticks: [0, high / 2, high],
    };
  }

  #draw() {
    if (this.#shown === null || this.#width < LEFT + RIGHT + 20) return;
    const { rows, fromMs, toMs, everyMs } = this.#shown;
    const { series, format, title } = this.#options;
    const { share, ticks } = this.#scale();
    const width = this.#width - LEFT - RIGHT;
    const height = HEIGHT - TOP - BOTTOM;
    const x = (/** @type {number} */ ms) => LEFT + width * (ms - fromMs) / (toMs - fromMs);
    const y = (/** @type {number} */ value) => TOP + height * (1 - Math.min(1, share(value)));
    const point = (/** @type {number} */ ms, /** @type {number} */ value) =>
      `${x(ms).toFixed(1)},${y(value).toFixed(1)}`;
    /** @param {string} column */
    const path = (column) => {
      let d = "";
      let lastMs = -Infinity;
      for (const row of rows) {
        const value = this.#value(row, column);
        if (value === null) continue;
        const ms = this.#timeOf(row);
        // A point alone is drawn as a short line.
        const joined = ms - lastMs <= 3 * everyMs;
        d += joined ? `L${point(ms, value)}` : `M${point(ms, value)}h0.1`;
        lastMs = ms;
      }
      return d;
    };
    const parts = this.#awayParts(x, height);
    for (const tick of ticks) {
      const at = y(tick);
      parts.push(
        svg("line", { class: "grid", x1: LEFT, x2: LEFT + width, y1: at, y2: at }),
        svg("text", { x: LEFT - 6, y: at + 4, "text-anchor": "end" }, [tickText(format(tick))]),
      );
    }
    const step = TIME_STEPS.find((one) => width * one / (toMs - fromMs) >= TIME_CELLS) ??
      6 * 60 * MINUTE;
    for (let ms = Math.ceil(fromMs / step) * step; ms <= toMs; ms += step) {
      const at = x(ms);
      if (at < LEFT + 14 || at > LEFT + width - 14) continue;
      parts.push(
        svg("line", { class: "grid", x1: at, x2: at, y1: TOP + height, y2: TOP + height + 4 }),
        svg("text", { x: at, y: HEIGHT - 4, "text-anchor": "middle" }, [clock(ms, false)]),
      );
    }
    for (const { column, style } of series) {
      const d = path(column);
      parts.push(svg("path", { class: `line ${style}`, "data-series": column, d }));
    }
    const cursor = this.#cursor();
    const row = rows[cursor];
    if (row !== undefined && this.#cursorMs !== null) {
      const at = x(this.#timeOf(row));
      parts.push(svg("line", { class: "cursor", x1: at, x2: at, y1: TOP, y2: TOP + height }));
    }
    this.#svg.setAttribute("viewBox", `0 0 ${this.#width} ${HEIGHT}`);
    this.#svg.replaceChildren(...parts);
    const words = row === undefined
      ? "nothing yet"
      : `${clock(this.#timeOf(row))}: ${this.#words(row)}`;
    const known = series.map(({ column }) => rows.some((one) => this.#value(one, column) !== null));
    const without = rows.length > 0 && !known.includes(true) ? this.#options.without ?? "" : "";
    this.#read.textContent = this.#cursorMs === null ? without : words;
    series.forEach(({ column, optional = false }, index) => {
      const label = this.#labels[index];
      if (label) label.hidden = optional && !known[index];
      const last = rows.at(-1);
      const value = last === undefined ? null : this.#value(last, column);
      const text = value === null ? "–" : format(value);
      const element = this.#values[index];
      if (element && element.textContent !== text) element.textContent = text;
    });
    const facts = {
      "aria-label": title,
      "aria-valuemin": 0,
      "aria-valuemax": Math.max(0, rows.length - 1),
      "aria-valuenow": Math.max(0, cursor),
      "aria-valuetext": words,
    };
    // What is read out is told when it is moved, and not once a second.
    const quiet = document.activeElement === this.#plot && this.#cursorMs === null;
    for (const [name, value] of Object.entries(facts)) {
      if (!quiet || !this.#plot.hasAttribute(name)) this.#plot.setAttribute(name, String(value));
    }
  }

  /**
   * Where the worker did not answer, and where it was started anew.
   * @param {(ms: number) => number} x
   * @param {number} height
   */
  #awayParts(x, height) {
    const { rows = [], everyMs = 0 } = this.#shown ?? {};
    const parts = [];
    let fromMs = null;
    for (const [index, row] of rows.entries()) {
      const ms = this.#timeOf(row);
      if (this.#value(row, "up") === 0) fromMs ??= ms;
      const ends = this.#value(row, "up") !== 0 || index === rows.length - 1;
      if (fromMs !== null && ends) {
        const from = x(fromMs);
        const to = Math.max(from + 1, x(this.#value(row, "up") === 0 ? ms + everyMs : ms));
        parts.push(svg("rect", { class: "away", x: from, y: TOP, width: to - from, height }));
        fromMs = null;
      }
      if (this.#value(row, "restarted") === 1) {
        parts.push(
          svg("line", { class: "start", x1: x(ms), x2: x(ms), y1: TOP, y2: TOP + height }),
        );
      }
    }
    return parts;
  }

  #drawTable() {
    if (!this.#details.open || this.#shown === null) return;
    const { rows } = this.#shown;
    const { series, format } = this.#options;
    const every = Math.max(1, Math.ceil(rows.length / TABLE_ROWS));
    const chosen = rows.filter((_, index) => (rows.length - 1 - index) % every === 0).reverse();
    this.#table.replaceChildren(
      html("thead", {}, [
        html(
          "tr",
          {},
          ["time", ...series.map(({ label }) => label)]
            .map((text) => html("th", { scope: "col" }, [text])),
        ),
      ]),
      html(
        "tbody",
        {},
        chosen.map((row) =>
          html("tr", {}, [
            html("th", { scope: "row" }, [clock(this.#timeOf(row))]),
            ...series.map(({ column }) => {
              const value = this.#value(row, column);
              return html("td", {}, [value === null ? "–" : format(value)]);
            }),
          ])
        ),
      ),
    );
  }
}
