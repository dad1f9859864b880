# SPDX-License-Identifier: Apache-2.0
"""The Python half of with_python.ts: python3 with_python.py NAME SIZE

Each line on stdin has three numbers: the offset of an object, that of another one, and their length.
The second gets the squares of the first one's numbers, which are doubles.

The segment is opened as the file that it is. multiprocessing.shared_memory would do as well from
Python 3.13 on, with track=False; before, it unlinks the segment when this process ends, although
another one owns it.
"""

import mmap
import os
import sys


def main(name: str, size: int) -> None:
    descriptor = os.open(f"/dev/shm/{name}", os.O_RDWR)
    with mmap.mmap(descriptor, size) as pool:
        os.close(descriptor)
        for line in sys.stdin:
            source, target, length = map(int, line.split())
            with memoryview(pool) as memory:
                numbers = memory[source : source + length].cast("d")
                results = memory[target : target + length].cast("d")
                for at, number in enumerate(numbers):
                    results[at] = number * number
                count = len(numbers)
                numbers.release()
                results.release()
            print(f"python: {count} numbers at {source}, their squares at {target}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
