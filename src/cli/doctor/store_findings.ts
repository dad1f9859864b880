// SPDX-License-Identifier: Apache-2.0
//
// What the facts of directories and of a running worker mean. Pure.

import type { DirectoryFacts, RunningWorkerFacts } from "./facts.ts";
import { type Finding, finding, ok, size } from "./finding.ts";

const LEAST_FREE_SHARE = 0.05;

/** Magic numbers of statfs(2). */
const FILE_SYSTEMS: Readonly<Record<number, string>> = {
  0xef53: "ext4",
  0x58465342: "XFS",
  0x9123683e: "Btrfs",
  0x01021994: "tmpfs",
  0x794c7630: "overlayfs",
  0x6969: "NFS",
  0x65735546: "FUSE",
  0x00c36400: "CephFS",
  0x2fc12fc1: "ZFS",
  0xff534d42: "CIFS",
  0xfe534d42: "SMB",
};
const REMOTE: ReadonlySet<number> = new Set([0x6969, 0x00c36400, 0xff534d42, 0xfe534d42]);

/** Of a directory that is a store, or is to become one. */
export function directoryFindings(facts: DirectoryFacts): Finding[] {
  const { path, fault, fileSystem, sizeBytes, freeBytes } = facts;
  if (fault !== null) {
    return [
      finding(
        "directory",
        "error",
        `${path}: ${fault}`,
        "nothing can be stored there by this user",
        fault.includes("ENOENT")
          ? `install -d -m 700 -o "$(id -un)" ${path}`
          : `chown "$(id -un)" ${path}   (as root, for the user that stores there)`,
      ),
    ];
  }
  const name = FILE_SYSTEMS[fileSystem] ?? `file system 0x${fileSystem.toString(16)}`;
  const room = `${path}: ${name}, ${size(freeBytes)} of ${size(sizeBytes)} free`;
  const found = [
    freeBytes < sizeBytes * LEAST_FREE_SHARE
      ? finding(
        "disk",
        "warning",
        room,
        "puts fail when it is full (ENOSPC)",
        `lmshm worker --listen unix:/run/lmshm.sock --root ${path} --max-bytes ` +
          `${Math.floor(sizeBytes * 0.9)}`,
      )
      : ok("disk", room),
    facts.direct ? ok("direct", `${path}: I/O past the page cache (O_DIRECT)`) : finding(
      "direct",
      "note",
      `${path}: no I/O past the page cache (O_DIRECT)`,
      "all goes through the page cache, and takes two to three times the CPU time",
    ),
    facts.attributes ? ok("attributes", `${path}: user extended attributes`) : finding(
      "attributes",
      "warning",
      `${path}: no user extended attributes`,
      "neither checksums nor metadata are kept: what the disk garbles is not noticed",
      fileSystem === 0x01021994
        ? "use Linux 6.6 or another file system (ext4, XFS, Btrfs)"
        : "use ext4, XFS or Btrfs",
    ),
    facts.nameless ? ok("nameless-files", `${path}: files without a name (O_TMPFILE)`) : finding(
      "nameless-files",
      "note",
      `${path}: no files without a name (O_TMPFILE)`,
      "objects are written to temporaries and renamed, which leaves some behind when a worker is killed",
    ),
  ];
  if (REMOTE.has(fileSystem)) {
    found.push(
      finding(
        "remote-file-system",
        "note",
        `${path} is on ${name}`,
        "small objects are not kept open, and a quota counts everything again every second",
      ),
    );
  }
  if (facts.temporaries + facts.sidecars > 0) {
    found.push(
      finding(
        "leftovers",
        "note",
        `${path}: ${facts.temporaries} temporaries and ${facts.sidecars} key files of killed writers`,
        "they take room until a worker opens the directory",
        `lmshm ls ${path} > /dev/null   (starts a worker, which removes them)`,
      ),
    );
  }
  return found;
}

/** Of a worker that runs already. */
export function runningWorkerFinding(facts: RunningWorkerFacts, version: string): Finding {
  const { address, fault } = facts;
  if (fault !== null) {
    return finding(
      "running-worker",
      "error",
      `the worker at ${address} cannot be used: ${fault}`,
      "programs that are to use it fail in the same way",
      "lmshm worker --listen " +
        `${address.startsWith("/") ? `unix:${address}` : address} --root /path/of/store`,
    );
  }
  if (facts.version === null) {
    return finding(
      "running-worker",
      "note",
      `the worker at ${address} speaks version 1 of the protocol only`,
      "no checksums, no metadata, no statistics",
      `lmshm worker --listen ${address} ...   (in its place)`,
    );
  }
  if (facts.version !== version) {
    return finding(
      "running-worker",
      "warning",
      `the worker at ${address} is ${facts.version}, and this is ${version}`,
      "what only one of them knows is not used",
      "install all of lmshm in one version, and start the worker again",
    );
  }
  return ok("running-worker", `the worker at ${address} is ${version}, and shares memory with us`);
}
