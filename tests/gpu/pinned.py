# SPDX-License-Identifier: Apache-2.0
#
# The pool from Python, through ctypes: a torch tensor over it must be pinned in torch's own words,
# and copy without blocking. Run by scripts/gpu_check.sh.
#
#   python3 tests/gpu/pinned.py LIBLMSHM.so [MIB]
#
# Exit status 0: all is well; 1: something is not; 77: there is no torch, or no GPU for it.

import ctypes
import os
import sys


def load(path):
    lib = ctypes.CDLL(path)
    lib.alloc_shm_pinned_ptr.argtypes = [ctypes.c_size_t, ctypes.c_char_p]
    lib.alloc_shm_pinned_ptr.restype = ctypes.c_ssize_t
    lib.free_shm_pinned_ptr.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    lib.free_shm_pinned_ptr.restype = ctypes.c_int
    return lib


def check(what, fine):
    print("ok     " if fine else "FAILED ", what, sep="", flush=True)
    return fine


def main():
    if len(sys.argv) not in (2, 3):
        print("usage: pinned.py LIBLMSHM.so [MIB]", file=sys.stderr)
        return 2
    size = int(sys.argv[2] if len(sys.argv) == 3 else "256") << 20
    lib = load(sys.argv[1])
    name = f"/lmshm-gpu-python-{os.getpid()}".encode()
    address = lib.alloc_shm_pinned_ptr(size, name)
    if not check(f"alloc_shm_pinned_ptr of {size >> 20} MiB", address > 0):
        return 1
    try:
        import torch
    except ImportError:
        fine = check("free_shm_pinned_ptr", lib.free_shm_pinned_ptr(address, size, name) == 0)
        print("there is no torch")
        return 77 if fine else 1
    if not torch.cuda.is_available():
        lib.free_shm_pinned_ptr(address, size, name)
        print("torch has no GPU")
        return 77
    memory = (ctypes.c_ubyte * size).from_address(address)
    tensor = torch.frombuffer(memory, dtype=torch.uint8)
    fine = check("torch says that a tensor over the pool is pinned", tensor.is_pinned())
    fine &= check("and that ordinary memory is not", not torch.empty(4096).is_pinned())
    tensor.copy_(torch.arange(size, dtype=torch.int64).remainder_(251).to(torch.uint8))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        on_device = torch.empty(size, dtype=torch.uint8, device="cuda")
        start.record(stream)
        on_device.copy_(tensor, non_blocking=True)
        end.record(stream)
    stream.synchronize()
    print(f"       to the device at {size / 1e6 / start.elapsed_time(end):.2f} GB/s")
    before = tensor.clone()
    tensor.zero_()
    with torch.cuda.stream(stream):
        tensor.copy_(on_device, non_blocking=True)
    stream.synchronize()
    fine &= check("bytes come back from the device as they were", torch.equal(before, tensor))
    del tensor, memory
    fine &= check("free_shm_pinned_ptr", lib.free_shm_pinned_ptr(address, size, name) == 0)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
