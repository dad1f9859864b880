# SPDX-License-Identifier: Apache-2.0
"""Clients of protocol version 1 as a Python program would write them, and what they need.

Nothing here knows lmshm: shared memory comes from multiprocessing.shared_memory, the requests are
formatted by hand, and stderr of a worker that was spawned is a pipe that nobody reads.
"""

import contextlib
import ctypes
import itertools
import os
import platform
import select
import socket
import subprocess
import tempfile
from multiprocessing import shared_memory
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 30


def worker_path():
    """The worker to test: LMSHM_WORKER, else the one that was built last."""
    given = os.environ.get("LMSHM_WORKER")
    if given:
        return given
    cpu = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    places = [ROOT / "lib" / f"linux-{cpu}-{libc}" / "lmshm-worker" for libc in ("gnu", "musl")]
    places += [ROOT / "build" / "dev" / "out" / "lmshm-worker"]
    found = [path for path in places if path.exists()]
    if not found:
        tried = ", ".join(str(path) for path in places)
        raise RuntimeError(f"no lmshm-worker; tried {tried}. Build it, or set LMSHM_WORKER")
    return str(max(found, key=lambda path: path.stat().st_mtime))


def environment(**more):
    """This process's environment without settings of the worker, and with `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LMSHM_")}
    return {**kept, **more}


class Segment:
    """A POSIX shared memory segment made by Python, and its address here."""

    _numbers = itertools.count()

    def __init__(self, size):
        self.name = f"lmshm_test_py_{os.getpid()}_{next(self._numbers)}"
        self.size = size
        self.memory = shared_memory.SharedMemory(name=self.name, create=True, size=size)
        anchor = (ctypes.c_char * size).from_buffer(self.memory.buf)
        self.base = ctypes.addressof(anchor)
        del anchor  # the mapping stays where it is; the buffer may be closed

    def __setitem__(self, where, value):
        self.memory.buf[where] = value

    def bytes(self, offset, length):
        return bytes(self.memory.buf[offset : offset + length])

    def close(self):
        self.memory.close()
        with contextlib.suppress(FileNotFoundError):
            self.memory.unlink()


class Client:
    """One line out, one line in; subclasses say through what."""

    def call(self, line):
        raise NotImplementedError

    def attach(self, segment, slash=True):
        name = f"/{segment.name}" if slash else segment.name
        return self.call(f"ATTACH {name} {segment.size} {segment.base}")

    def write(self, segment, path, offset, length):
        return self.call(f"WRITE {path} {segment.base + offset} {length}")

    def read(self, segment, path, offset, length):
        return self.call(f"READ {path} {segment.base + offset} {length}")


class PipeClient(Client):
    """Spawns a worker without arguments, with three pipes in text mode, and never reads stderr."""

    def __init__(self, *arguments, **variables):
        self.process = subprocess.Popen(
            [worker_path(), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment(**variables),
        )

    def call(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
        if not ready:
            raise TimeoutError(f"no answer to {line[:100]!r}")
        return self.process.stdout.readline().strip()

    def close(self):
        """QUIT, then SIGTERM if it still runs; returns the exit status."""
        with contextlib.suppress(BrokenPipeError, ValueError):
            self.call("QUIT")
        if self.process.poll() is None:
            self.process.terminate()
        status = self.process.wait(timeout=PATIENCE_S)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        return status


class SocketClient(Client):
    """Connects to "host:port" or "unix:/path"."""

    def __init__(self, address):
        if address.startswith("unix:"):
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            target = address[len("unix:") :]
        else:
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            host, port = address.rsplit(":", 1)
            target = (host, int(port))
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(target)
        self.received = b""

    def call(self, line):
        self.socket.sendall(line.encode() + b"\n")
        return self.line()

    def line(self):
        while b"\n" not in self.received:
            data = self.socket.recv(4096)
            if not data:
                return "<closed>"
            self.received += data
        line, self.received = self.received.split(b"\n", 1)
        return line.decode().strip()

    def close(self):
        self.socket.close()


class ListeningWorker:
    """A worker that listens; `address` is what it announced."""

    def __init__(self, *arguments, **variables):
        self.process = subprocess.Popen(
            [worker_path(), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(**variables),
        )
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
        line = self.process.stdout.readline() if ready else ""
        if not line.startswith("LISTENING "):
            self.stop()
            raise RuntimeError(f"the worker did not announce itself but said {line!r}")
        self.address = line.split(" ", 1)[1].strip()

    def stop(self):
        """SIGTERM; returns the exit status."""
        self.process.terminate()
        try:
            status = self.process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self.process.stdout.close()
        return status


class Storage:
    """A temporary directory with files named as a cache connector names them."""

    def __init__(self):
        self._directory = tempfile.TemporaryDirectory(prefix=f"lmshm_test_py_{os.getpid()}_")
        self.path = self._directory.name

    def file(self, key):
        return os.path.join(self.path, key.replace("/", "-SEP-") + ".data")

    def close(self):
        self._directory.cleanup()
