// SPDX-License-Identifier: Apache-2.0
//
// A Python process works on objects of the pool, with nothing but its standard library: it maps the
// same shared memory, reads one object and writes another one. What they tell each other is a line
// of numbers: offset and length.
//
//   bun examples/with_python.ts
//   deno run -A examples/with_python.ts

import { spawn } from "node:child_process";
import console from "node:console";
import { once } from "node:events";
import process from "node:process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { MixedMemoryAllocator, type TensorMemoryObj } from "lmshm";

const VALUES = 1_000_000;

const name = `lmshm-example-python-${process.pid}`;
await using pool = await MixedMemoryAllocator.create({ sizeBytes: 64 * 2 ** 20, name });

const script = fileURLToPath(new URL("with_python.py", import.meta.url));
const python = spawn("python3", [script, name, String(pool.sizeBytes)], {
  stdio: ["pipe", "pipe", "inherit"],
});
const exited = once(python, "exit"); // rejects where there is no python3
const answers = createInterface({ input: python.stdout })[Symbol.asyncIterator]();

/** Has Python write the squares of one object's numbers into another one. */
async function squares(from: TensorMemoryObj, to: TensorMemoryObj): Promise<string> {
  // Both are held: neither can be freed, or moved to somebody else, before Python is done.
  const releases = [from, to].map((obj) => obj.hold("python"));
  try {
    python.stdin.write(`${from.offset} ${to.offset} ${from.byteLength}\n`);
    const answer = await answers.next();
    if (answer.done) throw new Error("Python has ended");
    return answer.value;
  } finally {
    for (const release of releases) release();
  }
}

/** The numbers of an object, not a copy. */
function numbersOf({ bytes }: TensorMemoryObj): Float64Array {
  return new Float64Array(bytes.buffer, bytes.byteOffset, VALUES);
}

{
  using input = pool.allocate(VALUES * 8);
  using output = pool.allocate(VALUES * 8);
  const numbers = numbersOf(input);
  for (let at = 0; at < VALUES; at++) numbers[at] = at;
  console.log(await squares(input, output));
  const isRight = numbersOf(output).every((value, at) => value === at * at);
  console.log(isRight ? "OK: Python has worked on the pool itself" : "FAILED: other numbers");
  if (!isRight) process.exitCode = 1;
}
python.stdin.end();
await exited;
