// SPDX-License-Identifier: Apache-2.0
//
// The lmshm command with the built parts inside: `npm run compile` makes one executable of it.

import "../embed.ts";
import "./main.ts";
