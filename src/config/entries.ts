// SPDX-License-Identifier: Apache-2.0
//
// One key and its value as somebody wrote it, and where. Files and the environment are read into
// entries; what they mean is decided in resolve.ts.

import type { Section } from "./settings.ts";

export interface Entry {
  readonly section: Section;
  readonly key: string;
  /** Null: as if it were not there. */
  readonly value: unknown;
  readonly place: string;
}
