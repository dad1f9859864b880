// SPDX-License-Identifier: Apache-2.0
//
// How a ShmFileConnector is configured, and what it says about mistakes.

import assert from "node:assert/strict";
import { existsSync, mkdirSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { relative } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { createConfig } from "../src/config/config.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { locateWorker } from "../src/native/locate.ts";
import { nearest } from "../src/nearest.ts";
import { ShmFileConnector } from "../src/connector/shm_file_connector.ts";
import { optionsFromExtra, optionsFromUrl } from "../src/connector/shm_file_sources.ts";
import { uniqueName } from "./support/leaks.ts";
import { shmError } from "./support/assertions.ts";
import { eventually, startWorker, TempDir, withoutWorkers } from "./support/worker.ts";

type Options = Parameters<typeof ShmFileConnector.open>[0];

/** A test with a small named segment and a directory, and a check that nothing is left. */
function scene(name: string, body: (segment: ShmSegment, dir: TempDir) => Promise<void>): void {
  test(name, { timeout: 60_000 }, () =>
    withoutWorkers(async () => {
      using dir = new TempDir();
      await using segment = await ShmSegment.create({
        name: uniqueName("options"),
        sizeBytes: 65_536,
        pin: "none",
      });
      await body(segment, dir);
    }));
}

test("nearest() finds the name that was meant, and none for a stranger", () => {
  const known = ["storageDir", "workerAddress", "secret", "maxInFlight"];
  assert.equal(nearest("storageDri", known), "storageDir");
  assert.equal(nearest("storage_dir", known), "storageDir");
  assert.equal(nearest("STORAGEDIR", known), "storageDir");
  assert.equal(nearest("secrets", known), "secret");
  assert.equal(nearest("timeout", known), null);
  assert.equal(nearest("", known), null);
});

scene("calls name an option that there is not", async (segment, dir) => {
  await using connector = await ShmFileConnector.open({ segment, storageDir: dir.path });
  const range = segment.range(0, 10);
  const wrong = { timoutMs: 100 } as object;
  const named = /has no option "timoutMs"; did you mean "timeoutMs"/;
  await assert.rejects(connector.put("k", range, wrong), named);
  await assert.rejects(connector.get("k", range, wrong), named);
  await assert.rejects(
    connector.batchedPut(["k"], [range], wrong),
    /^TypeError: batchedPut has no/,
  );
  await assert.rejects(
    connector.batchedGet(["k"], [range], wrong),
    /^TypeError: batchedGet has no/,
  );
  await assert.rejects(connector.stat("k", wrong), named);
  assert.throws(() => connector.list({ ...wrong, prefix: "k" }), named);
  await assert.rejects(connector.listAll({ ...wrong, prefix: "k" }), named);
  await assert.rejects(connector.remove("k", wrong), named);
  await assert.rejects(
    connector.get("k", range, { metadata: { a: "1" } } as object),
    /get has no option "metadata"; it has signal, timeoutMs, priority/,
  );
  // As in a fetch(), null is no signal; anything else must be one.
  const noSignal = null as unknown as undefined;
  await connector.put("k", range, { signal: noSignal, timeoutMs: 10_000.5 });
  const noneAtAll = { aborted: false } as AbortSignal;
  await assert.rejects(connector.put("k", range, { signal: noneAtAll }), /must be an AbortSignal/);
  await connector.put("k", range, { metadata: { a: "1" }, timeoutMs: 10_000, priority: "high" });
  assert.equal(connector.stats.inFlight, 0);
});

scene("open() names a misspelled option and the nearest one", async (segment, dir) => {
  const open = (options: Record<string, unknown>) =>
    ShmFileConnector.open({ segment, storageDir: dir.path, ...options } as unknown as Options);
  await assert.rejects(
    open({ workerAdress: "x" }),
    /no option "workerAdress"; did you mean "workerAddress"/,
  );
  await assert.rejects(open({ colour: "x" }), /no option "colour"; it has segment, storageDir/);
  const wrong: [Record<string, unknown>, RegExp][] = [
    [{ segment: undefined }, /segment must be a ShmSegment, got undefined/],
    [{ segment: { name: "/kv" } }, /segment must be a ShmSegment/],
    [{ storageDir: undefined }, /storageDir must be a path/],
    [{ storageDir: "" }, /storageDir "" is empty/],
    [{ storageDir: "/a\nb" }, /control character/],
    [{ workerBinary: 7 }, /workerBinary must be a path, got 7/],
    [{ workerArgs: "--log-level info" }, /workerArgs must be an array/],
    [{ workerAddress: "nowhere" }, /"host:port"/],
    [{ workerAddress: 9800 }, /must be a string/],
    [{ maxInFlight: 0 }, /maxInFlight must be an integer from 1/],
    [{ maxInFlightBytes: 1.5 }, /maxInFlightBytes/],
    [{ ioTimeoutMs: -1 }, /ioTimeoutMs/],
    [{ ioTimeoutMs: 2 ** 31 }, /ioTimeoutMs/],
    [{ closeTimeoutMs: "5" }, /closeTimeoutMs must be a number/],
    [{ maxRestarts: -1 }, /maxRestarts/],
    [{ onLog: "stderr" }, /onLog must be a function/],
    [{ maxBytes: 4095 }, /maxBytes must be an integer from 4096/],
    [{ ioMode: "fast" }, /ioMode must be one of "auto", "direct", "cached", got "fast"/],
    [{ durability: true }, /durability must be one of "none", "data", "full", got true/],
    [{ checksum: "crc32c" }, /checksum must be a boolean/],
    [{ secret: "0123456789abcdef" }, /secret is for a worker at "host:port"/],
    [{ workerAddress: "/w", secretFile: "/s" }, /checks the user instead/],
    [{ workerAddress: "h:1", secret: "short" }, /16 to 1,024/],
    [{ workerAddress: "h:1", secret: "0123456789abcdef", secretFile: "/s" }, /exclude each other/],
    [{ workerAddress: "h:1", workerBinary: "/w" }, /workerBinary is for a worker that is started/],
  ];
  for (const [options, pattern] of wrong) {
    await assert.rejects(open(options), (error: unknown) => {
      assert.ok(error instanceof TypeError || error instanceof RangeError, String(error));
      assert.match(error.message, pattern);
      return true;
    }, JSON.stringify(options));
  }
  await assert.rejects(
    open({ workerAddress: "h:1", secretFile: dir.file("none") }),
    shmError("ENOENT", /read secretFile/),
  );
  await assert.rejects(ShmFileConnector.open(null as unknown as Options), TypeError);
});

scene("open() creates the directory for its user alone", async (segment, dir) => {
  const storageDir = dir.file("a/b c/store");
  await using connector = await ShmFileConnector.open({ segment, storageDir });
  assert.equal(connector.storageDir, storageDir);
  assert.equal(statSync(storageDir).mode & 0o777, 0o700);
  assert.equal(statSync(dir.file("a")).mode & 0o777, 0o700);
  await connector.put("k", segment.range(0, 10));
  assert.equal(statSync(`${storageDir}/k.data`).mode & 0o777, 0o600);
});

scene("open() takes a relative directory, and a symbolic link to one", async (segment, dir) => {
  mkdirSync(dir.file("real"));
  symlinkSync(dir.file("real"), dir.file("link"));
  const storageDir = relative(process.cwd(), dir.file("link"));
  await using connector = await ShmFileConnector.open({ segment, storageDir });
  assert.equal(connector.storageDir, dir.file("link"));
  await connector.put("k", segment.range(0, 10));
  assert.ok(existsSync(dir.file("real/k.data")));
});

scene("open() says when the directory cannot be one", async (segment, dir) => {
  writeFileSync(dir.file("file"), "x");
  for (const storageDir of [dir.file("file"), dir.file("file/below")]) {
    await assert.rejects(
      ShmFileConnector.open({ segment, storageDir }),
      shmError("ENOTDIR", /file is no directory|not a directory/),
    );
  }
});

scene("open() tells where it looked for a worker", async (segment, dir) => {
  const options = { segment, storageDir: dir.path, workerBinary: dir.file("no-worker") };
  await assert.rejects(
    ShmFileConnector.open(options),
    shmError("ENOENT", /no-worker \(given by the caller\)/),
  );
});

scene("open() refuses a segment that was freed", async (segment, dir) => {
  await using anonymous = await ShmSegment.create({ sizeBytes: 4096, pin: "none" });
  for (const freed of [segment, anonymous]) {
    await freed.free();
    await assert.rejects(
      ShmFileConnector.open({ segment: freed, storageDir: dir.path }),
      shmError("EBADF", /segment (\/\S+|\(anonymous\)) was freed/),
    );
  }
});

scene("open() needs a named segment for a running worker", async (_segment, dir) => {
  await using anonymous = await ShmSegment.create({ sizeBytes: 4096, pin: "none" });
  await assert.rejects(
    ShmFileConnector.open({ segment: anonymous, storageDir: dir.path, workerAddress: "/w" }),
    /create the segment with a name/,
  );
});

scene("workerArgs and onLog reach the worker that is started", async (segment, dir) => {
  const log: string[] = [];
  await using connector = await ShmFileConnector.open({
    segment,
    storageDir: dir.path,
    workerArgs: ["--log-level", "debug"],
    onLog: (line) => log.push(line),
  });
  await connector.ping();
  // The log has a pipe of its own, and may be later than the answer.
  await eventually("the log says ATTACH", () => log.some((line) => line.includes("ATTACH")));
  await assert.rejects(
    ShmFileConnector.open({ segment, storageDir: dir.path, workerArgs: ["--no-such-thing"] }),
    shmError("EWORKER", /exited with status 2.*no-such-thing/),
  );
});

scene(
  "a TCP worker's secret comes from the option, the file or the environment",
  async (segment, dir) => {
    const secret = "correct-horse-battery-staple";
    const storageDir = dir.file("store");
    mkdirSync(storageDir);
    const before = process.env["LMSHM_SECRET"];
    await using worker = await startWorker("127.0.0.1:0", storageDir, [], { LMSHM_SECRET: secret });
    const options = { segment, storageDir, workerAddress: worker.address };
    const works = async (more: Partial<Options>) => {
      await using connector = await ShmFileConnector.open({ ...options, ...more });
      await connector.put("k", segment.range(0, 10));
    };
    try {
      delete process.env["LMSHM_SECRET"];
      await works({ secret });
      writeFileSync(dir.file("secret"), `${secret}\r\n`);
      await works({ secretFile: dir.file("secret") });
      await assert.rejects(works({}), shmError("EACCES", /LMSHM_SECRET/));
      await assert.rejects(works({ secret: "wrong-secret-of-right-length" }), (error: unknown) => {
        assert.ok(!(error as Error).message.includes("wrong-secret-of"));
        return shmError("EACCES", /must be what the worker was started with/)(error);
      });
      process.env["LMSHM_SECRET"] = secret;
      await works({});
    } finally {
      if (before === undefined) delete process.env["LMSHM_SECRET"];
      else process.env["LMSHM_SECRET"] = before;
    }
  },
);

/** What was said: the options that are not undefined. */
function said(named: ReturnType<typeof optionsFromUrl>): Record<string, unknown> {
  const options = Object.entries(named.options).filter(([, value]) => value !== undefined);
  return { ...Object.fromEntries(options), shmName: named.shmName };
}

test("optionsFromUrl() understands LMCache's URLs and ours", () => {
  assert.deepEqual(said(optionsFromUrl("shmfile:///data/kv?shm_name=/kv&worker_bin=/opt/w")), {
    storageDir: "/data/kv",
    workerBinary: "/opt/w",
    shmName: "/kv",
  });
  assert.deepEqual(said(optionsFromUrl("shmfile://127.0.0.1:9800/data/a%20b?shm_name=kv")), {
    storageDir: "/data/a b",
    workerAddress: "127.0.0.1:9800",
    shmName: "/kv",
  });
  assert.deepEqual(optionsFromUrl("shmfile://[::1]:9800/d").options.workerAddress, "[::1]:9800");
  assert.deepEqual(said(optionsFromUrl("shmfile:///d?worker_addr=unix:/run/w.sock")), {
    storageDir: "/d",
    workerAddress: "unix:/run/w.sock",
    shmName: null,
  });
});

test("optionsFromUrl() names what is wrong with a URL", () => {
  const wrong: [string, RegExp][] = [
    ["", /is no URL/],
    ["/data/kv", /is no URL/],
    ["shmfile:/data", /is no URL/],
    ["shmfile://host/data", /has "host" where the host:port/],
    ["shmfile://127.0.0.1:9800", /names no directory/],
    ["shmfile:///", /names no directory/],
    ["shmfile:///d?shmname=/kv", /did you mean "shm_name"/],
    ["shmfile:///d?colour=red", /unknown parameter "colour"/],
    ["shmfile:///d?shm_name=/a&shm_name=/b", /more than once/],
    ["shmfile://u:p@h:1/d", /has "u:p@h:1" where the host:port/],
    ["shmfile://u@h:1/d", /has "u@h:1" where the host:port/],
    ["shmfile:///d#x", /fragment/],
    ["shmfile:///d%zz", /percent-encoding/],
    ["shmfile://h:1/d?worker_addr=/w", /both a host and worker_addr/],
  ];
  for (const [url, pattern] of wrong) assert.throws(() => optionsFromUrl(url), pattern, url);
  assert.throws(() => optionsFromUrl(null as unknown as string), TypeError);
});

test("optionsFromExtra() takes LMCache's keys, and passes over those of its other parts", () => {
  assert.deepEqual(
    said(optionsFromExtra({
      "shmfs.storage_dir": "/data/kv",
      "shmfs.worker_binary": "/opt/w",
      "shmfs.shm_name": "/kv",
      "shm_name": "/kv",
      "save_chunk_meta": false,
      "lookup_backoff_time": 0.01,
    })),
    { storageDir: "/data/kv", workerBinary: "/opt/w", shmName: "/kv" },
  );
  assert.deepEqual(
    said(optionsFromExtra({
      "shmfs.storage_dir": "/d",
      "shmfs.worker_addr": "127.0.0.1:9800",
      "shmfs.worker_binary": "/opt/w",
      "shmfs.shm_name": null,
      "shm_name": "kv",
      "lmshm.worker_secret_file": "/s",
      "lmshm.fsync": "full",
      "lmshm.io_mode": "direct",
      "lmshm.checksum": false,
    })),
    {
      storageDir: "/d",
      workerAddress: "127.0.0.1:9800",
      secretFile: "/s",
      durability: "full",
      ioMode: "direct",
      checksum: false,
      shmName: "/kv",
    },
  );
});

test("optionsFromExtra() names a misspelled key, a missing one and a wrong value", () => {
  const good = { "shmfs.storage_dir": "/d" };
  const wrong: [Record<string, unknown>, RegExp][] = [
    [{}, /no shmfs\.storage_dir/],
    [{ "shmfs.storage_dri": "/d" }, /did you mean shmfs\.storage_dir/],
    [{ ...good, "shmfs.colour": "red" }, /extra_config's shmfs\.colour is no key/],
    [{ ...good, "shm_nam": "/kv" }, /did you mean shm_name/],
    [{ ...good, "shmsf.worker_addr": "/w" }, /did you mean shmfs\.worker_addr/],
    [{ "shmfs.storage_dir": 7 }, /shmfs\.storage_dir is 7; accepted is a path/],
    [{ ...good, "lmshm.fsync": "maybe" }, /lmshm\.fsync is "maybe"; accepted is true/],
  ];
  for (const [extra, pattern] of wrong) {
    assert.throws(() => optionsFromExtra(extra), pattern, JSON.stringify(extra));
  }
  assert.throws(
    () => optionsFromExtra(null as unknown as Record<string, unknown>),
    shmError("ECONFIG", /accepted is an object/),
  );
});

scene(
  "fromConfig() opens what a URL, an extra_config or a configuration describes",
  async (segment, dir) => {
    const storageDir = dir.file("my store");
    const name = segment.name!;
    const binary = locateWorker();
    const url = `shmfile://${encodeURI(storageDir)}?shm_name=${name}&worker_bin=${
      encodeURI(binary)
    }`;
    {
      await using connector = await ShmFileConnector.fromConfig(url, { segment });
      assert.equal(connector.storageDir, storageDir);
      await connector.put("k", segment.range(0, 10));
    }
    await using worker = await startWorker(dir.file("w.sock"), storageDir);
    const extra = {
      "shmfs.storage_dir": storageDir,
      "shmfs.worker_addr": worker.address,
      "shm_name": name.slice(1),
    };
    await using connector = await ShmFileConnector.fromConfig(extra, { segment });
    assert.equal(connector.transport, "unix");
    assert.equal(await connector.exists("k"), true);
    const config = createConfig({ storageDir, workerAddress: worker.address });
    await using other = await ShmFileConnector.fromConfig(config, { segment });
    assert.equal(other.transport, "unix");
    await assert.rejects(
      ShmFileConnector.fromConfig(7 as unknown as string, { segment }),
      /takes a configuration or a URL, got 7/,
    );
    await assert.rejects(
      ShmFileConnector.fromConfig({ ...extra, "shm_name": "/other" }, { segment }),
      /shm_name is "\/other", but the segment is "\/lmshm-test-options/,
    );
    await assert.rejects(
      ShmFileConnector.fromConfig(`shmfile://${encodeURI(storageDir)}?shm_name=/other`, {
        segment,
      }),
      RangeError,
    );
  },
);
