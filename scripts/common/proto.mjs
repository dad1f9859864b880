// SPDX-License-Identifier: Apache-2.0
//
// The TypeScript of src/lmcache/wire/lmcache.proto, which is in the repository so that nobody needs
// the generator (128 MB, from npm, in build/tools/proto) but who changes that file.

import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import process from "node:process";
import { installFolder, pinnedTool } from "./dependencies.mjs";
import { Failure, must, root, Skipped } from "./system.mjs";

const SOURCE = join(root, "src", "lmcache", "wire");
const GENERATED = join(SOURCE, "lmcache_pb.ts");

/** Generates into build/, as the repository has it: formatted, and not to be linted. */
async function generate() {
  const folder = join(root, "build", "tools", "proto");
  mkdirSync(folder, { recursive: true });
  for (const name of ["package.json", "package-lock.json"]) {
    cpSync(join(root, "scripts", "proto", name), join(folder, name));
  }
  try {
    await installFolder(folder, "buf and protoc-gen-es");
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    throw new Skipped(`the generator cannot be had: ${error.message}`);
  }
  const bin = join(folder, "node_modules", ".bin");
  const out = join(folder, "out");
  rmSync(out, { recursive: true, force: true });
  const template = {
    version: "v2",
    plugins: [{ local: "protoc-gen-es", opt: ["target=ts", "import_extension=ts"], out }],
  };
  await must("buf generate", join(bin, "buf"), [
    ...["generate", "--template", JSON.stringify(template), SOURCE],
  ], {
    cwd: folder,
    env: { PATH: `${bin}${delimiter}${process.env.PATH ?? ""}` },
    log: join(root, "build", "logs", "proto.log"),
    quiet: true,
  });
  const path = join(out, "lmcache_pb.ts");
  const text = readFileSync(path, "utf8");
  // The comment of the .proto file is said there.
  const start = text.indexOf("// @generated");
  writeFileSync(
    path,
    "// SPDX-License-Identifier: Apache-2.0\n//\n" +
      "// Made of lmcache.proto by `npm run proto`; not to be edited.\n\n" +
      `// deno-lint-ignore-file\n\n${text.slice(start)}`,
  );
  // As deno.json says, which leaves build/ out.
  await must("deno fmt", pinnedTool("deno"), [
    ...["fmt", "--quiet", "--no-config", "--line-width", "100", path],
  ]);
  return readFileSync(path, "utf8");
}

/** `npm run proto`: writes it. */
export async function writeProto() {
  writeFileSync(GENERATED, await generate());
}

/** The gate's step "proto": what is in the repository is what the generator makes. */
export async function checkProto() {
  if (await generate() === readFileSync(GENERATED, "utf8")) return;
  throw new Failure(
    "src/lmcache/wire/lmcache_pb.ts is not made of lmcache.proto (repair: npm run proto)",
  );
}
