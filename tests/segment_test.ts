// SPDX-License-Identifier: Apache-2.0
//
// ShmSegment: creating, attaching, naming, freeing, and what is refused.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  cpSync,
  readdirSync,
  readFileSync,
  statfsSync,
  statSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { test } from "node:test";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { ShmError } from "../src/errors.ts";
import { ShmSegment } from "../src/memory/segment.ts";
import { LONG } from "./support/effort.ts";
import { uniqueName, withoutLeaks } from "./support/leaks.ts";
import { fixtureCommand, runFixture } from "./support/process.ts";
import { TempDir } from "./support/worker.ts";

const MIB = 2 ** 20;

/** A test with a leak check around it. */
function segmentTest(name: string, body: () => void | Promise<void>): void {
  test(name, { timeout: 60_000 }, () => withoutLeaks(body));
}

function failure(code: string): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof ShmError, `a ShmError, not ${error}`);
    assert.equal(error.code, code, error.message);
    return true;
  };
}

/** Starts fixtures/owner.ts and waits until its segment is there. */
async function startOwner(name: string, sizeBytes: number, how: string) {
  const [command, line] = fixtureCommand("owner.ts", name, String(sizeBytes), how);
  const child = spawn(command, line, { stdio: ["ignore", "pipe", "ignore"] });
  const exited = once(child, "exit");
  await once(child.stdout, "data");
  return { child, exited };
}

segmentTest("transparent huge pages that do not come are told", async () => {
  const sizes = { small: 65_536, large: 4 * MIB };
  for (const [name, sizeBytes] of Object.entries(sizes)) {
    const options = {
      name: uniqueName(name),
      sizeBytes,
      pages: "transparent",
      pin: "none",
    } as const;
    await using segment = await ShmSegment.create(options);
    const { hugeBytes, message } = segment.facts;
    assert.equal(/huge pages/.test(message), hugeBytes === 0, message);
  }
});

segmentTest("create() makes zeroed memory that another mapping sees", async () => {
  const name = uniqueName("share");
  await using owner = await ShmSegment.create({ name, sizeBytes: 3 * MIB + 17 });
  assert.equal(owner.sizeBytes, 3 * MIB + 17);
  assert.equal(owner.name, `/${name}`);
  assert.ok(owner.bytes().every((byte) => byte === 0));
  await using other = await ShmSegment.attach({ name: `/${name}` });
  assert.equal(other.sizeBytes, owner.sizeBytes);
  owner.bytes()[3 * MIB + 16] = 201;
  assert.equal(other.bytes()[3 * MIB + 16], 201);
});

segmentTest("create() gives the file its exact size, 0600 and the owner's mark", () => {
  const name = uniqueName("mode");
  using segment = ShmSegment.createSync({ name, sizeBytes: 12_345 });
  const found = statSync(`/dev/shm/${name}`);
  assert.equal(found.size, 12_345);
  assert.equal(found.mode & 0o777, 0o600);
  assert.equal(found.mode & 0o7000, 0o1000);
  assert.equal(segment.facts.mappedBytes, 16_384);
});

segmentTest("create() refuses a live name and leaves it alone", () => {
  const name = uniqueName("live");
  using owner = ShmSegment.createSync({ name, sizeBytes: 4096 });
  owner.bytes()[0] = 9;
  for (const ifExists of ["reclaim", "fail", "replace"] as const) {
    assert.throws(
      () => ShmSegment.createSync({ name, sizeBytes: 4096, ifExists }),
      failure("EEXIST"),
    );
  }
  assert.equal(ShmSegment.nameState(name), "live");
  using again = ShmSegment.attachSync({ name });
  assert.equal(again.bytes()[0], 9);
});

segmentTest("create() reclaims what a killed owner left", async () => {
  const name = uniqueName("killed");
  const { child, exited } = await startOwner(name, MIB, "wait");
  assert.equal(ShmSegment.nameState(name), "live");
  assert.throws(() => ShmSegment.createSync({ name, sizeBytes: 4096 }), failure("EEXIST"));
  child.kill("SIGKILL");
  await exited;
  assert.equal(ShmSegment.nameState(name), "dead");
  assert.throws(
    () => ShmSegment.createSync({ name, sizeBytes: 4096, ifExists: "fail" }),
    failure("EEXIST"),
  );
  await using heir = await ShmSegment.create({ name, sizeBytes: 2 * MIB });
  assert.equal(heir.facts.reclaimed, true);
  assert.equal(heir.bytes(0, 1)[0], 0, "nothing of the dead owner's data");
});

