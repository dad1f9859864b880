// SPDX-License-Identifier: Apache-2.0
//
// lmshm gpu as a user runs it, in a process of its own, with fake GPUs of each kind and with none.

import assert from "node:assert/strict";
import { test } from "node:test";
import { fakeLibrary, KINDS, LIBRARY_KIND, noFakes } from "./support/fake_gpu.ts";
import { type Ended, runFixture } from "./support/process.ts";

const MAIN = "../../src/cli/main.ts";
const NONE = { LMSHM_GPU_LIBRARY: "", LMSHM_GPU_DEVICE: "", FAKE_GPU_DEVICES: "2" };

function gpu(args: string[], env: Record<string, string> = {}): Promise<Ended> {
  return runFixture(MAIN, ["gpu", ...args], { env: { ...NONE, ...env } });
}

for (const kind of KINDS) {
  test(`lmshm gpu: shows, pins and measures (${kind})`, {
    skip: noFakes || false,
    timeout: 120_000,
  }, async () => {
    const library = fakeLibrary(kind);
    const args = ["--library", library, "--size", "1MB", "--size", "64k", "--repeat", "1"];
    const text = await gpu([...args, "--device", "1"]);
    assert.equal(text.code, 0, text.stdout + text.stderr);
    assert.match(text.stdout, /GPU 0 {4}Fake GPU 0, 1\.07 GB, PCI 0000:01:00\.0/);
    assert.match(text.stdout, /using {4}GPU 1/);
    assert.match(text.stdout, /the GPU calls it pinned/);
    assert.match(text.stdout, /came back as they were sent/);
    assert.equal(text.stdout.match(/^to-(device|host) .*GB\/s/gm)?.length, 4, text.stdout);

    const json = await gpu([...args, "--json"], { LMSHM_GPU_DEVICE: "1" });
    assert.equal(json.code, 0, json.stdout + json.stderr);
    const report = JSON.parse(json.stdout);
    assert.equal(report.ok, true);
    assert.equal(report.gpu.kind, LIBRARY_KIND[kind]);
    assert.equal(report.gpu.devices.length, 2);
    assert.equal(report.device.index, 1);
    assert.equal(report.segment.gpuSays, "pinned");
    assert.equal(report.segment.pinnedBy, LIBRARY_KIND[kind]);
    assert.deepEqual(
      report.copies.map(({ bytes, way }: { bytes: number; way: string }) => [bytes, way]),
      [[65536, "to-device"], [65536, "to-host"], [1e6, "to-device"], [1e6, "to-host"]],
    );
    for (const { rates, poolToHostAlloc } of report.copies) {
      for (const name of ["pool", "hostAlloc", "unpinned"]) {
        const { lowestMBs, medianMBs, highestMBs } = rates[name];
        assert.ok(0 < lowestMBs && lowestMBs <= medianMBs && medianMBs <= highestMBs);
      }
      assert.ok(
        Math.abs(poolToHostAlloc - rates.pool.medianMBs / rates.hostAlloc.medianMBs) < 1e-9,
      );
    }
  });
}

test(
  "lmshm gpu: --list shows the devices and no more",
  { skip: noFakes || false, timeout: 60_000 },
  async () => {
    const args = ["--list", "--library", fakeLibrary("driver")];
    const text = await gpu(args);
    assert.equal(text.code, 0, text.stderr);
    assert.match(text.stdout, /GPU 1 {4}Fake GPU 1/);
    assert.doesNotMatch(text.stdout, /segment|copy/);
    const json = JSON.parse((await gpu([...args, "--json"])).stdout);
    assert.equal(json.ok, true);
    assert.equal(json.gpu.devices.length, 2);
  },
);

test("lmshm gpu: no GPU is a clear answer and exit status 1", { timeout: 60_000 }, async () => {
  const library = "/nowhere/libcudart.so";
  const text = await gpu([], { LMSHM_GPU_LIBRARY: library });
  assert.equal(text.code, 1);
  assert.match(text.stdout, /^no GPU: \/nowhere\/libcudart\.so is no GPU runtime library/m);
  const json = await gpu(["--json"], { LMSHM_GPU_LIBRARY: library });
  assert.equal(json.code, 1);
  const report = JSON.parse(json.stdout);
  assert.equal(report.ok, false);
  assert.equal(report.gpu.available, false);
  assert.match(report.gpu.reason, /nowhere/);
});

test("lmshm gpu: a GPU that refuses is a clear answer and exit status 1", {
  skip: noFakes || false,
  timeout: 60_000,
}, async () => {
  const args = ["--library", fakeLibrary("cudart"), "--size", "64k", "--repeat", "1"];
  for (
    const [env, words] of [
      [{ FAKE_GPU_FAIL: "count:0:35" }, /cudaErrorInsufficientDriver/],
      [{ FAKE_GPU_FAIL: "register:0:801" }, /refused/],
      [{ FAKE_GPU_FAIL: "malloc:0:2" }, /out of memory/],
      [{ FAKE_GPU_FAIL: "query:0:719" }, /719/],
      [{ LMSHM_GPU_DEVICE: "5" }, /no GPU 5.* counts 2.*LMSHM_GPU_DEVICE can be from 0 to 1 here/],
      [{ LMSHM_GPU_DEVICE: "first" }, /LMSHM_GPU_DEVICE is "first"/],
    ] as const
  ) {
    const ended = await gpu(args, env as unknown as Record<string, string>);
    assert.equal(ended.code, 1, ended.stdout);
    assert.match(ended.stdout + ended.stderr, words);
  }
});

test("lmshm gpu: a device that is not there is told with how many there are", {
  skip: noFakes || false,
  timeout: 60_000,
}, async () => {
  const args = ["--library", fakeLibrary("cudart"), "--device", "99"];
  const two = await gpu(args);
  assert.equal(two.code, 1);
  assert.match(two.stderr, /there is no GPU 99: .* counts 2 .*--device can be from 0 to 1 here/);
  const one = await gpu(args, { FAKE_GPU_DEVICES: "1" });
  assert.match(one.stderr, /counts 1 .*--device can be 0 here/);
});

test(
  "lmshm gpu: a wrong command line is told, with exit status 2",
  { timeout: 60_000 },
  async () => {
    for (
      const args of [["--device", "x"], ["--repeat", "0"], ["--size", "many"], ["--sizes", "1"], [
        "now",
      ]]
    ) {
      const ended = await gpu(args);
      assert.equal(ended.code, 2, args.join(" "));
      assert.match(ended.stderr, /^lmshm: /);
    }
    const help = await gpu(["--help"]);
    assert.equal(help.code, 0);
    assert.match(help.stdout, /Usage: lmshm gpu/);
  },
);
