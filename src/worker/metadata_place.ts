// SPDX-License-Identifier: Apache-2.0
//
// Where a store has no place for metadata and checksums (keepsMetadata is false): why, and what would
// keep them. One sentence for all who tell of it. Pure.

/** @param engine as the worker's HELLO says it; null: it did not. */
export function whatKeepsMetadata(protocol: 1 | 2, engine: string | null): string {
  if (protocol === 1) {
    return "A worker of protocol version 1 keeps none: lmshm-worker in its place does";
  }
  switch (engine) {
    case "directory":
      return "The directory's file system has no extended attributes: use a directory of one that " +
        "has them (ext4, xfs, btrfs; tmpfs since Linux 6.6)";
    case null:
      return "A directory whose file system has extended attributes keeps it, and an engine with " +
        "layout=lmshm";
    default:
      return `The layout in the ${engine} URL keeps none: leave it out there, or say layout=lmshm`;
  }
}