segmentTest("reclaimDead() removes what killed owners left and nothing else", async () => {
  const [dead, live] = [uniqueName("dead"), uniqueName("alive")];
  using owner = ShmSegment.createSync({ name: live, sizeBytes: 4096 });
  const { child, exited } = await startOwner(dead, MIB, "wait");
  child.kill("SIGKILL");
  await exited;
  assert.ok(ShmSegment.reclaimDead().includes(`/${dead}`));
  assert.equal(ShmSegment.nameState(dead), "free");
  assert.equal(ShmSegment.nameState(live), "live");
  assert.equal(owner.closed, false);
});

segmentTest("a process that exits without free() leaves no name", async () => {
  const name = uniqueName("exits");
  const ended = await runFixture("owner.ts", [name, String(MIB), "exit"]);
  assert.equal(ended.code, 0, ended.stderr);
  assert.equal(ShmSegment.nameState(name), "free");
});

segmentTest("a stranger's segment is replaced only when asked", () => {
  const name = uniqueName("stranger");
  writeFileSync(`/dev/shm/${name}`, "made by somebody else", { mode: 0o600 });
  try {
    assert.equal(ShmSegment.nameState(name), "foreign");
    assert.throws(() => ShmSegment.createSync({ name, sizeBytes: 4096 }), failure("EEXIST"));
    assert.equal(readFileSync(`/dev/shm/${name}`, "utf8"), "made by somebody else");
    {
      using attached = ShmSegment.attachSync({ name });
      assert.equal(new TextDecoder().decode(attached.bytes()), "made by somebody else");
    }
    assert.equal(ShmSegment.nameState(name), "foreign", "detaching leaves it");
    using taken = ShmSegment.createSync({ name, sizeBytes: 4096, ifExists: "replace" });
    assert.equal(taken.facts.replaced, true);
  } finally {
    try {
      unlinkSync(`/dev/shm/${name}`);
    } catch {
      // It was replaced and freed, as it should be.
    }
  }
});

segmentTest("free() does not unlink a name that is no longer its own", () => {
  const name = uniqueName("renamed");
  const segment = ShmSegment.createSync({ name, sizeBytes: 4096 });
  unlinkSync(`/dev/shm/${name}`);
  writeFileSync(`/dev/shm/${name}`, "next");
  segment.freeSync();
  assert.equal(readFileSync(`/dev/shm/${name}`, "utf8"), "next");
  unlinkSync(`/dev/shm/${name}`);
});

segmentTest("create() answers ENOSPC at once, with both sizes", async () => {
  const name = uniqueName("space");
  const { bavail, bsize } = statfsSync("/dev/shm");
  const sizeBytes = Number(bavail) * Number(bsize) + 2 ** 30;
  await assert.rejects(ShmSegment.create({ name, sizeBytes }), (error) => {
    failure("ENOSPC")(error);
    const { details, message } = error as ShmError;
    assert.equal(details.requestedBytes, sizeBytes);
    assert.ok(Number(details.availableBytes) > 0);
    assert.match(message, new RegExp(`${sizeBytes}.*shm-size`));
    return true;
  });
});

segmentTest("an anonymous segment larger than memory is refused, not killed", async () => {
  await assert.rejects(ShmSegment.create({ sizeBytes: 2 ** 45 }), (error) => {
    assert.ok(error instanceof ShmError);
    assert.match(error.code, /ENOMEM|ENOSPC/);
    return true;
  });
});

segmentTest("an anonymous segment has a descriptor and no name", async () => {
  await using segment = await ShmSegment.create({ sizeBytes: 5000 });
  assert.equal(segment.name, null);
  assert.equal(typeof segment.fd, "number");
  assert.equal(statSync(`/proc/self/fd/${segment.fd}`).size, 5000);
  segment.bytes()[4999] = 3;
  assert.equal(readFileSync(`/proc/self/fd/${segment.fd}`)[4999], 3);
});

