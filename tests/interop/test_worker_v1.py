# SPDX-License-Identifier: Apache-2.0
"""The worker as seen by a Python program that speaks protocol version 1, over pipes and sockets."""

import hmac
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest
from multiprocessing import shared_memory

from worker_clients import (
    PATIENCE_S,
    ListeningWorker,
    PipeClient,
    Segment,
    SocketClient,
    Storage,
    worker_path,
)

CHUNK = 2 * 32 * 256 * 1024 * 2  # bytes: keys and values, layers, tokens, hidden size, bfloat16
KEY = "meta-llama/Llama-3.1-8B@1@0@1f2e3d4c5b6a7988@bfloat16"


class WorkerTest(unittest.TestCase):
    """Gives each test its own directory, and cleans up whatever a test opened."""

    def setUp(self):
        self.storage = self.opened(Storage())

    def opened(self, thing):
        self.addCleanup(thing.close)
        return thing

    def segment(self, size):
        return self.opened(Segment(size))

    def listening(self, *arguments, **variables):
        worker = ListeningWorker(*arguments, **variables)
        self.addCleanup(lambda: self.assertEqual(worker.stop(), 0))
        return worker

    def round_trip(self, client, segment, key=KEY):
        """Stores a chunk, wipes the memory, loads it back; compares all bytes."""
        data = random.Random(key).randbytes(CHUNK)
        offset = 8192
        segment[offset : offset + CHUNK] = data
        path = self.storage.file(key)
        self.assertEqual(client.write(segment, path, offset, CHUNK), f"OK {CHUNK}")
        with open(path, "rb") as file:
            self.assertTrue(file.read() == data, "the file differs")
        segment[offset : offset + CHUNK] = bytes(CHUNK)
        self.assertEqual(client.read(segment, path, offset, CHUNK), f"OK {CHUNK}")
        self.assertTrue(segment.bytes(offset, CHUNK) == data, "the memory differs")
        self.assertFalse(any(segment.bytes(0, offset)), "memory before the chunk was written")


