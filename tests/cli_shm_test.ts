// SPDX-License-Identifier: Apache-2.0
//
// lmshm shm: what is listed is what is there; what is dead goes, and nothing else.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, rmSync, statSync, writeFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { ShmSegment } from "../src/mod.ts";
import {
  addMaps,
  lockOwners,
  lockPins,
  mapsIdentity,
  type SegmentRow,
} from "../src/cli/shm_scan.ts";
import { lmshm } from "./support/command_line.ts";
import { fakeLibrary, noFakes } from "./support/fake_gpu.ts";
import { uniqueName } from "./support/leaks.ts";
import { fixtureCommand } from "./support/process.ts";

const LONG = { timeout: 120_000 };

function jsonLines<T>(stdout: string): T[] {
  return stdout.split("\n").filter((line) => line !== "").map((line) => JSON.parse(line));
}

/** A process that owns a segment until it is killed. */
async function owner(name: string): Promise<{ child: ChildProcess; kill: () => Promise<void> }> {
  const [command, line] = fixtureCommand("owner.ts", name, String(2 ** 20), "wait");
  const child = spawn(command, line, { stdio: ["ignore", "pipe", "inherit"] });
  const gone = once(child, "exit");
  await once(child.stdout!, "data");
  return {
    child,
    kill: async () => {
      child.kill("SIGKILL");
      await gone;
    },
  };
}

test("lmshm shm ls tells what is alive, whose it is, and who has it mapped", LONG, async () => {
  const [name, stranger] = [uniqueName("shm"), uniqueName("stranger")];
  await using segment = await ShmSegment.create({ name, sizeBytes: 1_000_000, pin: "none" });
  await using _anonymous = await ShmSegment.create({ name: null, sizeBytes: 12_345, pin: "none" });
  writeFileSync(`/dev/shm/${stranger}`, "somebody's");
  try {
    const { stdout, code } = await lmshm("shm", "ls", "--json");
    assert.equal(code, 0);
    const rows = jsonLines<SegmentRow>(stdout);
    const own = rows.find((row) => row.name === `/${name}`)!;
    assert.equal(own.state, "live");
    assert.equal(own.sizeBytes, 1_000_000);
    assert.equal(own.usedBytes, Math.ceil(1_000_000 / 4096) * 4096);
    assert.equal(own.user, statSync(`/dev/shm/${name}`).uid);
    assert.ok(own.ownerPid === process.pid || own.ownerPid === null, "where the kernel tells");
    assert.ok(own.ageMs! >= 0 && own.ageMs! < 120_000);
    assert.ok(own.mappedBy.some(({ pid }) => pid === process.pid));
    assert.equal(rows.find((row) => row.name === `/${stranger}`)?.state, "foreign");
    const anonymous = rows.filter(({ state, mappedBy }) =>
      state === "anonymous" && mappedBy.some(({ pid }) => pid === process.pid)
    );
    assert.ok(anonymous.some(({ sizeBytes }) => sizeBytes === 16_384), "whole pages of it");
    const text = await lmshm("shm", "ls", `/${name}`, "none-of-that-name");
    assert.equal(text.code, 1);
    assert.match(text.stderr, /^lmshm: \/none-of-that-name: there is no such segment\n$/);
    const lines = text.stdout.trimEnd().split("\n");
    assert.equal(lines.length, 2);
    assert.match(lines[0]!, /^segment +state +size +user +owner +age +pinned +mapped by$/);
    assert.match(lines[1]!, new RegExp(`^/${name} +live +1\\.00 MB .* no +.*:${process.pid}$`));
    assert.equal(segment.closed, false);
  } finally {
    rmSync(`/dev/shm/${stranger}`);
  }
});