segmentTest("a segment says which file it is, and hands it over", () => {
  const name = uniqueName("which");
  const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").replace(/[-\n]/g, "");
  const identityOf = (path: string) => {
    const { dev, ino } = statSync(path, { bigint: true });
    return `${boot}:${dev}:${ino}`;
  };
  const owner = ShmSegment.createSync({ name, sizeBytes: 5000, pin: "none" });
  assert.equal(owner.identity, identityOf(`/dev/shm/${name}`));
  const guest = ShmSegment.attachSync({ name, pin: "none" });
  using anonymous = ShmSegment.createSync({ sizeBytes: 5000, pin: "none" });
  for (const segment of [owner, guest, anonymous]) {
    assert.equal(segment.identity, identityOf(`/proc/self/fd/${segment.fd}`));
  }
  assert.equal(guest.identity, owner.identity);
  assert.notEqual(anonymous.identity, owner.identity);
  // What one attached stays as it is when he lets go of it.
  owner.bytes().fill(5);
  guest.freeSync();
  assert.ok(owner.bytes().every((byte) => byte === 5));

  const old = owner.identity;
  unlinkSync(`/dev/shm/${name}`);
  using anew = ShmSegment.createSync({ name, sizeBytes: 5000, pin: "none" });
  assert.notEqual(anew.identity, old);
  assert.equal(owner.identity, old);
  owner.freeSync();
  assert.equal(ShmSegment.nameState(name), "live");
});

/** A segment as Python would make it, full of 0x5a. */
function makeStrangers(name: string): string {
  const path = `/dev/shm/${name}`;
  writeFileSync(path, new Uint8Array(MIB).fill(0x5a), { mode: 0o600 });
  return path;
}

function isWhole(path: string): boolean {
  const bytes = readFileSync(path);
  return bytes.length === MIB && bytes.every((byte) => byte === 0x5a);
}

function temporaries(): string[] {
  return readdirSync("/dev/shm").filter((name) => name.startsWith(".lmshm-new-"));
}

segmentTest("a stranger's segment is replaced when the new one is complete", async () => {
  const name = uniqueName("complete");
  const path = makeStrangers(name);
  const others = temporaries();
  const seen: ("theirs" | number)[] = [];
  const options = { name, sizeBytes: 64 * MIB, ifExists: "replace", pin: "none" } as const;
  const segment = await ShmSegment.create({
    ...options,
    // It may have been replaced since it was looked how far things are.
    onProgress: () => void seen.push(isWhole(path) ? "theirs" : statSync(path).size),
  });
  assert.equal(seen[0], "theirs");
  assert.ok(seen.every((what) => what === "theirs" || what === 64 * MIB), `${seen}`);
  assert.equal(segment.facts.replaced, true);
  assert.equal(segment.facts.owner, true);
  assert.equal(statSync(path).size, 64 * MIB);
  assert.equal(statSync(path).nlink, 1);
  assert.equal(ShmSegment.nameState(name), "live");
  assert.deepEqual(temporaries(), others);
  await segment.free();
  assert.equal(ShmSegment.nameState(name), "free");
});

segmentTest("a stranger's segment survives a creation that does not succeed", async () => {
  const name = uniqueName("survives");
  const path = makeStrangers(name);
  const others = temporaries();
  const options = { name, sizeBytes: 64 * MIB, ifExists: "replace", pin: "none" } as const;
  const reason = new Error("enough");
  await assert.rejects(
    ShmSegment.create({
      ...options,
      onProgress: () => {
        throw reason;
      },
    }),
    (error) => error === reason,
  );
  assert.ok(isWhole(path), "cancelled");
  const { bavail, bsize } = statfsSync("/dev/shm");
  for (const sizeBytes of [bavail * bsize + MIB, bavail * bsize + MIB / 2]) {
    await assert.rejects(ShmSegment.create({ ...options, sizeBytes }), failure("ENOSPC"));
    assert.ok(isWhole(path), "no space");
  }
  assert.deepEqual(temporaries(), others);
  unlinkSync(path);
});

segmentTest("a creator that is killed leaves the stranger's segment, and a dead one", async () => {
  const name = uniqueName("killed");
  const path = makeStrangers(name);
  for (const collect of [true, false]) {
    const ended = await runFixture("replacer.ts", [name]);
    assert.equal(ended.signal, "SIGKILL", ended.stderr);
    assert.ok(isWhole(path));
    assert.equal(ShmSegment.nameState(name), "foreign");
    const [temporary, ...more] = temporaries();
    assert.deepEqual(more, []);
    if (collect) assert.ok(ShmSegment.reclaimDead().includes(`/${temporary}`));
  }
  // The next one finds what the last one left.
  using segment = ShmSegment.createSync({ name, sizeBytes: MIB, ifExists: "replace", pin: "none" });
  assert.equal(segment.facts.replaced, true);
  assert.deepEqual(temporaries(), []);
});