class PipeTest(WorkerTest):
    def test_chunk_round_trip(self):
        client = PipeClient()
        segment = self.segment(CHUNK + 16384)
        self.assertEqual(client.attach(segment), "OK")
        self.round_trip(client, segment)
        self.assertEqual(client.attach(segment, slash=False), "OK")
        self.round_trip(client, segment, "other@1@0@00@half")
        self.assertEqual(sorted(os.listdir(self.storage.path)), [
            "meta-llama-SEP-Llama-3.1-8B@1@0@1f2e3d4c5b6a7988@bfloat16.data",
            "other@1@0@00@half.data",
        ])
        self.assertEqual(client.close(), 0)

    def test_partial_chunk_and_miss(self):
        client = self.opened(PipeClient())
        segment = self.segment(65536)
        self.assertEqual(client.attach(segment), "OK")
        path = self.storage.file("written@by@somebody@else@half")
        with open(path, "wb") as file:
            file.write(b"short")
        self.assertEqual(client.read(segment, path, 0, 65536), "OK 5")
        self.assertEqual(segment.bytes(0, 6), b"short\0")
        answer = client.read(segment, self.storage.file("missing"), 0, 10)
        self.assertTrue(answer.startswith("ERROR ENOENT "), answer)
        answer = client.write(segment, os.path.join(self.storage.path, "no", "x"), 0, 10)
        self.assertTrue(answer.startswith("ERROR ENOENT "), answer)

    def test_bad_requests_are_answered(self):
        client = self.opened(PipeClient())
        segment = self.segment(4096)
        self.assertTrue(client.read(segment, "/x", 0, 1).startswith("ERROR ENOTCONN "))
        self.assertEqual(client.attach(segment), "OK")
        path = self.storage.file("x")
        for line in (
            "",
            "NONSENSE",
            "WRITE",
            f"WRITE {path} {segment.base} -1",
            f"WRITE {path} {segment.base} 4097",
            f"WRITE {path} {segment.base - 1} 1",
            f"WRITE {path} {segment.base} {2**64 - 1}",
            f"WRITE {path} {segment.base} {2**64}",
            f"ATTACH {segment.name} {10**12} {segment.base}",
            f"READ {self.storage.path} {segment.base} 1",
            "x" * 100_000,
            "READ ü\x7f\x1b[0m 1 1",
        ):
            answer = client.call(line)
            self.assertTrue(answer.startswith("ERROR E"), (line[:80], answer))
        self.assertEqual(os.listdir(self.storage.path), [])
        self.assertEqual(client.write(segment, path, 0, 4096), "OK 4096")

    def test_paths_with_spaces(self):
        client = self.opened(PipeClient())
        segment = self.segment(4096)
        client.attach(segment)
        segment[:5] = b"hello"
        path = os.path.join(self.storage.path, "a name with  spaces 12 34")
        self.assertEqual(client.write(segment, path, 0, 5), "OK 5")
        with open(path, "rb") as file:
            self.assertEqual(file.read(), b"hello")

    def test_unread_stderr_does_not_block(self):
        client = PipeClient(LMSHM_LOG="debug")
        for _ in range(3000):
            self.assertEqual(client.call("PING"), "OK")
        self.assertEqual(client.close(), 0)

    def test_worker_ends_with_its_parent(self):
        script = (
            "import subprocess, sys, time\n"
            "p = subprocess.Popen([sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
            "p.stdin.write(b'PING\\n'); p.stdin.flush(); p.stdout.readline()\n"
            "print(p.pid, flush=True)\n"
            "time.sleep(600)\n"
        )
        parent = subprocess.Popen(
            [sys.executable, "-c", script, worker_path()], stdout=subprocess.PIPE, text=True
        )
        self.addCleanup(parent.stdout.close)
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait(timeout=PATIENCE_S)
        deadline = time.monotonic() + PATIENCE_S
        while running(pid):
            self.assertLess(time.monotonic(), deadline, "the worker outlives its parent")
            time.sleep(0.01)

    def test_segment_belongs_to_python(self):
        client = PipeClient()
        segment = self.segment(4096)
        self.assertEqual(client.attach(segment), "OK")
        self.assertEqual(client.close(), 0)
        self.assertTrue(os.path.exists(f"/dev/shm/{segment.name}"))
        segment.close()
        self.assertFalse(os.path.exists(f"/dev/shm/{segment.name}"))

    def test_a_name_that_leads_to_another_segment_is_refused(self):
        ours = self.segment(4096)
        os.unlink(f"/dev/shm/{ours.name}")
        theirs = shared_memory.SharedMemory(name=ours.name, create=True, size=4096)
        self.addCleanup(theirs.close)
        client = PipeClient()
        self.assertTrue(client.attach(ours).startswith("ERROR ESTALE "))
        self.assertEqual(client.close(), 0)


