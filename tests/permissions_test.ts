// SPDX-License-Identifier: Apache-2.0
//
// Deno with no more permissions than docs/deno.md says that are needed, and with fewer.

import assert from "node:assert/strict";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { locateLibrary } from "../src/native/locate.ts";
import { runFixture } from "./support/process.ts";
import { startWorker, TempDir } from "./support/worker.ts";

const skip = "Deno" in globalThis ? false : "Bun has no permissions";

/** The two lists of docs/deno.md: for a worker that is spawned, and for one at an address. */
function documented(): { spawned: string[]; connected: string[] } {
  const page = readFileSync(new URL("../docs/deno.md", import.meta.url), "utf8");
  const flagsOf = (row: string) => {
    const flags = new RegExp(`^\\| ${row} \\| \`((?:--allow-\\w+ ?)+)\` \\|$`, "m").exec(page)?.[1];
    assert.ok(flags !== undefined, `docs/deno.md has the permissions of "${row}"`);
    return flags.split(" ");
  };
  return {
    spawned: flagsOf("starts its own worker"),
    connected: flagsOf("uses a worker that runs already"),
  };
}

test("what docs/deno.md lists is enough", { skip, timeout: 60_000 }, async () => {
  const { spawned, connected } = documented();
  using dir = new TempDir();
  const env = { LMSHM_LIBRARY: "" };
  const own = await runFixture("round_trip.ts", [dir.path], {
    env,
    denoPermissions: ["--no-prompt", ...spawned],
  });
  assert.equal(own.code, 0, own.stderr);
  const report = { byteLength: 4096, equal: true };
  assert.deepEqual(JSON.parse(own.stdout), report);
  for (const [listen, ...args] of [[`unix:${dir.file("s")}`], ["127.0.0.1:0", "--no-auth"]]) {
    await using worker = await startWorker(listen!, dir.path, args);
    const running = await runFixture("round_trip.ts", [dir.path, worker.address], {
      env,
      denoPermissions: ["--no-prompt", ...connected],
    });
    assert.equal(running.code, 0, running.stderr);
    assert.deepEqual(JSON.parse(running.stdout), report);
  }
});

test(
  "a permission that is missing is said, and nothing else",
  { skip, timeout: 60_000 },
  async () => {
    const { spawned } = documented();
    using dir = new TempDir();
    for (
      const [missing, said] of [
        ["--allow-read", /Deno does not allow looking at .*liblmshm\.so.*--allow-read/],
        [
          "--allow-run",
          /ShmError: .*lmshm-worker cannot be started: Requires run access.*\(EPERM\).*--allow-run/,
        ],
        ["--allow-ffi", /ShmError: load library: Deno does not allow.*\(EPERM\).*--allow-ffi/],
        ["--allow-env", /ShmError: read environment: Deno does not allow.*\(EPERM\).*--allow-env/],
        ["--allow-write", /ShmError: .*\(EPERM\).*--allow-write/],
      ] as const
    ) {
      const ended = await runFixture("round_trip.ts", [dir.path], {
        env: { LMSHM_LIBRARY: "" },
        denoPermissions: ["--no-prompt", ...spawned.filter((word) => word !== missing)],
      });
      assert.notEqual(ended.code, 0, `without ${missing}`);
      assert.match(ended.stderr, said);
    }
  },
);

test("it is enough for maxBytes where others' temporaries are", {
  skip,
  timeout: 60_000,
}, async () => {
  const { spawned } = documented();
  using dir = new TempDir();
  // Whether the process lives cannot be seen with these permissions.
  const temporary = `.k.data.${process.pid}.0123456789abcdef.tmp`;
  writeFileSync(dir.file(temporary), "x");
  const ended = await runFixture("round_trip.ts", [dir.path, "", `${2 ** 20}`], {
    env: { LMSHM_LIBRARY: "" },
    denoPermissions: ["--no-prompt", ...spawned],
  });
  assert.equal(ended.code, 0, ended.stderr);
  assert.deepEqual(readdirSync(dir.path).sort(), [temporary, "k.data"]);
});

test("--allow-ffi with a list of paths is said to be too little", {
  skip,
  timeout: 60_000,
}, async () => {
  const { spawned } = documented();
  using dir = new TempDir();
  const others = spawned.filter((word) => word !== "--allow-ffi");
  const ended = await runFixture("round_trip.ts", [dir.path], {
    env: { LMSHM_LIBRARY: "" },
    denoPermissions: ["--no-prompt", `--allow-ffi=${locateLibrary()}`, ...others],
  });
  assert.notEqual(ended.code, 0);
  // The library is loaded, and what is needed next is more than loading.
  assert.match(
    ended.stderr,
    /ShmError: view memory: Deno does not allow.*\(EPERM\)[^]*bare --allow-ffi/,
  );
});

test("a connection that is refused names its flag", { skip, timeout: 60_000 }, async () => {
  const { connected } = documented();
  using dir = new TempDir();
  for (const [listen, ...args] of [[`unix:${dir.file("s")}`], ["127.0.0.1:0", "--no-auth"]]) {
    await using worker = await startWorker(listen!, dir.path, args);
    const ended = await runFixture("round_trip.ts", [dir.path, worker.address], {
      env: { LMSHM_LIBRARY: "" },
      denoPermissions: ["--no-prompt", ...connected.filter((word) => word !== "--allow-net")],
    });
    assert.notEqual(ended.code, 0, worker.address);
    assert.match(ended.stderr, /ShmError: connect to worker: .*\(EPERM\).*--allow-net/);
  }
});
