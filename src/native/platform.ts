// SPDX-License-Identifier: Apache-2.0
//
// The platform of this process, as the folders of lib/ and the packages with the built parts name
// it. Its C library is the one that the process runs on: parts for both may be installed.

import process from "node:process";
import { ffi } from "./ffi.ts";

/** Those that there are built parts for. */
export const PLATFORMS: readonly string[] = [
  "linux-x64-gnu",
  "linux-x64-musl",
  "linux-arm64-gnu",
  "linux-arm64-musl",
];

let name: string | undefined;

/** For example "linux-x64-gnu"; elsewhere than on Linux "darwin-arm64". */
export function platformName(): string {
  const { platform, arch } = process;
  return name ??= `${platform}-${arch}${platform === "linux" ? `-${ffi.libc()}` : ""}`;
}

/** The npm package with the built parts of a platform. */
export function platformPackage(platform: string): string {
  return `@lmshm/${platform}`;
}