class SocketTest(WorkerTest):
    def test_tcp_round_trip(self):
        worker = self.listening(
            "--listen", "127.0.0.1:0", "--no-auth", "--root", self.storage.path
        )
        client = self.opened(SocketClient(worker.address))
        segment = self.segment(CHUNK + 16384)
        self.assertEqual(client.attach(segment), "OK")
        self.round_trip(client, segment)
        self.assertTrue(client.read(segment, "/etc/hostname", 0, 1).startswith("ERROR EACCES "))
        self.assertEqual(client.call("QUIT"), "OK")
        self.assertEqual(client.line(), "<closed>")
        # The next client is served like the first one.
        again = self.opened(SocketClient(worker.address))
        self.assertEqual(again.attach(segment), "OK")
        self.assertEqual(again.read(segment, self.storage.file(KEY), 0, 10), "OK 10")

    def test_tcp_with_a_secret(self):
        worker = self.listening(
            "--listen=127.0.0.1:0", "--root", self.storage.path, LMSHM_SECRET="correct-horse-battery"
        )
        segment = self.segment(4096)
        client = self.opened(SocketClient(worker.address))
        self.assertTrue(client.attach(segment).startswith("ERROR EACCES "))
        self.assertTrue(client.call("AUTH correct-horse-battery").startswith("ERROR EACCES "))
        proof, answer = self.log_in(client, b"correct-horse-battery")
        self.assertEqual(answer, f"OK {proof}")
        self.assertEqual(client.attach(segment), "OK")
        wrong = self.opened(SocketClient(worker.address))
        _, answer = self.log_in(wrong, b"wrong-horse-battery")
        self.assertTrue(answer.startswith("ERROR EACCES "))
        self.assertEqual(wrong.line(), "<closed>")

    def test_tcp_with_a_secret_in_the_clear(self):
        worker = self.listening(
            "--listen=127.0.0.1:0",
            "--plain-auth",
            "--root",
            self.storage.path,
            LMSHM_SECRET="correct-horse-battery",
        )
        segment = self.segment(4096)
        client = self.opened(SocketClient(worker.address))
        self.assertEqual(client.call("AUTH correct-horse-battery"), "OK")
        self.assertEqual(client.attach(segment), "OK")
        wrong = self.opened(SocketClient(worker.address))
        self.assertTrue(wrong.call("AUTH wrong-horse-battery").startswith("ERROR EACCES "))
        self.assertEqual(wrong.line(), "<closed>")

    @staticmethod
    def log_in(client, secret):
        """Logs in as docs/protocol.md says; the worker's proof as it must be, and its answer."""
        nonce = os.urandom(32).hex()
        answer = client.call(f"CHALLENGE {nonce}")
        words = answer.split(" ")
        assert len(words) == 2 and words[0] == "OK", answer

        def proof(end):
            message = b"\0".join((b"lmshm " + end + b" 1", nonce.encode(), words[1].encode()))
            return hmac.new(secret, message, "sha256").hexdigest()

        return proof(b"worker"), client.call(f"PROVE {proof(b'client')}")

    def test_many_clients_at_once(self):
        path = os.path.join(self.storage.path, "socket")
        worker = self.listening("--listen", f"unix:{path}", "--root", self.storage.path)
        failures = []
        segments = [self.segment(1 << 20) for _ in range(8)]

        def converse(number):
            segment = segments[number]
            data = random.Random(number).randbytes(400_000)
            segment[: len(data)] = data
            client = SocketClient(worker.address)
            try:
                answers = [client.attach(segment)]
                for i in range(10):
                    name = f"client-{number}-{i}.data"
                    answers.append(client.write(segment, name, 0, len(data)))
                    answers.append(client.read(segment, name, 500_000, len(data)))
                    if segment.bytes(500_000, len(data)) != data:
                        failures.append((number, i, "bytes differ"))
                if answers != ["OK"] + [f"OK {len(data)}"] * 20:
                    failures.append((number, answers))
            except OSError as error:
                failures.append((number, error))
            finally:
                client.close()

        threads = [threading.Thread(target=converse, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=PATIENCE_S * 3)
            self.assertFalse(thread.is_alive())
        self.assertEqual(failures, [])

    def test_requests_in_one_write_are_answered_in_order(self):
        worker = self.listening(
            "--listen", "127.0.0.1:0", "--no-auth", "--root", self.storage.path
        )
        client = self.opened(SocketClient(worker.address))
        lines = [f"READ file-{i} 1 1" if i % 2 else "PING" for i in range(2000)]
        client.socket.sendall("".join(line + "\r\n" for line in lines).encode())
        for i in range(2000):
            answer = client.line()
            self.assertTrue(answer.startswith("ERROR ENOTCONN ") if i % 2 else answer == "OK", answer)

    def test_half_closed_connection_still_gets_its_answers(self):
        worker = self.listening(
            "--listen", "127.0.0.1:0", "--no-auth", "--root", self.storage.path
        )
        client = self.opened(SocketClient(worker.address))
        client.socket.sendall(b"PING\nPING\nPING\nQUI")
        client.socket.shutdown(socket.SHUT_WR)
        self.assertEqual([client.line() for _ in range(4)], ["OK", "OK", "OK", "<closed>"])


def running(pid):
    """Whether process `pid` runs; one that ended and was not waited for does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    unittest.main()