test("lmshm shm ls tells by what a segment is pinned, as long as it is", LONG, async () => {
  const [name, stranger] = [uniqueName("pinned"), uniqueName("unknown")];
  const seen = async (which: string) => {
    const { stdout } = await lmshm("shm", "ls", "--json");
    return jsonLines<SegmentRow>(stdout).find((row) => row.name === `/${which}`)?.pinnedBy;
  };
  const anonymous = async () => {
    const { stdout } = await lmshm("shm", "ls", "--json");
    return jsonLines<SegmentRow>(stdout).filter(({ state, mappedBy }) =>
      state === "anonymous" && mappedBy.some(({ pid }) => pid === process.pid)
    ).map(({ pinnedBy }) => pinnedBy);
  };
  const options = { name, sizeBytes: 2 ** 20 };
  {
    await using owner = await ShmSegment.create({ ...options, pin: "none" });
    assert.deepEqual(await seen(name), []);
    {
      await using attached = await ShmSegment.attach({ name, pin: "auto" });
      const { pinnedBy } = attached;
      assert.deepEqual(await seen(name), pinnedBy === "none" ? [] : [pinnedBy], "by an attacher");
    }
    assert.deepEqual(await seen(name), [], "not any more");
    assert.equal(owner.closed, false);
  }
  {
    await using owner = await ShmSegment.create({ ...options });
    await using _same = await ShmSegment.attach({ name, pin: "none" });
    assert.deepEqual(await seen(name), owner.pinnedBy === "none" ? [] : [owner.pinnedBy]);
    const before = await anonymous();
    await using _one = await ShmSegment.create({ sizeBytes: 2 ** 20 });
    assert.equal((await anonymous()).length, before.length + 1);
    assert.ok((await anonymous()).some((pins) => pins?.[0] === owner.pinnedBy || !pins?.length));
  }
  if (noFakes === "") {
    const gpuLibrary = fakeLibrary("cudart");
    await using _owner = await ShmSegment.create({ ...options, pin: "require", gpuLibrary });
    assert.deepEqual(await seen(name), ["cuda"]);
  }
  writeFileSync(`/dev/shm/${stranger}`, "somebody's");
  try {
    assert.equal(await seen(stranger), null, "nobody knows");
  } finally {
    rmSync(`/dev/shm/${stranger}`);
  }
});

test("lmshm shm gc removes what a killed process left, and nothing else", LONG, async () => {
  const [dead, live, stranger] = ["dead", "live", "stranger"].map(uniqueName) as [
    string,
    string,
    string,
  ];
  const killed = await owner(dead);
  await killed.kill();
  const living = await owner(live);
  writeFileSync(`/dev/shm/${stranger}`, "somebody's");
  try {
    assert.ok(existsSync(`/dev/shm/${dead}`), "it was left");
    const dry = await lmshm("shm", "gc", "--dry-run");
    assert.match(dry.stdout, new RegExp(`^would remove /${dead}, 1\\.05 MB$`, "m"));
    assert.ok(!dry.stdout.includes(live) && !dry.stdout.includes(stranger));
    assert.ok(existsSync(`/dev/shm/${dead}`));
    const { code, stdout, stderr } = await lmshm("shm", "gc", "--json");
    assert.equal(code, 0, stderr);
    const removed = jsonLines<{ name: string; ok: boolean }>(stdout).filter(({ ok }) => ok);
    assert.ok(removed.some(({ name }) => name === `/${dead}`));
    assert.ok(!existsSync(`/dev/shm/${dead}`));
    assert.ok(existsSync(`/dev/shm/${live}`) && existsSync(`/dev/shm/${stranger}`));
  } finally {
    await living.kill();
    rmSync(`/dev/shm/${stranger}`);
    ShmSegment.reclaimDead();
  }
});

test("lmshm shm rm takes a dead segment only", LONG, async () => {
  const [dead, live, stranger] = ["dead", "live", "stranger"].map(uniqueName) as [
    string,
    string,
    string,
  ];
  await (await owner(dead)).kill();
  await using _live = await ShmSegment.create({ name: live, sizeBytes: 4096, pin: "none" });
  writeFileSync(`/dev/shm/${stranger}`, "somebody's");
  try {
    const { code, stdout, stderr } = await lmshm(
      ...["shm", "rm", dead, `/${live}`, `/dev/shm/${stranger}`, "none-of-that-name"],
    );
    assert.equal(code, 1);
    assert.equal(stdout, `removed /${dead}, 1.05 MB\nremoved 1 segment, 1.05 MB\n`);
    assert.deepEqual(
      stderr.trimEnd().split("\n").map((line) => line.slice(0, line.indexOf(";")) || line),
      [
        `lmshm: /${live}: its owner lives`,
        `lmshm: /${stranger}: lmshm has not made it, so whether somebody uses it cannot be known`,
        `lmshm: /none-of-that-name: there is no such segment`.slice(0, -1),
      ],
    );
    assert.ok(existsSync(`/dev/shm/${live}`) && existsSync(`/dev/shm/${stranger}`));
    const wrong = await lmshm("shm", "rm", "../etc/passwd");
    assert.equal(wrong.code, 2);
    assert.match(wrong.stderr, /is no name of a segment/);
  } finally {
    rmSync(`/dev/shm/${stranger}`);
    ShmSegment.reclaimDead();
  }
});