segmentTest("attach() refuses what is not there and what is too small", () => {
  const name = uniqueName("small");
  assert.throws(() => ShmSegment.attachSync({ name }), failure("ENOENT"));
  using _owner = ShmSegment.createSync({ name, sizeBytes: 4096 });
  assert.throws(() => ShmSegment.attachSync({ name, sizeBytes: 4097 }), failure("ERANGE"));
  using part = ShmSegment.attachSync({ name, sizeBytes: 100 });
  assert.equal(part.sizeBytes, 100);
});

segmentTest("bytes() is revoked by free()", async () => {
  const segment = ShmSegment.createSync({ sizeBytes: MIB });
  const all = segment.bytes();
  const part = segment.bytes(4096, 10);
  assert.equal(segment.bytes(4096, 10), part, "the same range gives the same array");
  all[4096] = 5;
  assert.equal(part[0], 5);
  await segment.free();
  for (const view of [all, part]) {
    assert.equal(view.length, 0);
    assert.equal(view[0], undefined);
    assert.equal(view.buffer.detached, true);
  }
  assert.throws(() => segment.bytes(), failure("EBADF"));
  assert.throws(() => segment.range(0, 1), failure("EBADF"));
});

segmentTest("view().revoke() takes back one view and reports one that escaped", () => {
  using segment = ShmSegment.createSync({ sizeBytes: MIB });
  const one = segment.view(0, 4096);
  const other = segment.view(0, 4096);
  assert.equal(one.revoke(), true);
  assert.equal(one.revoke(), true);
  assert.equal(one.bytes.length, 0);
  assert.equal(other.bytes.length, 4096);
  const escaped = other.bytes.buffer.transfer();
  assert.equal(other.valid, false);
  assert.equal(other.revoke(), false);
  segment.bytes()[0] = 77;
  segment.freeSync();
  assert.equal(new Uint8Array(escaped)[0], 0, "a stale window reads zeros");
});

segmentTest("an empty view is empty", () => {
  using segment = ShmSegment.createSync({ sizeBytes: 4096 });
  assert.equal(segment.bytes(4096, 0).length, 0);
  assert.equal(segment.view(0, 0).bytes.length, 0);
});

segmentTest("free() refuses while I/O is in flight", async () => {
  const segment = ShmSegment.createSync({ sizeBytes: MIB });
  const release = segment.range(0, 4096).hold("put chunk-7");
  const view = segment.bytes();
  await assert.rejects(segment.free(), (error) => {
    failure("EBUSY")(error);
    assert.match((error as Error).message, /put chunk-7/);
    return true;
  });
  assert.throws(() => segment.freeSync(), failure("EBUSY"));
  assert.equal(view.length, MIB, "nothing has happened");
  release();
  release();
  await segment.free();
  await segment.free();
  segment.freeSync();
});

segmentTest("freeSync() while free() goes on returns when the memory is gone", async () => {
  const name = uniqueName("both");
  const segment = await ShmSegment.create({ name, sizeBytes: 256 * MIB, pin: "none" });
  const isMapped = () => readFileSync("/proc/self/maps", "utf8").includes(`/${name}`);
  assert.ok(isMapped());
  const freeing = segment.free();
  segment.freeSync();
  assert.ok(!isMapped());
  await freeing;
  segment.freeSync();
});

segmentTest("create() ends by timeoutMs and leaves nothing", async () => {
  const name = uniqueName("limit");
  await assert.rejects(
    ShmSegment.create({
      ...{ name, sizeBytes: 512 * MIB, pin: "none", populateThreads: 1, timeoutMs: 5 },
      // Slow enough for any machine: the limit is noticed between two calls.
      onProgress: () => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10),
    }),
    failure("ETIMEDOUT"),
  );
  assert.equal(ShmSegment.nameState(name), "free");
});

segmentTest("create() can be cancelled and leaves nothing", async () => {
  const name = uniqueName("cancel");
  const controller = new AbortController();
  const opening = ShmSegment.create({
    name,
    sizeBytes: 512 * MIB,
    pin: "none",
    signal: controller.signal,
    onProgress: () => controller.abort(new Error("enough")),
  });
  await assert.rejects(opening, /enough/);
  assert.equal(ShmSegment.nameState(name), "free");
  await assert.rejects(
    ShmSegment.create({ name, sizeBytes: 4096, signal: AbortSignal.abort(new Error("early")) }),
    /early/,
  );
});

