// SPDX-License-Identifier: Apache-2.0
//
// The scripts as a user sees them: help, words instead of a stack where the tree is read-only, and at
// the end of a run what failed in it.

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { relative } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { runFixture } from "./support/process.ts";
import { TempDir } from "./support/worker.ts";

const LONG = { timeout: 60_000 };
const FIXTURES = fileURLToPath(new URL("fixtures/", import.meta.url));

test("each script of npm prints its help", { timeout: 60_000 }, async () => {
  for (const name of ["build", "compile", "pack", "release"]) {
    const ended = await runFixture(`../../scripts/${name}.mjs`, ["--help"]);
    assert.equal(ended.code, 0, ended.stderr);
    assert.match(ended.stdout, new RegExp(`^Usage: npm run ${name} -- `));
  }
});

test("a folder that cannot be written is told without a stack", { timeout: 60_000 }, async () => {
  using dir = new TempDir();
  const system = fileURLToPath(new URL("../scripts/common/system.mjs", import.meta.url));
  writeFileSync(dir.file("file"), "");
  // The folder of the log cannot be made, or the log itself not opened.
  for (const log of [dir.file("file/logs/build.log"), dir.path]) {
    const script = dir.file("script.mjs");
    writeFileSync(
      script,
      `import { run, runMain } from ${JSON.stringify(system)};
await runMain(() => run("true", [], { log: ${JSON.stringify(log)}, quiet: true }));\n`,
    );
    const ended = await runFixture(relative(FIXTURES, script), []);
    assert.equal(ended.code, 1, ended.stdout);
    assert.match(ended.stderr, /^lmshm: E(NOTDIR|EXIST|ISDIR).* must be writable .*\n$/);
  }
});

test("an interruption is passed on to a command that cleans up", { timeout: 60_000 }, async () => {
  using dir = new TempDir();
  const system = fileURLToPath(new URL("../scripts/common/system.mjs", import.meta.url));
  const script = dir.file("script.mjs");
  const command =
    "trap 'echo cleaned; exit 7' TERM; echo up; for i in $(seq 600); do sleep 0.05; done";
  writeFileSync(
    script,
    `import { run } from ${JSON.stringify(system)};
const status = await run("sh", ["-c", ${JSON.stringify(command)}], { cleansUp: true });
console.log("status", status);\n`,
  );

  const child = spawn("node", [script], { stdio: ["ignore", "pipe", "inherit"] });
  let said = "";
  child.stdout.on("data", (data) => {
    said += data;
    // Not SIGINT, which a shell has its background jobs ignore.
    if (said === "up\n") child.kill("SIGTERM");
  });
  await once(child, "close");
  assert.equal(said, "up\ncleaned\nstatus 7\n");
});

interface Failed {
  name: string;
  text: string;
}

const { readJunit, unittestCounts } = await import(
  new URL("../scripts/common/results.mjs", import.meta.url).href
) as {
  readJunit(path: string): { passed: number; failed: number; skipped: number; failures: Failed[] };
  unittestCounts(text: string): { failed: number; failures: Failed[] };
};
const { fuzzerSaid, recap } = await import(
  new URL("../scripts/common/recap.mjs", import.meta.url).href
) as {
  fuzzerSaid(log: string, input: Uint8Array | undefined): string;
  recap(failures: Failed[]): string[];
};