test("lmshm shm gc beside processes that make segments never takes a live one", {
  timeout: 180_000,
}, async () => {
  const names = Array.from({ length: 40 }, () => uniqueName("race"));
  let ended = false;
  const collecting = (async () => {
    let runs = 0;
    while (!ended) {
      const { code, stderr } = await lmshm("shm", "gc");
      assert.equal(code, 0, stderr);
      runs++;
    }
    return runs;
  })();
  // While gc looks: names appear, live, and go, again and again.
  const end = performance.now() + 2_000;
  let made = 0;
  while (performance.now() < end) {
    const name = names[made++ % names.length]!;
    await using segment = await ShmSegment.create({ name, sizeBytes: 4096, pin: "none" });
    const { dev, ino } = statSync(`/dev/shm/${name}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
    const now = statSync(`/dev/shm/${name}`, { throwIfNoEntry: false });
    assert.deepEqual([now?.dev, now?.ino], [dev, ino], "it is still the same");
    assert.equal(ShmSegment.nameState(name), "live");
    assert.equal(segment.closed, false);
  }
  ended = true;
  assert.ok(await collecting > 0);
  assert.ok(made > 10);
});

test("maps and locks of the kernel are read as they are written", () => {
  const found = new Map();
  const maps = [
    "7f0000000000-7f0000100000 rw-s 00000000 00:1b 42                         /dev/shm/kv",
    "7f0000200000-7f0000201000 rw-s 000ff000 00:1b 42                         /dev/shm/kv (deleted)",
    "7f0000300000-7f0000301000 rw-s 00000000 00:01 7   /memfd:lmshm (deleted)",
    "7f0000400000-7f0000401000 rw-s 00000000 00:01 8   /memfd:lmshm-worker (deleted)",
    "7f0000500000-7f0000501000 r--p 00000000 fe:01 9   /usr/lib/libc.so",
  ].join("\n");
  addMaps(maps, { pid: 1, command: "one" }, found);
  addMaps(maps.split("\n")[0]!, { pid: 2, command: "two" }, found);
  assert.deepEqual([...found.keys()], ["00:1b 42", "00:01 7"]);
  assert.equal(found.get("00:1b 42").sizeBytes, 2 ** 20);
  assert.deepEqual([...found.get("00:1b 42").mappedBy.keys()], [1, 2]);
  assert.equal(mapsIdentity(27, 42), "00:1b 42");
  assert.equal(mapsIdentity(0xfe01, 9), "fe:01 9");
  assert.deepEqual(
    lockOwners(
      "1: FLOCK  ADVISORY  WRITE 4711 00:1b:42 0 EOF\n2: OFDLCK ADVISORY  WRITE -1 00:1b:42 0 EOF\n" +
        "3: FLOCK  ADVISORY  READ 5 00:1b:43 0 EOF\n",
    ),
    new Map([["00:1b 42", 4711]]),
  );
  assert.deepEqual(
    lockPins(
      "1: OFDLCK ADVISORY  READ -1 00:1b:42 1 1\n2: OFDLCK ADVISORY  READ -1 00:1b:42 4 4\n" +
        "3: OFDLCK ADVISORY  READ -1 00:1b:42 1 1\n4: OFDLCK ADVISORY  WRITE -1 00:1b:42 0 0\n" +
        "5: OFDLCK ADVISORY  READ -1 00:1b:43 7 7\n6: OFDLCK ADVISORY  READ -1 00:1b:44 2 3\n" +
        "7: OFDLCK ADVISORY  READ -1 00:1b:45 2 2\n",
    ),
    new Map([["00:1b 42", ["cuda", "mlock"]], ["00:1b 45", ["cuda-driver"]]]),
  );
});
