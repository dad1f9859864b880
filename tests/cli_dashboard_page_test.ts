// SPDX-License-Identifier: Apache-2.0
//
// The dashboard's page in a browser, at the widths of a phone and of a desktop, in both themes and by
// keyboard: what it draws of data that are known, and what a page of strangers gets.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { createServer } from "node:http";
import process from "node:process";
import { test } from "node:test";
import type { Page } from "playwright-core";
import {
  MixedMemoryAllocator,
  publishPool,
  ShmError,
  ShmSegment,
  type WorkerInfo,
} from "../src/mod.ts";
import { serveDashboard } from "../src/cli/dashboard/server.ts";
import { withBothVersions } from "../src/cli/dashboard/history.ts";
import { WorkerWatch } from "../src/cli/dashboard/watch.ts";
import { TestBrowser, withoutChromium } from "./support/browser.ts";
import { fixtureCommand } from "./support/process.ts";

const LIMITS = { timeout: 120_000, skip: withoutChromium };
const MiB = 2 ** 20;
const PHONE = { width: 360, height: 740 };
const DESKTOP = { width: 1280, height: 900 };

/**
 * A worker that has always done the same: gets of 50 MB/s and puts of 20 MB/s, 75 of 100 gets found,
 * and a store that is half full.
 */
function steady(uptimeMs: number): WorkerInfo {
  const verb = (perMs: number, bytesPerMs: number) => {
    const requests = uptimeMs * perMs;
    // All take from 100 to 200 µs, half of them to 150.
    const latency = [[100, 0], [200, requests], [Infinity, requests]] as const;
    return {
      requests,
      errors: 0,
      bytes: uptimeMs * bytesPerMs,
      latency: latency.map(([leUs, count]) => ({ leUs, count })),
      latencySumUs: requests * 150,
    };
  };
  return {
    worker: "lmshm-worker/0.1.0",
    io: "auto",
    fs: "ext4",
    threads: 4,
    uptimeMs,
    clients: 3,
    queued: 5,
    running: 2,
    usedBytes: 500e6,
    maxBytes: 1000e6,
    objects: 12,
    evictions: uptimeMs * 0.01,
    evictedBytes: uptimeMs * 10_000,
    hits: uptimeMs * 0.075,
    misses: uptimeMs * 0.025,
    verbs: { get: verb(0.1, 50_000), put: verb(0.02, 20_000), info: verb(0.001, 0) },
  };
}

/** A dashboard in this process, of a worker that does what `worker` says. */
class Served implements AsyncDisposable {
  readonly worker = {
    away: false,
    startedMs: performance.now() - 3_600_000,
    /** It answers when this is resolved. */
    answers: Promise.resolve(),
  };
  readonly watch: WorkerWatch;
  url = "";
  readonly #token: string | null;
  readonly #watching = new AbortController();
  #serving = new AbortController();
  #served: Promise<void> = Promise.resolve();
  readonly #watched: Promise<void>;

  constructor(token: string | null = null) {
    this.#token = token;
    this.watch = new WorkerWatch(async () => {
      await this.worker.answers;
      if (!this.worker.away) return steady(this.#uptime());
      throw new ShmError("the <b>worker</b> has gone", { code: "ECONNREFUSED", operation: "ask" });
    }, true);
    // The last minute, as if it had been watched.
    const [nowMs, dateMs] = [performance.now(), Date.now()];
    for (let second = 60; second > 0; second--) {
      const atMs = nowMs - second * 1000;
      const info = withBothVersions(steady(atMs - this.worker.startedMs));
      this.watch.fine.add(dateMs - second * 1000, { info, askedMs: atMs, answeredMs: atMs });
    }
    this.#watched = this.watch.run(this.#watching.signal, () => {});
  }

  #uptime(): number {
    return performance.now() - this.worker.startedMs;
  }