test("of each test that failed the reports have the name and what it said", () => {
  using dir = new TempDir();
  const failures = (xml: string) => {
    writeFileSync(dir.file("junit.xml"), `<testsuites><testsuite>${xml}</testsuite></testsuites>`);
    return readJunit(dir.file("junit.xml"));
  };
  // As bun and deno write it, and as ctest does.
  assert.deepEqual(
    failures(`<testcase name="fine" time="1" />
      <testcase name="a &lt;sum&gt;" time="1">
        <failure type="E" message="1 &gt; 0">AssertionError: it is 1 &amp; not 2&#10;  at x</failure>
      </testcase>
      <testcase name="message only"><failure message="it is > 3"/></testcase>
      <testcase name="left out"><skipped/></testcase>
      <testcase name="native" status="fail">
        <failure message=""/>
        <system-out>ok one\nnative.cc:3: 1 is not 2 &amp; 3\nnot ok two\nok three\n</system-out>
      </testcase>
      <testcase name="silent" status="fail"><failure message=""/><system-out></system-out></testcase>
      <testcase name="raw"><failure><![CDATA[a </failure> & b]]></failure></testcase>`),
    {
      ...{ passed: 1, failed: 5, skipped: 1 },
      failures: [
        { name: "a <sum>", text: "AssertionError: it is 1 & not 2\n  at x" },
        { name: "message only", text: "it is > 3" },
        { name: "native", text: "native.cc:3: 1 is not 2 & 3\nnot ok two" },
        { name: "silent", text: "" },
        { name: "raw", text: "a </failure> & b" },
      ],
    },
  );
  const line = "=".repeat(70);
  const dashes = "-".repeat(70);
  const unittest = unittestCounts(
    `test_a (t.T) ... FAIL\ntest_b (t.T) ... ERROR\n\n${line}\nERROR: test_b (t.T)\n${dashes}\n` +
      `Traceback\nValueError: x\n\n${line}\nFAIL: test_a (t.T)\n${dashes}\nTraceback\n` +
      `AssertionError: 1 != 2\n\n${dashes}\nRan 3 tests in 0.1s\n\nFAILED (failures=1, errors=1)\n`,
  );
  assert.equal(unittest.failed, 2);
  assert.deepEqual(unittest.failures, [
    { name: "test_b (t.T)", text: "Traceback\nValueError: x\n" },
    { name: "test_a (t.T)", text: "Traceback\nAssertionError: 1 != 2\n" },
  ]);
});

test("what failed is told once more, each with some lines", () => {
  assert.deepEqual(recap([]), []);
  const long = Array.from({ length: 100 }, (_, i) => `line ${i}`).join("\n");
  const lines = recap([{ name: "bun: a", text: "\x1b[31mAssertionError\x1b[0m: 1" }, {
    name: "zig: b",
    text: long,
  }, { name: "lint", text: "" }]);
  assert.deepEqual(lines.slice(0, 4), [
    "=== failed",
    "bun: a",
    "    AssertionError: 1",
    "zig: b",
  ]);
  assert.equal(lines.length, 4 + 15 + 1 + 5 + 1);
  assert.deepEqual(lines.slice(-3), ["    line 98", "    line 99", "lint"]);
  const many = recap(Array.from({ length: 1000 }, (_, i) => ({ name: `t${i}`, text: long })));
  assert.ok(many.includes("t999") && many.length < 1500, `${many.length}`);
});

test("a sanitizer's report comes first, with the frames that are in the sources", () => {
  const place = (i: number) => `/src/csrc/worker/a.cc:${i}`;
  const frames = [
    "    #0 pread ../../src/libsanitizer/interceptors.inc:1054 (libtsan.so.2+0x54aae)",
    `    #1 lmshm::Read(int, std::vector<int> const&) ${place(62)} (lmshm-worker+0x1)`,
    ...Array.from({ length: 9 }, (_, i) => `    #${i + 2} operator() ${place(i)} (lmshm-worker+1)`),
  ];
  const told = recap([{
    name: "tsan: a",
    text: [
      "# a_test.cc:52: instead of an answer: <end>",
      ...["==================", "WARNING: ThreadSanitizer: data race (pid=7)"],
      ...["  Write of size 8 at 0x7f by thread T3:", ...frames, ""],
      ...["  Previous write of size 8 at 0x7f by thread T2:", ...frames, ""],
      "SUMMARY: ThreadSanitizer: data race a.cc:62 in lmshm::Read",
      ...["==================", "", "not ok a"],
    ].join("\n"),
  }]).map((line) => line.slice(4));
  const kept = [
    "    #1 lmshm::Read csrc/worker/a.cc:62",
    ...[0, 1, 2, 3].map((i) => `    #${i + 2} operator() csrc/worker/a.cc:${i}`),
  ];
  assert.deepEqual(told.slice(2, 2 + 2 * (1 + kept.length) + 1 + 1), [
    "WARNING: ThreadSanitizer: data race (pid=7)",
    ...["  Write of size 8 at 0x7f by thread T3:", ...kept],
    ...["  Previous write of size 8 at 0x7f by thread T2:", ...kept],
    "SUMMARY: ThreadSanitizer: data race a.cc:62 in lmshm::Read",
  ]);
  assert.ok(told.includes("# a_test.cc:52: instead of an answer: <end>"));
  assert.equal(told.at(-1), "not ok a");

  // As AddressSanitizer writes it.
  const address = recap([{
    name: "asan: a",
    text: "==7==ERROR: AddressSanitizer: heap-use-after-free on address 0x1\n" +
      "    #0 0x7f in lmshm::Free(int) tests/native/a.cc:3:1\n" +
      "SUMMARY: AddressSanitizer: heap-use-after-free\nnot ok a",
  }]);
  assert.equal(address[3], "        #0 lmshm::Free tests/native/a.cc:3");
});

