# SPDX-License-Identifier: Apache-2.0
"""The connection of the LMCache L2 adapter (integrations/lmcache) to a worker. LMCache itself is not
needed for that; with it, `npm run test:lmcache` tests the rest."""

import os
import signal
import sys
import threading
import types
import unittest
from pathlib import Path

from worker_clients import PATIENCE_S, Segment, Storage, worker_path

SOURCE = Path(__file__).parents[2] / "integrations/lmcache/src/lmshm_lmcache"

# The package itself imports LMCache; these modules of it do not.
package = types.ModuleType("lmshm_lmcache")
package.__path__ = [str(SOURCE)]
sys.modules.setdefault("lmshm_lmcache", package)

from lmshm_lmcache.link import Connection, LinkError, WorkerLink  # noqa: E402
from lmshm_lmcache.wire import Answer, decode, encode, parse  # noqa: E402

SIZE = 8 << 20


class Wire(unittest.TestCase):
    def test_texts_come_back_from_words(self):
        for text in ("a/b@0x01000100@0@ab", "two words", "ü%;\n", "", "x" * 3000):
            self.assertEqual(decode(encode(text)), text)
            self.assertNotIn(" ", encode(text))

    def test_answers_are_taken_apart(self):
        self.assertEqual(parse("7 OK"), (7, Answer()))
        self.assertEqual(parse("7 OK 10 a=b%20c")[1].named(), {"a": "b c"})
        self.assertEqual(parse("7 ERROR ENOENT get x: no"), (7, Answer("ENOENT", "get x: no")))
        items = parse("7 OK 4 crc32c=1 ; -ENOENT ; -EMSGSIZE 10%20bytes")[1].items()
        self.assertEqual([item.errno for item in items], ["", "ENOENT", "EMSGSIZE"])
        self.assertEqual(items[2].text, "10 bytes")
        for bad in ("", "OK", "x OK", "7 MAYBE", "-1 OK"):
            with self.assertRaises(ValueError, msg=bad):
                parse(bad)


class Link(unittest.TestCase):
    def setUp(self):
        self.storage = Storage()
        self.addCleanup(self.storage.close)
        self.segment = Segment(SIZE)
        self.addCleanup(self.segment.close)

    def link(self, command=None, timeout_s=PATIENCE_S):
        command = command or [worker_path(), "--root", self.storage.path]
        link = WorkerLink(
            opener=lambda: Connection.spawn(command, PATIENCE_S),
            hello="HELLO 2",
            attach=f"{self.segment.name} {SIZE} -",
            timeout_s=timeout_s,
            log=lambda text: None,
        )
        self.addCleanup(link.close)
        return link

    def test_what_is_put_is_got(self):
        link = self.link()
        data = os.urandom(100_000)
        self.segment[0 : len(data)] = data
        self.assertTrue(link.call(f"PUT a%20b 0 {len(data)}", PATIENCE_S).ok)
        got = link.call(f"GET a%20b 1000000 {len(data)}", PATIENCE_S)
        self.assertEqual(got.words[0], str(len(data)))
        self.assertEqual(self.segment.bytes(1000000, len(data)), data)
        self.assertEqual(link.call("GET nothing 0 10", PATIENCE_S).errno, "ENOENT")

    def test_more_than_the_window_waits_for_its_turn(self):
        link = self.link()
        left = threading.Semaphore(0)
        wrong = []

        def take(answer):
            if not answer.ok:
                wrong.append(answer)
            left.release()

        for at in range(3000):
            link.submit(f"PUT k{at} 0 100", take)
        for _ in range(3000):
            self.assertTrue(left.acquire(timeout=PATIENCE_S))
        self.assertEqual(wrong, [])

    def test_what_a_killed_worker_did_not_answer_is_asked_again(self):
        link = self.link()
        answers = []
        done = threading.Event()
        for round_ in range(3):
            os.kill(link.status()["worker_pid"], signal.SIGKILL)
            for at in range(50):
                link.submit(
                    f"PUT k{at} 0 1000", lambda answer: (answers.append(answer), done.set())
                )
            while len(answers) < 50 * (round_ + 1):
                self.assertTrue(done.wait(PATIENCE_S))
                done.clear()
        # None is lost, and each that says so is there.
        self.assertEqual(len(answers), 150)
        self.assertTrue(all(answer.ok for answer in answers), {a.errno for a in answers})

    def test_a_stopped_worker_of_ours_is_killed_and_replaced(self):
        link = self.link(timeout_s=0.5)
        pid = link.status()["worker_pid"]
        os.kill(pid, signal.SIGSTOP)
        self.assertEqual(link.call("PUT k 0 1000", PATIENCE_S).errno, "ECONNRESET")
        while link.status()["worker_pid"] in (None, pid):
            pass
        self.assertTrue(link.call("PUT k 0 1000", PATIENCE_S).ok)

    def test_a_worker_that_cannot_be_had_is_an_error_with_the_fix(self):
        with self.assertRaisesRegex(LinkError, "LMSHM_WORKER"):
            self.link(["/nonexistent/lmshm-worker"])
        with self.assertRaisesRegex(LinkError, "closed|talked"):
            self.link(["/bin/false"])
        with self.assertRaisesRegex(LinkError, "lmshm-worker --listen"):
            Connection.connect(os.path.join(self.storage.path, "none"), 1.0)

    def test_closing_ends_the_worker_and_answers_all(self):
        link = self.link()
        pid = link.status()["worker_pid"]
        answers = []
        for at in range(200):
            link.submit(f"PUT k{at} 0 {SIZE}", answers.append)
        link.close()
        self.assertEqual(len(answers), 200)
        with self.assertRaises(ProcessLookupError):
            os.kill(pid, 0)
        self.assertEqual(link.call("PING", PATIENCE_S).errno, "ESHUTDOWN")


if __name__ == "__main__":
    unittest.main()