  async listen(port = 0): Promise<this> {
    this.#serving = new AbortController();
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    this.#served = serveDashboard({
      listen: { host: "127.0.0.1", port, loopback: true },
      policy: { loopback: true, names: [], token: this.#token },
      worker: { text: "kv@unix:/run/lmshm.sock", watch: this.watch },
      signal: this.#serving.signal,
      listening: (_, port) => resolve(port),
    });
    this.#served.catch(reject);
    this.url = `http://127.0.0.1:${await promise}/`;
    return this;
  }

  async stop(): Promise<void> {
    this.#serving.abort();
    await this.#served;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#watching.abort();
    await this.stop();
    await this.#watched;
  }
}

const NAME = `<img src=x onerror=alert(1)> ${process.pid}`;

/** A pool that is known: used 1, free 1, pinned 2, in flight 1, free 3 MiB. */
async function publishedPool() {
  const pool = await MixedMemoryAllocator.create({ sizeBytes: 8 * MiB, pin: "none" });
  const [used, gap, pinned, moving] = [1, 1, 2, 1].map((size) => pool.allocate(size * MiB));
  pool.free(gap!);
  pinned!.pin();
  const moved = moving!.hold("put");
  const published = publishPool(pool, { name: NAME, intervalMs: 200 });
  return {
    objects: [used, pinned, moving],
    [Symbol.asyncDispose]: async () => {
      published.close();
      moved();
      await pool.close();
    },
  };
}

/** Waits until the page shows the worker, and its charts have their lines. */
async function shown(page: Page, url: string): Promise<void> {
  await page.goto(url);
  await page.waitForSelector('#status[data-state="up"]');
  await page.waitForSelector('[data-chart="bytes"] path[data-series="getBytes"][d*="L"]', {
    state: "attached",
  });
}

function text(page: Page, selector: string): Promise<string | null> {
  return page.textContent(selector);
}

/** The points of a line, in pixels. */
async function points(page: Page, series: string): Promise<[number, number][]> {
  const d = await page.getAttribute(`path[data-series="${series}"]`, "d") ?? "";
  return [...d.matchAll(/[ML]([\d.]+),([\d.]+)/g)].map(([, x, y]) => [Number(x), Number(y)]);
}

/** Of the plot, in chart.js: its first pixel, and how many there are. */
const [TOP, HEIGHT] = [8, 122];

function assertLevel(line: readonly [number, number][], share: number, what: string): void {
  assert.ok(line.length > 50, `${what}: ${line.length} points`);
  for (const [, y] of line) {
    assert.ok(Math.abs(y - (TOP + HEIGHT * (1 - share))) < 1.5, `${what}: ${y} is not ${share}`);
  }
  for (let index = 1; index < line.length; index++) {
    assert.ok(line[index]![0] > line[index - 1]![0], `${what} goes from left to right`);
  }
}

function noScrolling(page: Page): Promise<boolean> {
  return page.evaluate("document.documentElement.scrollWidth <= globalThis.innerWidth");
}

/** Of each visible text: its contrast to what it stands on; and of lines and cells. */
const CONTRASTS = `(() => {
  const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return { rgb: [r, g, b], a };
  };
  const luminance = ({ rgb }) => rgb.map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const contrast = (a, b) => {
    const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.a === 1) return colour;
    }
    throw new Error("nothing is behind");
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    if (!element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim() !== "");
    const svg = element instanceof SVGElement;
    if (own) {
      const colour = parse(svg ? style.fill : style.color);
      found.push({ kind: "text", what: element.textContent.trim().slice(0, 40),
        contrast: contrast(colour, behind(element)) });
    }
    if (svg && element.classList.contains("line")) {
      found.push({ kind: "line", what: element.getAttribute("class"),
        contrast: contrast(parse(style.stroke), behind(element)) });
    }
    if (element.tagName === "I" && !element.classList.contains("free")) {
      const free = parse(getComputedStyle(document.querySelector("i.free")).backgroundColor);
      const cell = parse(style.backgroundColor);
      found.push({ kind: "cell", what: element.className + " on the card",
        contrast: contrast(cell, behind(element.parentElement)) });
      found.push({ kind: "cell", what: element.className + " beside free",
        contrast: contrast(cell, free) });
    }
  }
  return found;
})()`;