segmentTest("create() reports progress", async () => {
  const seen: number[] = [];
  await using segment = await ShmSegment.create({
    sizeBytes: 256 * MIB,
    pin: "none",
    onProgress: (populatedBytes, sizeBytes) => {
      assert.equal(sizeBytes, 256 * MIB);
      seen.push(populatedBytes);
    },
  });
  assert.equal(segment.sizeBytes, 256 * MIB);
  assert.ok(seen.length > 1);
  assert.ok(seen.every((bytes) => bytes >= 0 && bytes <= 256 * MIB));
});

segmentTest("the event loop turns while a large segment is made and freed", async () => {
  let turns = 0;
  const timer = setInterval(() => turns++, 1);
  const segment = await ShmSegment.create({ sizeBytes: 512 * MIB, pin: "none" });
  const made = turns;
  await segment.free();
  clearInterval(timer);
  assert.ok(made > 5, `${made} turns while making`);
  assert.ok(turns > made, `${turns - made} turns while freeing`);
});

segmentTest("two creators of one name: exactly one wins", async () => {
  const name = uniqueName("race");
  for (let round = 0; round < 20; round++) {
    const both = await Promise.allSettled(
      [1, 2, 3].map(() => ShmSegment.create({ name, sizeBytes: MIB, pin: "none" })),
    );
    const winners = both.filter((one) => one.status === "fulfilled");
    assert.equal(winners.length, 1);
    for (const one of both) {
      if (one.status === "rejected") failure("EEXIST")(one.reason);
      else await one.value.free();
    }
  }
});

segmentTest("wrong arguments are TypeError or RangeError, and name the value", () => {
  const create = (options: Record<string, unknown>) => () =>
    ShmSegment.createSync({ sizeBytes: 4096, ...options } as { sizeBytes: number });
  assert.throws(create({ sizeBytes: 0 }), /RangeError|sizeBytes.*got 0/);
  assert.throws(create({ sizeBytes: -1 }), RangeError);
  assert.throws(create({ sizeBytes: 1 << 31 }), /RangeError.*got -2147483648.*2 \*\* 31/);
  assert.throws(create({ sizeBytes: 1.5 }), RangeError);
  assert.throws(create({ sizeBytes: NaN }), RangeError);
  assert.throws(create({ sizeBytes: "4096" }), TypeError);
  assert.throws(create({ name: "a/b" }), RangeError);
  assert.throws(create({ name: "/.." }), RangeError);
  assert.throws(create({ name: "" }), RangeError);
  assert.throws(create({ name: "x".repeat(255) }), RangeError);
  assert.throws(create({ name: "nul\0" }), RangeError);
  assert.throws(create({ pin: "maybe" }), /"auto", "require", "none"/);
  assert.throws(create({ nmae: "x" }), /no option "nmae"/);
  assert.throws(create({ name: uniqueName("huge"), pages: "2M" }), /anonymous/);
  using segment = ShmSegment.createSync({ sizeBytes: 4096 });
  assert.throws(() => segment.bytes(-1, 1), RangeError);
  assert.throws(() => segment.bytes(4096, 1), RangeError);
  assert.throws(() => segment.bytes(1, 4096), RangeError);
  assert.throws(() => segment.bytes(0.5, 1), RangeError);
});

segmentTest("pin none is none, pin auto says what it did", () => {
  using plain = ShmSegment.createSync({ sizeBytes: 4096, pin: "none" });
  assert.equal(plain.pinnedBy, "none");
  using tried = ShmSegment.createSync({ sizeBytes: 4096, pin: "auto" });
  assert.ok(["cuda", "cuda-driver", "hip", "mlock", "none"].includes(tried.pinnedBy));
  if (tried.pinnedBy === "none" || tried.pinnedBy === "mlock") {
    assert.notEqual(tried.facts.message, "", "why it is not pinned for a GPU");
  }
});

const BEYOND = 4 * 2 ** 30 + MIB;

