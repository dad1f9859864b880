// SPDX-License-Identifier: Apache-2.0
//
// What all commands share: help, options, completion and the man page, made from one description of
// each; misspellings that are understood; tables that fit the terminal.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { bashCompletion, fishCompletion, zshCompletion } from "../src/cli/completion.ts";
import { DESCRIPTIONS, LOADERS } from "../src/cli/commands.ts";
import { optionsOf } from "../src/cli/description.ts";
import { commandHelp } from "../src/cli/help.ts";
import { manualPage } from "../src/cli/man.ts";
import { shortened, table, tableRow } from "../src/cli/terminal.ts";
import { locateWorker } from "../src/native/locate.ts";
import { atTerminal, hasProgram, inShell, lmshm } from "./support/command_line.ts";

test("every command has a loader, a unique name and a summary of one line", async () => {
  assert.deepEqual(Object.keys(LOADERS).sort(), DESCRIPTIONS.map(({ name }) => name).sort());
  for (const [name, load] of Object.entries(LOADERS)) {
    assert.equal(typeof (await load()).run, "function", name);
  }
  for (const { name, summary } of DESCRIPTIONS) {
    assert.ok(summary.length <= 80 && !summary.includes("\n"), name);
  }
});

test("the help of every command names all options, examples and statuses, at any width", () => {
  for (const description of DESCRIPTIONS) {
    for (const columns of [40, 80, 200]) {
      const help = commandHelp(description, columns);
      for (const { name } of optionsOf(description)) assert.ok(help.includes(`--${name}`), name);
      assert.match(help, /^Usage: lmshm /);
      assert.match(help, /\nExamples:\n/);
      assert.match(help, /\nExit status:\n/);
      for (const line of help.split("\n")) {
        // A command is not broken, so that it can be copied; nor is a word.
        if (line.startsWith("    $ ") || !/\S \S/.test(line.trimStart())) continue;
        assert.ok(
          line.length <= columns || /^ {2}(-\w, )?--\S+ \S+$/.test(line),
          `${columns}: ${line}`,
        );
      }
    }
  }
});

test("lmshm understands what is misspelt, with exit status 2", { timeout: 120_000 }, async () => {
  const cases: [string[], RegExp][] = [
    [["verfiy"], /^lmshm: there is no command "verfiy"; did you mean "verify"\?\n$/],
    [["shm", "lst"], /^lmshm: there is no command "shm lst"; did you mean "shm ls"\?\n$/],
    [["verify", "--sise", "1"], /^lmshm: verify has no option --sise; did you mean "--size"\?\n$/],
    [["frobnicate"], /^lmshm: there is no command "frobnicate"; see lmshm --help\n$/],
    [["ls"], /^lmshm: STORE is missing/],
    [["verify", "file"], /^lmshm: verify takes no argument "file"; see lmshm verify --help\n$/],
    [["completion", "bahs"], /did you mean "bash"\?\n$/],
  ];
  for (const [args, message] of cases) {
    const ended = await lmshm(...args);
    assert.equal(ended.code, 2, args.join(" "));
    assert.match(ended.stderr, message);
    assert.equal(ended.stdout, "");
  }
});

test(
  "lmshm help COMMAND, COMMAND --help and the group's help answer",
  { timeout: 120_000 },
  async () => {
    const help = await lmshm("help", "shm", "ls");
    assert.equal(help.code, 0);
    assert.equal(help.stdout, (await lmshm("shm", "ls", "-h")).stdout);
    const group = await lmshm("shm", "--help");
    assert.equal(group.code, 0);
    assert.match(group.stdout, /shm gc +remove all segments that dead processes left/);
    assert.equal((await lmshm("shm")).code, 2);
  },
);

test("a table fits any terminal, and is whole without one", () => {
  const columns = [
    { title: "name", shrinks: true },
    { title: "state" },
    { title: "size", right: true },
    { title: "age", right: true, leaves: 1 },
    { title: "who", leaves: 2 },
  ] as const;
  const rows = [[
    "a-rather-long-name-of-a-segment",
    "live",
    "33.6 MB",
    "5 min",
    "bun:1234 deno:77",
  ]];
  assert.deepEqual(table(columns, rows, null), [
    "name                             state     size    age  who",
    "a-rather-long-name-of-a-segment  live   33.6 MB  5 min  bun:1234 deno:77",
  ]);
  for (let room = 24; room <= 120; room++) {
    for (const line of table(columns, rows, room)) {
      assert.ok(line.length <= room, `${room}: ${line}`);
    }
  }
  assert.deepEqual(
    table(columns, rows, 40),
    [
      "name               state     size    age",
      "a-rather…-segment  live   33.6 MB  5 min",
    ],
    "the last column left first, then the name became shorter",
  );
});

test("a row of a table whose widths are fixed fits any terminal", () => {
  const row = ["put: memory to files", "5.24 MB", "2.31 ms", "2,270 MB/s"];
  const widths = [34, 9, 9, 13];
  assert.equal(
    tableRow(row, widths, null),
    "put: memory to files                  5.24 MB    2.31 ms     2,270 MB/s",
  );
  for (let room = 8; room <= 100; room++) {
    assert.ok(tableRow(row, widths, room).length <= room, `${room}`);
  }
  assert.equal(tableRow(row, widths, 40), "put: memo…to files    5.24 MB    2.31 ms");
  assert.equal(shortened("abcdef", 1), "a");
});