/** Shares of a pool's map by colour, and which part of it is no colour of a state. */
function mapShares(page: Page): Promise<Record<string, number>> {
  return page.evaluate(`(() => {
    const canvas = [...document.querySelectorAll("[data-pool]")]
      .find((one) => one.dataset.pool === ${JSON.stringify(NAME)}).querySelector("canvas");
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
    copy.drawImage(canvas, 0, 0);
    const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
    const style = getComputedStyle(document.documentElement);
    const rgb = (name) => style.getPropertyValue(name).match(/[0-9a-f]{2}/gi)
      .map((hex) => parseInt(hex, 16));
    const colours = { used: "--used", pinned: "--pinned", inFlight: "--in-flight", free: "--free" };
    const counts = { used: 0, pinned: 0, inFlight: 0, free: 0 };
    let all = 0;
    for (let i = 0; i < data.length; i += 4) {
      if (data[i + 3] < 200) continue;
      const near = Object.entries(colours).map(([state, name]) => [state, rgb(name)
        .reduce((sum, c, k) => sum + Math.abs(c - data[i + k]), 0)]).sort((a, b) => a[1] - b[1]);
      all++;
      if (near[0][1] < 90) counts[near[0][0]]++;
    }
    for (const state in counts) counts[state] /= all;
    return counts;
  })()`);
}

/** What is there however it looks: no sideways scrolling, contrasts, and the map's parts. */
async function assertLooks(page: Page, viewport: { width: number; height: number }): Promise<void> {
  const expected = { used: 1 / 8, pinned: 2 / 8, inFlight: 1 / 8, free: 4 / 8 };
  // The map is drawn anew a moment after the theme has changed.
  const end = performance.now() + 40_000;
  for (;;) {
    const shares = await mapShares(page);
    const off = Object.entries(expected).map(([state, share]) => Math.abs(shares[state]! - share));
    if (off.every((one) => one < 0.04)) break;
    if (performance.now() > end) assert.fail(`the map has ${JSON.stringify(shares)}`);
    await page.waitForTimeout(50);
  }
  assert.ok(await noScrolling(page), "it does not scroll sideways");
  await page.setViewportSize({ width: 320, height: 600 });
  assert.ok(await noScrolling(page), "nor at 320 pixels");
  await page.setViewportSize(viewport);
  const contrasts: { kind: string; what: string; contrast: number }[] = await page.evaluate(
    CONTRASTS,
  );
  for (const kind of ["text", "line", "cell"]) {
    const all = contrasts.filter((one) => one.kind === kind);
    assert.ok(all.length > 5, `${all.length} of ${kind}`);
    for (const { what, contrast } of all) {
      assert.ok(contrast >= (kind === "text" ? 4.5 : 3), `${kind} ${what}: ${contrast}`);
    }
  }
}

