# SPDX-License-Identifier: Apache-2.0
"""Lines of the worker's protocol, version 2: words in, words out. Pure functions.

docs/protocol_v2.md is the description.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

# All that may stand for itself in a word.
_CODED = re.compile(rb"[^A-Za-z0-9\-._~@/:+=,]")

MAX_LINE_BYTES = 65536
MAX_BATCH_OBJECTS = 1024

IF_ABSENT = " if=absent"
"""An option of PUT: an object that is there stays, and the answer is EEXIST."""


def encode(text: str) -> str:
    """The text as one word. Raises UnicodeEncodeError for what is not Unicode."""
    return _CODED.sub(lambda found: b"%%%02X" % found[0][0], text.encode()).decode("ascii")


def decode(word: str) -> str:
    """What a word stands for; bytes that are not UTF-8 become U+FFFD."""
    return unquote_to_bytes(word).decode(errors="replace")


@dataclass(frozen=True)
class Answer:
    """What a request, or one object of a batch, was answered with."""

    errno: str = ""
    """The name of the error, such as ENOENT; empty: it succeeded."""
    text: str = ""
    """Of a failure, for people. That of EMSGSIZE begins with the object's length."""
    words: list[str] = field(default_factory=list)
    """Of a success, still coded."""

    @property
    def ok(self) -> bool:
        return not self.errno

    def named(self) -> dict[str, str]:
        """The words of the form name=value, decoded."""
        pairs = (word.split("=", 1) for word in self.words if "=" in word)
        return {name: decode(value) for name, value in pairs}

    def items(self) -> list[Answer]:
        """One answer for each object of a batch."""
        if not self.ok:
            return [self]
        items: list[Answer] = []
        words: list[str] = []
        for word in [*self.words, ";"]:
            if word != ";":
                words.append(word)
                continue
            if words and words[0].startswith("-"):
                items.append(Answer(words[0][1:], " ".join(map(decode, words[1:]))))
            else:
                items.append(Answer(words=words))
            words = []
        return items


def parse(line: str) -> tuple[int, Answer]:
    """The id of an answer, and what it says. Raises ValueError for a line that is none."""
    number, _, rest = line.partition(" ")
    verdict, _, rest = rest.partition(" ")
    if not number.isdecimal():
        raise ValueError(f"the worker sent a line without an id: {line[:80]!r}")
    if verdict == "OK":
        return int(number), Answer(words=rest.split(" ") if rest else [])
    if verdict == "ERROR":
        errno, _, text = rest.partition(" ")
        return int(number), Answer(errno or "EPROTO", text)
    raise ValueError(f"the worker sent a line that is no answer: {line[:80]!r}")