test("lmshm worker describes the options that lmshm-worker has", () => {
  const { stdout } = spawnSync(locateWorker(), ["--help"], { encoding: "utf8" });
  const has = [...stdout.matchAll(/^ {2}(?:-\w, )?--([a-z-]+)/gm)].map(([, name]) => name!);
  const described = DESCRIPTIONS.find(({ name }) => name === "worker")!;
  assert.deepEqual(
    [...described.options.map(({ name }) => name), "help", "version"].sort(),
    has.sort(),
  );
  for (const { name, value } of described.options) {
    assert.equal(new RegExp(`--${name} [A-Z]+\\b`).test(stdout), value !== undefined, name);
  }
});

/** What bash completes at the end of a line. */
async function completed(line: string): Promise<string[]> {
  const { stdout, stderr } = await inShell(
    `eval "$SCRIPT"; COMP_WORDS=(${line}); COMP_CWORD=$((\${#COMP_WORDS[@]} - 1)); _lmshm
     printf '%s\\n' "\${COMPREPLY[@]}"`,
    { SCRIPT: bashCompletion() },
  );
  assert.equal(stderr, "", line);
  return stdout.split("\n").filter((word) => word !== "");
}

test("bash completes commands, options and their values", { timeout: 60_000 }, async () => {
  assert.deepEqual(await completed("lmshm ver"), ["verify"]);
  assert.deepEqual(await completed("lmshm shm ''"), ["ls", "rm", "gc"]);
  assert.deepEqual(await completed("lmshm shm gc --d"), ["--dry-run"]);
  assert.deepEqual(await completed("lmshm verify --pin ''"), ["auto", "require", "none"]);
  assert.deepEqual(await completed("lmshm completion f"), ["fish"]);
  assert.deepEqual(await completed("lmshm worker --root /de"), ["/dev"]);
  assert.ok((await completed("lmshm ''")).includes("worker"));
});

for (const [shell, script] of [["zsh", zshCompletion], ["fish", fishCompletion]] as const) {
  test(`the completion for ${shell} is a script that it takes`, {
    skip: hasProgram(shell) ? false : `${shell} is not installed`,
    timeout: 60_000,
  }, () => {
    const { status, stderr } = spawnSync(shell, ["-n", "/dev/stdin"], {
      input: script(),
      encoding: "utf8",
    });
    assert.equal(status, 0, stderr);
    assert.equal(stderr, "");
  });
}

test("fish completes commands, options and their values", {
  skip: hasProgram("fish") ? false : "fish is not installed",
  timeout: 60_000,
}, () => {
  const complete = (line: string) => {
    const script = `${fishCompletion()}\ncomplete -C '${line}'`;
    const { stdout } = spawnSync("fish", ["--no-config"], { input: script, encoding: "utf8" });
    return stdout.trim().split("\n").map((one) => one.split("\t")[0]);
  };
  assert.deepEqual(complete("lmshm ver"), ["verify"]);
  assert.deepEqual(complete("lmshm shm "), ["gc", "ls", "rm"]);
  assert.deepEqual(complete("lmshm shm ls --l"), [""], "--long is of another ls");
  assert.deepEqual(complete("lmshm ls --lo"), ["--long"]);
  assert.deepEqual(complete("lmshm verify --pin "), ["auto", "none", "require"]);
});

test("the scripts of all shells know every command and option", () => {
  for (const script of [bashCompletion(), zshCompletion(), fishCompletion()]) {
    for (const description of DESCRIPTIONS) {
      for (const word of description.name.split(" ")) assert.ok(script.includes(word), word);
      for (const { name } of description.options) assert.ok(script.includes(name), name);
    }
  }
});

test("man has nothing to complain about in the manual page", {
  skip: hasProgram("groff") ? false : "groff is not installed",
  timeout: 60_000,
}, () => {
  const page = manualPage();
  const { status, stderr } = spawnSync("groff", ["-man", "-ww", "-z", "-Tutf8"], {
    input: `${page}\n`,
    encoding: "utf8",
  });
  assert.equal(status, 0, stderr);
  assert.equal(stderr, "");
  const shown = spawnSync("groff", ["-man", "-Tascii", "-P-cbou"], {
    input: `${page}\n`,
    encoding: "utf8",
  }).stdout;
  for (const description of DESCRIPTIONS) {
    assert.ok(shown.includes(`lmshm ${description.name}`), description.name);
    for (const { name } of description.options) assert.ok(shown.includes(`--${name}`), name);
  }
});

test("at a terminal of 40 columns everything fits", {
  skip: hasProgram("script") ? false : "script (bsdutils) is not installed",
  timeout: 120_000,
}, async () => {
  const { stdout } = await atTerminal(40, "lmshm --help; lmshm shm ls; lmshm shm gc --help");
  assert.match(stdout, /Usage: lmshm COMMAND/);
  for (const line of stdout.split(/\r?\n/)) {
    if (line.startsWith("    $ ")) continue;
    assert.ok(line.length <= 40, `${line.length}: ${line}`);
  }
});
