# SPDX-License-Identifier: Apache-2.0
"""A worker as something to rely on: requests go in, each is answered exactly once.

One thread reads answers. Requests are written by whoever makes them, so no thread has to wake for
that. When the worker goes away the link connects again, or starts another worker, and sends once
more what was not answered; what does not bear being done twice is answered with ECONNRESET instead.

A request that moves bytes is never given up while a worker could still be at it: its memory would be
somebody else's by then. It is cancelled when its time is up, and answered once the worker has said so
or is gone. A worker of our own that does not even do that is killed. One that is not ours, and is
stopped, keeps its requests; until it goes on, new ones are refused at once.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from lmshm_lmcache.wire import IF_ABSENT, Answer, parse

_FIRST_BACKOFF_S = 0.1
_LAST_BACKOFF_S = 5.0
_GRACE_S = 5.0  # for a worker to answer a request that was cancelled
_SENDS = 3  # of one request, at most


class LinkError(RuntimeError):
    """A worker cannot be had. The text says why, and what usually helps."""


@dataclass
class _Request:
    words: str
    on_answer: Callable[[Answer], None]
    repeatable: bool
    deadline: float
    sends: int = 0
    cancelled: bool = False


class Connection:
    """A stream to a worker, and the worker's process if we started it."""

    def __init__(self, stream: socket.socket, process: subprocess.Popen[bytes] | None) -> None:
        self.stream = stream
        self.process = process

    @staticmethod
    def connect(path: str, timeout_s: float) -> Connection:
        """To one that listens on a Unix socket."""
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.settimeout(timeout_s)
        try:
            stream.connect(path)
        except OSError as error:
            stream.close()
            raise LinkError(
                f"no worker answers at {path} ({error.strerror or error}): start one with"
                f" lmshm-worker --listen unix:{path} --root DIR"
            ) from error
        return Connection(stream, None)

    @staticmethod
    def spawn(command: list[str], timeout_s: float) -> Connection:
        """A new one, which ends with the stream."""
        ours, its = socket.socketpair()
        try:
            process = subprocess.Popen(command, stdin=its.fileno(), stdout=its.fileno())
        except OSError as error:
            ours.close()
            raise LinkError(
                f"{command[0]} cannot be started ({error.strerror or error}): say where lmshm-worker"
                ' is with "worker" in adapter_params, or with LMSHM_WORKER'
            ) from error
        finally:
            its.close()
        ours.settimeout(timeout_s)
        return Connection(ours, process)

    def close(self, patience_s: float) -> bool:
        """Returns once the worker does not use the memory any more: it closes its end only then. False:
        one that is not ours has not done so in that time."""
        ended = self._drain(patience_s)
        self.stream.close()
        if self.process is None:
            return ended
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return True

    def _drain(self, patience_s: float) -> bool:
        deadline = time.monotonic() + patience_s
        try:
            self.stream.shutdown(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self.stream.settimeout(left)
                if not self.stream.recv(65536):
                    return True
        except TimeoutError:
            return False
        except OSError:
            return True  # it is closed already
        return False


class _Lines:
    """The lines of a stream that is read in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace") for line in whole]


class WorkerLink:
    """Thread safe. Callbacks run on the link's own thread, or on that of submit() for what is refused
    at once; they must not block."""

    def __init__(
        self,
        opener: Callable[[], Connection],
        hello: str,
        attach: str,
        timeout_s: float,
        log: Callable[[str], None],
    ) -> None:
        """Opens the first connection. Raises LinkError.

        hello: the line that takes a connection to version 2. attach: the words of ATTACH.
        timeout_s: how long a request may take before it is cancelled.
        """
        self._opener = opener
        self._hello = hello
        self._attach = attach
        self._timeout_s = timeout_s
        self._log = log
        self._lock = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._next_id = 1
        self._in_flight: dict[int, _Request] = {}
        self._waiting: deque[_Request] = deque()
        self._out = bytearray()
        self._window = 1
        self._reconnects = 0
        self._down_reason = ""  # why there is no connection, once that was tried
        self._stalled = False  # the worker does not answer what was cancelled
        self._closing = False
        self._lines = _Lines()
        self.worker = ""
        self._connection: Connection | None = self._open()
        self._thread = threading.Thread(target=self._main, daemon=True, name="lmshm-link")
        self._thread.start()

    # -- requests --

    def submit(
        self,
        words: str,
        on_answer: Callable[[Answer], None],
        repeatable: bool = True,
    ) -> None:
        """Sends `words`, a verb and what belongs to it, as soon as there is room. `repeatable`: it may
        be done twice; the second time without IF_ABSENT, for it would find what the first has left."""
        request = _Request(words, on_answer, repeatable, time.monotonic() + self._timeout_s)
        with self._lock:
            refused = self._refusal()
            if refused is None:
                self._waiting.append(request)
                self._send()
        if refused is not None:
            on_answer(refused)

    def call(self, words: str, timeout_s: float, repeatable: bool = True) -> Answer:
        """The same, and waits for the answer. ETIMEDOUT: it has not come; it is not waited for any
        longer, so only for requests that move no bytes. Not from a callback."""
        done = threading.Event()
        answers: list[Answer] = []

        def take(answer: Answer) -> None:
            answers.append(answer)
            done.set()

        self.submit(words, take, repeatable)
        if not done.wait(timeout_s):
            return Answer("ETIMEDOUT", f"the worker has not answered within {timeout_s} s: {words[:80]}")
        return answers[0]

    def status(self) -> dict[str, object]:
        """How it is, for people and for monitoring."""
        with self._lock:
            connection = self._connection
            return {
                "connected": connection is not None,
                "answering": not self._stalled,
                "reason": self._down_reason,
                "worker": self.worker,
                "worker_pid": connection.process.pid if connection and connection.process else None,
                "reconnects": self._reconnects,
                "in_flight": len(self._in_flight),
                "waiting": len(self._waiting),
            }

    def close(self) -> None:
        """Cancels what is under way and returns once the worker has let go of the memory, at the
        latest when the worker, if it is ours, was killed."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self._ring()  # the thread cancels what is in flight
        self._thread.join()
        os.close(self._wake)

    # -- for whoever holds the lock --

    def _refusal(self) -> Answer | None:
        if self._closing:
            return Answer("ESHUTDOWN", "the link to the worker is closed")
        if self._stalled:
            return Answer("ETIMEDOUT", "the worker does not answer: is its process stopped?")
        if self._connection is None and self._down_reason:
            return Answer("ENOTCONN", self._down_reason)
        return None

    def _take_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    def _send(self) -> None:
        if self._connection is None or self._closing:
            return
        while self._waiting and len(self._in_flight) < self._window:
            request = self._waiting.popleft()
            identity = self._take_id()
            request.sends += 1
            self._in_flight[identity] = request
            self._out += f"{identity} {request.words}\n".encode()
        self._flush()

    def _flush(self) -> None:
        connection = self._connection
        had = len(self._out)
        while self._out and connection is not None:
            try:
                sent = connection.stream.send(self._out, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                break
            except OSError:
                self._out.clear()  # the thread notices that the stream has ended
                break
            del self._out[:sent]
        if self._out and had:
            self._ring()  # the thread waits for room

    def _ring(self) -> None:
        os.eventfd_write(self._wake, 1)

    # -- connecting --

    def _open(self) -> Connection:
        """A connection in version 2 with the segment attached. Raises LinkError."""
        connection = self._opener()
        try:
            lines = _Lines()
            pending: list[str] = []

            def ask(line: str) -> str:
                connection.stream.sendall(line.encode() + b"\n")
                while not pending:
                    data = connection.stream.recv(65536)
                    if not data:
                        raise LinkError("the worker has closed the connection; its log says why")
                    pending.extend(lines.feed(data))
                return pending.pop(0)

            hello = ask(self._hello)
            if not hello.startswith("OK 2"):
                raise LinkError(f"the worker does not take us in: {hello}")
            named = Answer(words=hello.split(" ")).named()
            attached = parse(ask(f"{self._take_id()} ATTACH {self._attach}"))[1]
            if not attached.ok:
                raise LinkError(f"the worker cannot attach the server's pool: {attached.text}")
            self._window = max(1, int(named.get("window", "1")))
            self.worker = named.get("worker", "")
            self._lines = lines
            connection.stream.setblocking(False)
            return connection
        except (OSError, ValueError) as error:
            connection.close(_GRACE_S)
            raise LinkError(f"the worker cannot be talked to ({error}); its log says why") from error
        except LinkError:
            connection.close(_GRACE_S)
            raise

    def _reconnect(self) -> None:
        backoff = _FIRST_BACKOFF_S
        while True:
            with self._lock:
                if self._closing:
                    return
            try:
                connection = self._open()
            except LinkError as error:
                self._log(f"{error}; trying again in {backoff:.1f} s")
                with self._lock:
                    self._down_reason = str(error)
                    refused = list(self._waiting)
                    self._waiting.clear()
                for request in refused:
                    request.on_answer(Answer("ENOTCONN", str(error)))
                select.select([self._wake], [], [], backoff)
                backoff = min(backoff * 2, _LAST_BACKOFF_S)
                continue
            with self._lock:
                self._connection = connection
                self._down_reason = ""
                self._reconnects += 1
                self._send()
            self._log(f"connected again to {self.worker}")
            return

    # -- the thread --

    def _main(self) -> None:
        while True:
            with self._lock:
                connection = self._connection
            if connection is None:
                self._reconnect()
                with self._lock:
                    if self._connection is None:
                        break
                continue
            if not self._serve(connection):
                break
        self._end()

    def _serve(self, connection: Connection) -> bool:
        """Reads until the stream ends. False: the link is to be closed."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        while True:
            with self._lock:
                if self._closing and not self._in_flight:
                    return False
                events = select.POLLIN | (select.POLLOUT if self._out else 0)
            poll.register(connection.stream, events)
            happened = dict(poll.poll(500))
            if self._wake in happened:
                try:
                    os.eventfd_read(self._wake)
                except BlockingIOError:
                    pass
            if connection.stream.fileno() in happened:
                try:
                    data = connection.stream.recv(1 << 18)
                except BlockingIOError:
                    data = None
                except OSError:
                    data = b""
                if data == b"":
                    return self._lost(connection)
                try:
                    self._take(data or b"")
                except ValueError as error:
                    self._log(str(error))
                    return self._lost(connection)
            if not self._look_at_deadlines(connection):
                return self._lost(connection)

    def _take(self, data: bytes) -> None:
        answered: list[tuple[_Request, Answer]] = []
        lines = self._lines.feed(data)
        with self._lock:
            for line in lines:
                identity, answer = parse(line)
                request = self._in_flight.pop(identity, None)
                if request is not None:
                    answered.append((request, answer))
                elif identity == 0:
                    self._log(f"the worker did not understand a line: {answer.text}")
            if answered:
                self._stalled = False
            self._send()
        for request, answer in answered:
            request.on_answer(answer)

    def _look_at_deadlines(self, connection: Connection) -> bool:
        """Cancels what takes too long. False: a worker of ours does not answer, and is to be killed."""
        now = time.monotonic()
        kill = False
        with self._lock:
            late = [request for request in self._waiting if request.deadline <= now]
            for request in late:
                self._waiting.remove(request)
            for identity, request in self._in_flight.items():
                if request.deadline > now and not self._closing:
                    continue
                if not request.cancelled:
                    request.cancelled = True
                    request.deadline = min(request.deadline, now)
                    self._out += b"%d CANCEL %d\n" % (self._take_id(), identity)
                elif request.deadline + _GRACE_S <= now:
                    if not self._stalled:
                        self._log(f"the worker does not answer: {request.words[:80]}")
                    self._stalled = True
                    kill = connection.process is not None
            self._flush()
            give_up = self._closing and self._stalled
        for request in late:
            request.on_answer(Answer("ETIMEDOUT", f"the worker was busy for {self._timeout_s} s"))
        if kill and connection.process is not None:
            connection.process.kill()
        return not kill and not give_up

    def _lost(self, connection: Connection) -> bool:
        if not connection.close(_GRACE_S):
            self._log("the worker has not closed its end: it may still use the server's memory")
        failed: list[_Request] = []
        with self._lock:
            self._connection = None
            self._stalled = False
            self._out.clear()
            again: list[_Request] = []
            for request in self._in_flight.values():
                good = request.repeatable and request.sends < _SENDS and not request.cancelled
                (again if good and not self._closing else failed).append(request)
                request.words = request.words.replace(IF_ABSENT, "")
            self._in_flight.clear()
            self._waiting.extendleft(reversed(again))
            closing = self._closing
        for request in failed:
            request.on_answer(Answer("ECONNRESET", "the worker has gone away"))
        if not closing:
            self._log("the worker has gone away; connecting again")
        return not closing

    def _end(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            left = [*self._in_flight.values(), *self._waiting]
            self._in_flight.clear()
            self._waiting.clear()
        if connection is not None:
            connection.close(_GRACE_S)
        for request in left:
            request.on_answer(Answer("ESHUTDOWN", "the link to the worker is closed"))
