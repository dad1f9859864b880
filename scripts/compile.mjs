// SPDX-License-Identifier: Apache-2.0
//
// `npm run compile`: the lmshm command as one executable, with Bun and the native parts as they
// ship inside: dist/lmshm for this machine, dist/lmshm-<platform> for another one. It is made as a
// user's program is (src/embed.ts); tsconfig.json says that lib/ has what the packages have.

import { join, relative } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { installDependencies, pinnedTool } from "./common/dependencies.mjs";
import { buildWithZig } from "./common/native.mjs";
import { capture, Failure, must, root, runMain, say } from "./common/system.mjs";
import { hostPlatform, TARGETS } from "./common/targets.mjs";

/** @typedef {import("./common/targets.mjs").Platform} Platform */

const USAGE = `Usage: npm run compile -- [--platform PLATFORM]...

Makes the lmshm command one executable: dist/lmshm, or dist/lmshm-PLATFORM for other machines.
PLATFORM is this machine's unless given; known are ${Object.keys(TARGETS).join(", ")}`;

/** @returns {Platform[] | null} null: only help is wanted */
function platforms() {
  try {
    const { values } = parseArgs({
      args: process.argv.slice(2),
      options: {
        platform: { type: "string", multiple: true },
        help: { type: "boolean", short: "h" },
      },
    });
    if (values.help) return null;
    const chosen = values.platform ?? [hostPlatform()];
    const unknown = chosen.find((name) => !Object.hasOwn(TARGETS, name));
    if (unknown !== undefined) throw new Error(`there is no platform "${unknown}"`);
    return /** @type {Platform[]} */ (chosen);
  } catch (error) {
    throw new Failure(`${error instanceof Error ? error.message : error}\n\n${USAGE}`);
  }
}

await runMain(async () => {
  const chosen = platforms();
  if (chosen === null) return console.log(USAGE);
  await installDependencies();
  await buildWithZig(chosen);
  for (const platform of chosen) {
    const own = platform === hostPlatform();
    const output = join(root, "dist", own ? "lmshm" : `lmshm-${platform}`);
    const target = `bun-${platform.replace("-gnu", "")}`;
    const others = Object.keys(TARGETS).filter((other) => other !== platform);
    await must(`compiling ${output}`, pinnedTool("bun"), [
      ...["build", "--compile", "--minify-syntax", "--minify-whitespace"],
      // Most of its start would be reading source, and code of other commands.
      ...["--bytecode", "--format=esm", "--splitting"],
      ...["--no-compile-autoload-dotenv", "--no-compile-autoload-bunfig"],
      ...(own ? [] : [`--target=${target}`]),
      // They may be in lib/ too.
      ...others.map((other) => `--external=@lmshm/${other}/*`),
      ...[join(root, "src", "cli", "executable.ts"), "--outfile", output],
    ], { log: join(root, "build", "logs", `compile-${platform}.log`), quiet: true });
    if (own) {
      const version = capture(output, ["--version"]);
      if (version === null) throw new Failure(`${output} --version fails`);
      say(`${relative(root, output)}: ${version.trim()}`);
    } else say(relative(root, output));
  }
});
