// SPDX-License-Identifier: Apache-2.0
//
// Runs the CommonJS file that it is given. Deno takes a .js file for a module unless it is
// require()d, and install scripts of npm packages are CommonJS.

import { createRequire } from "node:module";
import process from "node:process";

createRequire(import.meta.url)(process.argv[2]);
