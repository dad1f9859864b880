// SPDX-License-Identifier: Apache-2.0
//
// The public names of "lmshm/config": what a program configures, from files, variables and code.

export { createConfig, type LmshmConfig } from "./config.ts";
export { type ConfigSources, loadConfig, type LoadedConfig } from "./load.ts";
export type { Environment } from "./environment.ts";
export type { NumaPlacement } from "./kinds.ts";
export type { ConfigProblem } from "./problems.ts";