test("a fuzzer's failure is told by what did not hold, where, and the whole input", () => {
  const frames = Array.from({ length: 30 }, (_, i) => `    #${i} 0x7f in f nptl/raise.c:${i}:1`);
  const log = [
    ...["INFO: Seed: 1", "#2 INITED cov: 1", "a.cc:81: does not hold: one == two"],
    ...["==7== ERROR: libFuzzer: deadly signal", "    #0 0x55 (/x/a_fuzz+0x1)", ...frames],
    ...[
      "NOTE: handlers",
      "SUMMARY: libFuzzer: deadly signal",
      "MS: 1",
      "Test unit written to /x/c",
    ],
  ].join("\n");
  const input = new Uint8Array(4096).map((_, i) => i * 7);
  const lines = recap([{ name: "a_fuzz", text: fuzzerSaid(log, input) }]);
  assert.deepEqual(lines.slice(0, 4), [
    ...["=== failed", "a_fuzz", "    a.cc:81: does not hold: one == two"],
    "        #0 0x7f in f nptl/raise.c:0:1",
  ]);
  const at = lines.indexOf("    the input, 4096 bytes in base64:");
  assert.equal(lines[at - 1], "    SUMMARY: libFuzzer: deadly signal");
  const base64 = lines.slice(at + 1).map((line) => line.trim()).join("");
  assert.deepEqual(new Uint8Array(Buffer.from(base64, "base64")), input);

  // Without an input, and of a fuzzer that did not come as far.
  assert.ok(!fuzzerSaid(log, undefined).includes("input"));
  assert.equal(fuzzerSaid("cannot open\n", undefined), "cannot open");
});

test(
  "the last lines of .ci/run are what failed in all of its steps, and the sum",
  LONG,
  async () => {
    using dir = new TempDir();
    const [bin, root] = [dir.file("bin"), dir.file("root")];
    mkdirSync(bin);
    mkdirSync(`${root}/.ci`, { recursive: true });
    copyFileSync(new URL("../.ci/run", import.meta.url), `${root}/.ci/run`);
    // Nothing can be installed: there are these programs, and no others.
    for (const name of ["bash", "env", "dirname", "tee", "mktemp", "tail", "awk", "rm"]) {
      const { stdout } = spawnSync("bash", ["-c", `command -v ${name}`], { encoding: "utf8" });
      symlinkSync(stdout.trim(), `${bin}/${name}`);
    }
    const script = (name: string, text: string) =>
      writeFileSync(`${bin}/${name}`, `#!${bin}/bash\n${text}\n`, { mode: 0o700 });
    const run = async (test: string, check: string) => {
      script("node", "exit 0");
      script("npm", `if [ "$1" = test ]; then\n${test}\nelse\n${check}\nfi`);
      const child = spawn(`${bin}/bash`, [`${root}/.ci/run`], {
        env: { PATH: bin, LMSHM_TEST_WEED: "/none" },
        stdio: ["ignore", "pipe", "ignore"],
      });
      let said = "";
      child.stdout.on("data", (data) => said += data);
      const [code] = await once(child, "close");
      return { code, said };
    };
    const failing = await run(
      "echo noise\necho === failed\necho bun: first\necho '    AssertionError: 1\\\\n2'\n" +
        "echo '5 passed, 1 failed, 0 skipped'; exit 1",
      "echo === failed\necho old\necho more\necho === failed\necho 'asan: second'\necho '3 passed, 1 failed, 2 skipped'\nexit 1",
    );
    assert.equal(failing.code, 1);
    assert.match(
      failing.said,
      /\n=== failed\nbun: first\n {4}AssertionError: 1\\\\n2\nasan: second\n8 passed, 2 failed, 2 skipped\n$/,
    );
    const fine = await run(
      "echo 2 passed, 0 failed, 0 skipped",
      "echo 1 passed, 0 failed, 0 skipped",
    );
    assert.equal(fine.code, 0);
    assert.ok(!fine.said.includes("=== failed"));
    assert.match(fine.said, /\n3 passed, 0 failed, 0 skipped\n$/);
    const crashed = await run("echo 2 passed, 0 failed, 0 skipped; exit 3", "echo half; exit 137");
    assert.match(
      crashed.said,
      /\n=== failed\n"env .*npm test" ended with status 3\n"npm run .*" ended with status 137 and without a count\n2 passed, 2 failed, 0 skipped\n$/,
    );
  },
);