segmentTest("views reach beyond 4 GiB", async () => {
  const name = uniqueName("beyond");
  // With as little memory behind it as is looked at.
  writeFileSync(`/dev/shm/${name}`, "");
  truncateSync(`/dev/shm/${name}`, BEYOND);
  try {
    await using segment = await ShmSegment.attach({ name, pin: "none" });
    assert.equal(segment.sizeBytes, BEYOND);
    segment.bytes(BEYOND - 4096, 4096).fill(42);
    await using other = await ShmSegment.attach({ name, pin: "none" });
    assert.equal(other.bytes(BEYOND - 1, 1)[0], 42);
    assert.equal(other.bytes(0, 1)[0], 0);
  } finally {
    unlinkSync(`/dev/shm/${name}`);
  }
});

function whyNotBeyond(): string | false {
  if (!LONG) return "takes 4 GiB of memory: LMSHM_LONG_TESTS=true";
  const { bavail, bsize } = statfsSync("/dev/shm");
  const meminfo = readFileSync("/proc/meminfo", "utf8");
  const available = Number(/MemAvailable:\s+(\d+)/.exec(meminfo)![1]) * 1024;
  // Another suite may do the same at the same time.
  const enough = bavail * bsize > 2 * BEYOND && available > 3 * BEYOND;
  return enough ? false : "there is not that much memory";
}

test("create() makes segments of more than 4 GiB", {
  timeout: 120_000,
  skip: whyNotBeyond(),
}, async () => {
  const name = uniqueName("created");
  await using segment = await ShmSegment.create({ name, sizeBytes: BEYOND, pin: "none" });
  segment.bytes(BEYOND - 4096, 4096).fill(42);
  await using other = await ShmSegment.attach({ name, pin: "none" });
  assert.equal(other.bytes(BEYOND - 1, 1)[0], 42);
});

test("where the library is not built the error says where it was looked for", async () => {
  using dir = new TempDir();
  for (const part of ["src", "tests/fixtures", "deno.json", "package.json", "tsconfig.json"]) {
    const from = fileURLToPath(new URL(`../${part}`, import.meta.url));
    cpSync(from, dir.file(part), { recursive: true });
  }
  const ended = await runFixture("library.ts", [], { env: { LMSHM_LIBRARY: "" }, tree: dir.path });
  assert.notEqual(ended.code, 0);
  assert.match(ended.stderr, /no usable liblmshm\.so/);
  assert.ok(ended.stderr.includes(dir.path), ended.stderr);
  assert.match(ended.stderr, /npm run build/);
});

test("a library that is named is used or refused", async () => {
  const absent = await runFixture("library.ts", [], {
    env: { LMSHM_LIBRARY: "/nonexistent/liblmshm.so" },
  });
  assert.notEqual(absent.code, 0);
  assert.match(absent.stderr, /tried \/nonexistent\/liblmshm\.so \(from LMSHM_LIBRARY\)/);
  const other = await runFixture("library.ts", [], { env: { LMSHM_LIBRARY: process.execPath } });
  assert.notEqual(other.code, 0);
  assert.match(other.stderr, /ELIBBAD/);
});

/** Runs "$@" with the devices that programs want, and without /dev/shm. */
const NO_SHM = [
  ...["unshare", "-m", "--propagation", "private", "--", "sh", "-c"],
  "mount -t tmpfs tmpfs /mnt && for d in null zero full random urandom tty; do " +
  "touch /mnt/$d && mount --bind /dev/$d /mnt/$d || exit 1; done; " +
  'ln -s /proc/self/fd /mnt/fd && mount --rbind /mnt /dev && exec "$@"',
  "sh",
];
const mayLackShm = spawnSync(NO_SHM[0]!, [...NO_SHM.slice(1), "test", "!", "-e", "/dev/shm"])
  .status === 0;

test("where there is no /dev/shm that is what the errors say", {
  timeout: 60_000,
  skip: mayLackShm ? false : "this user may not have a mount namespace",
}, () => {
  const [command, line] = fixtureCommand("no_shm.ts");
  const ended = spawnSync(NO_SHM[0]!, [...NO_SHM.slice(1), command, ...line], {
    encoding: "utf8",
  });
  assert.equal(ended.status, 0, ended.stderr);
  const said = JSON.parse(ended.stdout) as Record<string, [string, string]>;
  for (const what of ["create", "replace", "attach", "reclaimDead"]) {
    const [code, hint] = said[what]!;
    assert.equal(code, "ENOENT", `${what}: ${said[what]}`);
    assert.match(hint, /There is no \/dev\/shm: mount a tmpfs there/);
  }
  assert.equal(said["anonymous"], 4096);
});
