// SPDX-License-Identifier: Apache-2.0
//
// execv(3): this process goes on as another program, with its process id, its parent and its open
// stdin, stdout and stderr. Neither runtime offers it, but both call C. The kernel ends all other
// threads of the runtime; what JavaScript has not written or closed by then is lost.

import { ShmError } from "../errors.ts";
import { cString, execCalls } from "./c_library.ts";
import { ffi } from "./ffi.ts";

const SIG_SETMASK = 2;
const SIGPIPE = 13;
const SIG_DFL = 0n;
const F_GETFL = 3;
const F_SETFL = 4;
const O_NONBLOCK = 0o4000;
/** sigset_t of glibc and of musl. */
const SIGNAL_SET_BYTES = 128;

/**
 * Becomes `path`. Returns only by throwing.
 * @param args without the program's own name, which is `name`
 * @throws {ShmError} ENOEXEC: the kernel does not run it.
 */
export function replaceProcess(path: string, name: string, args: readonly string[]): never {
  const strings = [name, ...args].map(cString);
  const list = new BigUint64Array(strings.length + 1);
  for (const [index, text] of strings.entries()) list[index] = ffi.addressOf(text);
  const { execv, fcntl, signal, sigprocmask } = execCalls();
  // Bun does not wait for a pipe that it writes to, and the program does.
  for (const fd of [0, 1, 2]) {
    const flags = fcntl(fd, F_GETFL, 0);
    if (flags >= 0 && (flags & O_NONBLOCK) !== 0) fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
  }
  // The runtime ignores SIGPIPE and may block signals, and both would be inherited.
  signal(SIGPIPE, SIG_DFL);
  sigprocmask(SIG_SETMASK, new Uint8Array(SIGNAL_SET_BYTES), null);
  execv(cString(path), new Uint8Array(list.buffer));
  throw new ShmError(`${path} cannot be run`, {
    code: "ENOEXEC",
    operation: "become worker",
    hint:
      "It must be a program for this machine, with execute permission, on a file system that is " +
      "not mounted noexec",
    details: { path, strings: strings.length },
  });
}