for (const [device, viewport] of Object.entries({ phone: PHONE, desktop: DESKTOP })) {
  test(`the page draws what is known, on a ${device}, light and dark`, LIMITS, async () => {
    await using served = await new Served().listen();
    await using _pool = await publishedPool();
    await using browser = await TestBrowser.start();
    await using open = await browser.open({
      viewport,
      colorScheme: "light",
      reducedMotion: "reduce",
    });
    const { page, complaints, requests } = open;
    await shown(page, served.url);
    assert.equal(await page.title(), "kv@unix:/run/lmshm.sock");
    assert.match((await text(page, "#status"))!, /^The worker answers since \d\d:\d\d:\d\d$/);
    assert.match((await text(page, "#facts"))!, /lmshm-worker\/0\.1\.0 · io auto · fs ext4/);

    // The scale ends at 50 MB/s; a share of the height is a share of that.
    assertLevel(await points(page, "getBytes"), 1, "get");
    assertLevel(await points(page, "putBytes"), 0.4, "put");
    assertLevel(await points(page, "hitRatio"), 0.75, "hits");
    assertLevel(await points(page, "usedBytes"), 0.5, "used");
    assertLevel(await points(page, "maxBytes"), 1, "limit");
    assertLevel(await points(page, "queued"), 1, "queue");
    const values: Record<string, string> = {
      getBytes: "50.0 MB/s",
      putBytes: "20.0 MB/s",
      gets: "100/s",
      puts: "20/s",
      getP50: "150 µs",
      getP99: "199 µs",
      hitRatio: "75 %",
      usedBytes: "500 MB",
      evictedBytes: "10.0 MB/s",
      queued: "5",
    };
    for (const [column, value] of Object.entries(values)) {
      assert.equal(await text(page, `[data-value="${column}"]`), value, column);
    }
    await page.waitForSelector(`[data-pool=${JSON.stringify(NAME)}]`);
    const light: string = await page.evaluate("getComputedStyle(document.body).backgroundColor");
    await assertLooks(page, viewport);
    await page.emulateMedia({ colorScheme: "dark" });
    const dark: string = await page.evaluate("getComputedStyle(document.body).backgroundColor");
    assert.notEqual(light, dark);
    await assertLooks(page, viewport);

    assert.equal(await page.evaluate("document.getAnimations().length"), 0);
    assert.deepEqual(complaints, []);
    assert.ok(requests.length > 7);
    for (const address of requests) assert.ok(address.startsWith(served.url), address);
  });
}

/** What has the focus: its role or element, and its name. */
const FOCUS = `(() => {
  const at = document.activeElement;
  const { outlineStyle, outlineWidth } = getComputedStyle(at);
  const name = at.getAttribute("aria-label") ?? at.textContent.trim();
  return { what: at.getAttribute("role") ?? at.tagName.toLowerCase(), name,
    outline: outlineStyle !== "none" && parseFloat(outlineWidth) >= 2 };
})()`;

test("the page is used by keyboard alone", LIMITS, async () => {
  await using served = await new Served().listen();
  await using _pool = await publishedPool();
  await using browser = await TestBrowser.start();
  await using open = await browser.open({ viewport: DESKTOP });
  const { page } = open;
  await shown(page, served.url);
  await page.waitForSelector(`[data-pool=${JSON.stringify(NAME)}]`);
  const order: string[] = [];
  for (;;) {
    await page.keyboard.press("Tab");
    const { what, name, outline }: { what: string; name: string; outline: boolean } = await page
      .evaluate(FOCUS);
    if (what === "body" || order.length > 60) break;
    order.push(`${what} ${name}`.trim());
    assert.ok(outline, `${what} ${name} shows that it has the focus`);
  }
  const charts = ["Throughput", "Requests", "Latency of get", "Latency of put"];
  const others = ["Hit ratio of gets", "Fill of the store", "Evictions", "Queue"];
  const expected = [
    "input",
    ...[...charts, ...others].flatMap((name) => [`slider ${name}`, `summary ${name} as a table`]),
  ];
  assert.deepEqual(order.slice(0, expected.length), expected);
  assert.ok(order.includes(`slider Map of ${NAME}`));
  assert.ok(order.includes(`summary ${NAME} as a table`));

  const chart = page.locator('[data-chart="bytes"] [role="slider"]');
  const told = () => chart.getAttribute("aria-valuetext");
  const at = async () => Number(await chart.getAttribute("aria-valuenow"));
  await chart.focus();
  await page.keyboard.press("End");
  const end = await at();
  assert.match((await told())!, /^\d\d:\d\d:\d\d: get 50\.0 MB\/s, put 20\.0 MB\/s$/);
  await page.keyboard.press("ArrowLeft");
  await page.keyboard.press("ArrowLeft");
  assert.equal(await at(), end - 2, "whatever has come meanwhile");
  await page.keyboard.press("Home");
  assert.equal(await at(), 0);
  assert.match((await text(page, '[data-chart="bytes"] .read'))!, /^\d\d:/, "it is seen as well");
  await page.keyboard.press("PageUp");
  assert.equal(await at(), 10);
  await page.keyboard.press("Escape");
  assert.equal(await text(page, '[data-chart="bytes"] .read'), "");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.waitForSelector('[data-chart="bytes"] table th');
  const head = await page.locator('[data-chart="bytes"] table th[scope="col"]').allTextContents();
  assert.deepEqual(head, ["time", "get", "put"]);
  assert.equal(await text(page, '[data-chart="bytes"] tbody tr:nth-child(2) td'), "50.0 MB/s");

  const map = page.getByRole("slider", { name: `Map of ${NAME}`, exact: true });
  await map.focus();
  await page.keyboard.press("Home");
  assert.match((await map.getAttribute("aria-valuetext"))!, /^0 B to [\d.]+ kB: used [\d.]+ kB$/);
  await page.keyboard.press("End");
  assert.match((await map.getAttribute("aria-valuetext"))!, /to 8\.39 MB: free/);
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("ArrowLeft");
  const max = Number(await map.getAttribute("aria-valuemax"));
  assert.ok(Number(await map.getAttribute("aria-valuenow")) < max - 1);

  await page.locator('input[value="300"]').focus();
  await page.keyboard.press("ArrowRight");
  assert.equal(await page.evaluate("document.querySelector(':checked').value"), "900");
});

