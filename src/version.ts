// SPDX-License-Identifier: Apache-2.0

/** Of this package; version_test.ts holds it against package.json, lmshm.h and the worker. */
export const version = "0.1.0";
