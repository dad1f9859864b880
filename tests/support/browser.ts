// SPDX-License-Identifier: Apache-2.0
//
// A headless Chromium of this machine: the one that CHROMIUM names, or one on PATH.

import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import process from "node:process";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";

const NAMES = ["chromium", "chromium-browser", "google-chrome"];

function find(): string | null {
  const given = process.env["CHROMIUM"];
  if (given !== undefined && given !== "") return given;
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  for (const path of NAMES.flatMap((name) => folders.map((folder) => join(folder, name)))) {
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not here.
    }
  }
  return null;
}

const executablePath = find();

/** Why tests that need it are skipped; false: it is there. */
export const withoutChromium = process.env["LMSHM_WITHOUT_BROWSER"]
  ? "LMSHM_WITHOUT_BROWSER is set: pages are looked at elsewhere"
  : executablePath === null
  ? "chromium is not installed (Debian: apt-get install chromium), nor does CHROMIUM name it"
  : false;

/** A page, and what went wrong in it. */
export interface OpenPage extends AsyncDisposable {
  readonly page: Page;
  /** What the console said that is worse than information, and exceptions. */
  readonly complaints: string[];
  /** Addresses of all requests. */
  readonly requests: string[];
}

/** One process of the browser; ended by `await using`. */
export class TestBrowser implements AsyncDisposable {
  readonly #browser: Browser;

  private constructor(browser: Browser) {
    this.#browser = browser;
  }

  /** @param args more arguments for it. */
  static async start(args: readonly string[] = []): Promise<TestBrowser> {
    return new TestBrowser(
      await chromium.launch({
        executablePath: executablePath!,
        // Its own sandbox does not work for root. /dev/shm is what other tests look at.
        args: ["--no-sandbox", "--disable-dev-shm-usage", ...args],
        timeout: 60_000,
      }),
    );
  }

  /** A page in a profile of its own. */
  async open(options: BrowserContextOptions = {}): Promise<OpenPage> {
    const context = await this.#browser.newContext(options);
    const page = await context.newPage();
    page.setDefaultTimeout(40_000);
    const complaints: string[] = [];
    const requests: string[] = [];
    page.on("console", (message) => {
      if (message.type() === "error" || message.type() === "warning") {
        complaints.push(message.text());
      }
    });
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("request", (request) => requests.push(request.url()));
    return { page, complaints, requests, [Symbol.asyncDispose]: () => context.close() };
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#browser.close();
  }
}
