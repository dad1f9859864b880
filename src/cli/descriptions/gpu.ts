// SPDX-License-Identifier: Apache-2.0

import { type CommandDescription, JSON_OPTION } from "../description.ts";

/** lmshm gpu. */
export const GPU = {
  name: "gpu",
  summary: "show the GPUs, pin a segment for one, and measure copies",
  usage: "[OPTION]...",
  about: [
    "Shows the GPUs, pins a segment for one of them, checks by the GPU's own word that it is " +
    "pinned, and measures copies between the device and the pool, memory of cudaHostAlloc, and " +
    "unpinned memory.",
  ],
  options: [
    { name: "list", text: "only show the GPUs" },
    { name: "device", value: "N", text: "the GPU, from 0 (default $LMSHM_GPU_DEVICE, else 0)" },
    {
      name: "library",
      value: "FILE",
      completes: "file",
      text:
        "a GPU library (default $LMSHM_GPU_LIBRARY, else libcudart, libcuda, libamdhip64 as found)",
    },
    {
      name: "size",
      value: "SIZE",
      repeat: true,
      text: "bytes of a copy; may be repeated (default 1MB 8MB 32MiB 256MB)",
    },
    { name: "repeat", value: "N", text: "samples of each copy, 1 to 1000 (default 15)" },
    { name: "quick", text: "1MB and 8MB, 3 samples" },
    JSON_OPTION,
  ],
  examples: [
    { run: "lmshm gpu --list", does: "Which GPUs are there?" },
    { run: "lmshm gpu --quick", does: "Does pinning work, and is it worth it?" },
  ],
  status: { 0: "all of that could be done", 1: "there is no GPU, or something failed" },
  json: {
    form: "object",
    members: {
      ok: "all could be done",
      version: "of this command",
      runtime: "name and version",
      gpu: "available, reason, library, kind, versions and devices",
      device: "the one that was used, with freeBytes",
      segment: "sizeBytes, pinnedBy, createMs, gpuSays",
      sameBytes: "what was copied there came back as it was",
      repeat: "samples of each copy",
      copies: "bytes, way, rates and ratios of each",
    },
  },
} as const satisfies CommandDescription;