test("the page shows a worker that goes, comes and is another, and a dashboard likewise", {
  ...LIMITS,
}, async () => {
  await using served = await new Served().listen();
  await using browser = await TestBrowser.start();
  await using open = await browser.open({ viewport: PHONE });
  const { page } = open;
  await shown(page, served.url);
  const { promise, resolve } = Promise.withResolvers<void>();
  served.worker.answers = promise;
  await page.waitForSelector('#status[data-state="late"]');
  assert.match((await text(page, "#status"))!, /^The worker was asked at .* and has not answered$/);
  resolve();
  await page.waitForSelector('#status[data-state="up"]');
  served.worker.away = true;
  await page.waitForSelector('#status[data-state="away"]');
  assert.match(
    (await text(page, "#status"))!,
    /^The worker is away since .*: ask: the <b>worker<\/b> has gone \(ECONNREFUSED\)$/,
  );
  assert.match(await page.title(), /^away – /);
  await page.waitForSelector('[data-chart="bytes"] rect.away', { state: "attached" });
  served.worker.away = false;
  served.worker.startedMs = performance.now();
  await page.waitForSelector('#status[data-state="up"]');
  assert.match((await text(page, "#status"))!, /started anew once$/);
  await page.waitForSelector('[data-chart="bytes"] line.start', { state: "attached" });
  const port = Number(new URL(served.url).port);
  await served.stop();
  await page.waitForSelector('#status[data-state="lost"]');
  assert.match((await text(page, "#status"))!, /^The dashboard does not answer/);
  await served.listen(port);
  await page.waitForSelector('#status[data-state="up"]');
  assert.ok((await points(page, "getBytes")).length > 50, "what was is there again");
});

test("the page tells of a pool whose program is stopped, and is killed, and it goes then", {
  ...LIMITS,
}, async () => {
  const name = `lmshm-test-page-${process.pid}`;
  const [command, line] = fixtureCommand("pool_publisher.ts", name);
  const child = spawn(command, line, { stdio: ["ignore", "pipe", "inherit"] });
  const gone = once(child, "exit");
  const said = String((await once(child.stdout, "data"))[0]);
  const segment = /^PUBLISHED (\/\S+)/.exec(said)![1]!;
  try {
    await using served = await new Served().listen();
    await using browser = await TestBrowser.start();
    await using open = await browser.open({ viewport: PHONE });
    const { page } = open;
    await shown(page, served.url);
    const note = `[data-pool="${name}"] .gone`;
    await page.waitForSelector(note, { state: "attached" });
    process.kill(child.pid!, "SIGSTOP");
    await page.waitForSelector(`${note}:not(:empty)`);
    assert.match(
      (await text(page, note))!,
      /^Drawn last at .*: process \d+ is stopped, or busy\.$/,
    );
    process.kill(child.pid!, "SIGKILL");
    await gone;
    await page.waitForSelector(`${note}:text("was killed")`);
    assert.ok(await noScrolling(page));
    ShmSegment.reclaimDead();
    await page.waitForSelector(`[data-pool="${name}"]`, { state: "detached" });
  } finally {
    child.kill("SIGKILL");
    rmSync(`/dev/shm${segment}`, { force: true });
  }
});

