// SPDX-License-Identifier: Apache-2.0
//
// The public names of "lmshm/config": configurations from files, environment variables and code.

export { createConfig, type LmshmConfig } from "./config.ts";
export { type ConfigSources, loadConfig, type LoadedConfig } from "./load.ts";
export type { Environment } from "./environment.ts";
export type { NumaPlacement } from "./kinds.ts";
export type { ConfigProblem } from "./problems.ts";
