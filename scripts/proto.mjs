// SPDX-License-Identifier: Apache-2.0
//
// `npm run proto`: makes src/lmcache/wire/lmcache_pb.ts of lmcache.proto.

import { installDependencies } from "./common/dependencies.mjs";
import { writeProto } from "./common/proto.mjs";
import { runMain, say } from "./common/system.mjs";

await runMain(async () => {
  await installDependencies();
  await writeProto();
  say("src/lmcache/wire/lmcache_pb.ts is written");
});
