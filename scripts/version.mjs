// SPDX-License-Identifier: Apache-2.0
//
// `npm version X` runs this when package.json has its new version: the files that repeat it follow,
// and are part of the commit that npm makes.

import { must, runMain, say } from "./common/system.mjs";
import { projectVersion, writeVersion } from "./common/version.mjs";

await runMain(async () => {
  const written = writeVersion();
  await must("git add", "git", ["add", ...written]);
  say(`version ${projectVersion()} in ${written.join(", ")}`);
});