test(
  "with a token the page asks for it, and takes it from the printed address",
  LIMITS,
  async () => {
    const token = "0123456789abcdef-token";
    await using served = await new Served(token).listen();
    await using browser = await TestBrowser.start();
    await using open = await browser.open({ viewport: PHONE });
    const { page, requests } = open;
    await page.goto(served.url);
    await page.waitForSelector("#login:not([hidden])");
    assert.equal(await page.isVisible("#main"), false);
    assert.equal(await page.evaluate("document.activeElement.id"), "token");
    assert.ok(await noScrolling(page));
    await page.keyboard.type("wrong");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#login-error:not(:empty)");
    assert.equal(await text(page, "#login-error"), "That token is not the one.");
    await page.fill("#token", token);
    await page.keyboard.press("Enter");
    await page.waitForSelector('#status[data-state="up"]');
    assert.equal(await page.isVisible("#login"), false);
    await using other = await browser.open({ viewport: PHONE });
    await shown(other.page, `${served.url}#token=${token}`);
    assert.equal(other.page.url(), served.url, "it does not stay in the address");
    for (const address of [...requests, ...other.requests]) {
      assert.ok(!address.includes(token), "nor is it ever sent in one");
    }
  },
);

/** What a page of another origin tries. */
const TRIES = (url: string) =>
  `Promise.all([
  fetch("${url}data").then((r) => "read " + r.status, () => "refused"),
  fetch("${url}data", { headers: { authorization: "Bearer x" } }).then(() => "read", () => "refused"),
  fetch("${url}data", { mode: "no-cors" }).then((r) => r.type + r.status, () => "refused"),
  ...["script", "img", "link"].map((name) => new Promise((resolve) => {
    const element = document.createElement(name);
    element.onload = () => resolve("loaded " + name);
    element.onerror = () => resolve("refused");
    if (name === "link") Object.assign(element, { rel: "stylesheet", href: "${url}style.css" });
    else element.src = "${url}" + (name === "script" ? "main.js" : "icon.svg");
    document.body.append(element);
  })),
])`;

test("a page of another origin gets nothing, nor does a name that leads here", LIMITS, async () => {
  await using served = await new Served().listen();
  const stranger = createServer((_, response) => {
    response.writeHead(200, { "content-type": "text/html" }).end("<p>a stranger</p>");
  });
  stranger.listen(0, "127.0.0.1");
  await once(stranger, "listening");
  const { port } = stranger.address() as { port: number };
  try {
    await using browser = await TestBrowser.start([
      "--host-resolver-rules=MAP *.example 127.0.0.1",
    ]);
    // Another port, and another site.
    for (const origin of [`http://127.0.0.1:${port}/`, `http://evil.example:${port}/`]) {
      await using open = await browser.open();
      const { page } = open;
      await page.goto(origin);
      const got: string[] = await page.evaluate(TRIES(served.url));
      assert.deepEqual(got, Array(6).fill("refused"), origin);
      const framed = page.waitForResponse((response) => response.url() === served.url);
      await page.evaluate(`(() => {
        const frame = document.createElement("iframe");
        frame.src = ${JSON.stringify(served.url)};
        document.body.append(frame);
      })()`);
      assert.equal((await framed).status(), 403, "in a frame");
    }
    await using open = await browser.open();
    const { page } = open;
    const rebound = served.url.replace("127.0.0.1", "evil.example");
    assert.equal((await page.goto(rebound))!.status(), 403);
    assert.equal((await page.goto(`${rebound}data`))!.status(), 403);
    assert.match((await text(page, "body"))!, /--allow-host/);
    await shown(page, served.url.replace("127.0.0.1", "localhost"));
  } finally {
    stranger.close();
    stranger.closeAllConnections();
  }
});
