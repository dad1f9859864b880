// SPDX-License-Identifier: Apache-2.0
//
// The FFI tables of the GPU libraries: types against their own C declarations, names against what
// libraries export, declarations against the vendor's headers. The fakes are always there; a real
// libcudart is where LMSHM_TEST_CUDART says, and CUDA's headers where LMSHM_TEST_CUDA_INCLUDE does.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { gpuStatus } from "../src/gpu/mod.ts";
import { CUDA_DRIVER_SYMBOLS, CUDART_SYMBOLS, HIP_SYMBOLS } from "../src/native/gpu_symbols.ts";
import type { CType, SymbolTable } from "../src/native/symbols.ts";
import { exportedFunctions } from "./support/elf.ts";
import { fakeLibrary, noFakes } from "./support/fake_gpu.ts";

const TABLES = {
  cudart: CUDART_SYMBOLS,
  driver: CUDA_DRIVER_SYMBOLS,
  hip: HIP_SYMBOLS,
} as const satisfies Record<string, SymbolTable>;
const CUDART = process.env.LMSHM_TEST_CUDART ?? "";
const INCLUDE = process.env.LMSHM_TEST_CUDA_INCLUDE ?? "";

/** What points to memory that copies work on, or that is freed: an address, not an out parameter. */
const ADDRESSES = /^(const )?void \*(devPtr|ptr|p|dst|src|dstHost|srcHost)$/;
const OPAQUE = /^(CUdeviceptr|CUcontext|CUstream|CUevent|(cuda|hip)(Stream|Event)_t) \w+$/;

function typeOf(declaration: string, result: boolean): CType {
  if (declaration.includes("*")) {
    return result || ADDRESSES.test(declaration) ? "usize" : "bytes";
  }
  if (/^unsigned (int|char)\b/.test(declaration)) return "u32";
  if (/^size_t\b/.test(declaration) || OPAQUE.test(declaration)) return "usize";
  return "i32"; // int, enumerations, device numbers
}

function parts(c: string): { result: string; name: string; parameters: string[] } {
  const [, result, name, list] = /^(.*?)\b(\w+)\((.*)\)$/.exec(c)!;
  return {
    result: result!.trim(),
    name: name!,
    parameters: list === "void" ? [] : list!.split(", "),
  };
}

test("the FFI types follow from the C declarations", () => {
  for (const table of Object.values<SymbolTable>(TABLES)) {
    for (const [name, { c, args, result }] of Object.entries(table)) {
      const declared = parts(c);
      assert.equal(declared.name, name);
      assert.deepEqual(args, declared.parameters.map((one) => typeOf(one, false)), name);
      assert.equal(result, typeOf(declared.result, true), name);
    }
  }
});

test("the fakes export every function of the tables", { skip: noFakes || false }, () => {
  for (const kind of ["cudart", "driver", "hip"] as const) {
    const exported = new Set(exportedFunctions(fakeLibrary(kind)));
    const missing = Object.keys(TABLES[kind]).filter((name) => !exported.has(name));
    assert.deepEqual(missing, []);
  }
});

test("a real libcudart exports every function of its table", {
  skip: CUDART ? false : "LMSHM_TEST_CUDART names no libcudart",
}, () => {
  const exported = new Set(exportedFunctions(CUDART));
  const missing = Object.keys(CUDART_SYMBOLS).filter((name) => !exported.has(name));
  assert.deepEqual(missing, []);
});

test("a real libcudart without a driver is a clear answer", {
  skip: CUDART ? false : "LMSHM_TEST_CUDART names no libcudart",
}, () => {
  const status = gpuStatus({ gpuLibrary: CUDART });
  if (status.available) return assert.ok(status.devices.length > 0);
  assert.equal(status.gpuError, 35);
  assert.match(status.reason, /cudaErrorInsufficientDriver: .*driver version.* \(35\)$/);
});

/** The declarations of a header, one a line, without what compilers need besides C. */
function plainHeader(name: string): string {
  return readFileSync(`${INCLUDE}/${name}`, "utf8").replace(/\/\*[\s\S]*?\*\//g, " ")
    .replace(/^\s*#.*(\\\n.*)*$/gm, "")
    .replace(/\b__dv\([^()]*\)/g, "")
    .replace(/\b(extern|__host__|__cudart_builtin__|CUDARTAPI|CUDAAPI)\b/g, "")
    .replace(/\s+/g, " ").replace(/\s*\*\s*/g, " *").replace(/\* +(?=\*)/g, "*").replace(
      /\s*([(),;])\s*/g,
      "$1",
    );
}

/** Without the names of parameters, and with the driver's names as its header writes them. */
function signature(c: string): string {
  const { result, name, parameters } = parts(c);
  const types = parameters.map((one) => one.replace(/\b\w+$/, "").replace(/\benum /, "").trim());
  return `${result} ${name.replace(/_v2$/, "")}(${types.join(",") || "void"})`;
}

test("the declarations are those of CUDA's headers", {
  skip: INCLUDE ? false : "LMSHM_TEST_CUDA_INCLUDE names no folder of headers",
}, () => {
  for (
    const [file, table] of [
      ["cuda_runtime_api.h", CUDART_SYMBOLS],
      ["cuda.h", CUDA_DRIVER_SYMBOLS],
    ] as const
  ) {
    assert.ok(existsSync(`${INCLUDE}/${file}`), file);
    const header = plainHeader(file);
    for (const [name, { c }] of Object.entries<{ c: string }>(table)) {
      const bare = name.replace(/_v2$/, "");
      const found = [...header.matchAll(
        new RegExp(`([\\w *]+?)\\b${bare}\\(([^()]*)\\);`, "g"),
      )].map(([, result, list]) =>
        signature(`${result!.trim()} ${bare}(${list!.replaceAll(",", ", ")})`)
      );
      assert.ok(found.length > 0, `${name} is in ${file}`);
      const wanted = signature(c).replace(/^const char \*/, "const char *");
      assert.ok(found.includes(wanted), `${wanted}\n${found.join("\n")}`);
    }
  }
});
