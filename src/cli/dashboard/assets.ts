// SPDX-License-Identifier: Apache-2.0
//
// The files of the page, as text: both runtimes, the bundler of the single executable and the package
// take them along as they are (page/tsconfig.json checks them).

// @ts-ignore: text, whatever a module of that name would be
import chart from "./page/chart.js" with { type: "text" };
// @ts-ignore: text
import format from "./page/format.js" with { type: "text" };
// @ts-ignore: text
import icon from "./page/icon.svg" with { type: "text" };
// @ts-ignore: text
import html from "./page/index.html" with { type: "text" };
// @ts-ignore: text
import main from "./page/main.js" with { type: "text" };
// @ts-ignore: text
import pool from "./page/pool.js" with { type: "text" };
// @ts-ignore: text
import style from "./page/style.css" with { type: "text" };

export interface Asset {
  readonly type: string;
  readonly text: string;
}

function asset(type: string, text: unknown): Asset {
  return { type: `${type}; charset=utf-8`, text: String(text) };
}

/** By path. */
export const ASSETS: Readonly<Record<string, Asset>> = {
  "/": asset("text/html", html),
  "/style.css": asset("text/css", style),
  "/icon.svg": asset("image/svg+xml", icon),
  "/main.js": asset("text/javascript", main),
  "/chart.js": asset("text/javascript", chart),
  "/pool.js": asset("text/javascript", pool),
  "/format.js": asset("text/javascript", format),
};
