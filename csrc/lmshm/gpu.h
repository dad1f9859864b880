/* SPDX-License-Identifier: Apache-2.0
 *
 * gpu.h - a GPU's runtime library, found and called at run time.
 *
 * Nothing is linked and no vendor header is used: three kinds of library have
 * functions of the same shape, and a library is told by its symbols.
 *
 *     libcudart    cudaHostRegister      creates the context by itself, on the
 *                                        current device of the calling thread
 *     libcuda      cuMemHostRegister     needs a context: the primary one, kept
 *                                        while registered
 *     libamdhip64  hipHostRegister       as libcudart
 *
 * One device is settled on when a library is found, and no context is made on
 * any other: not by registering, not by unregistering on another thread, and
 * not by setting back the current device of a host program's thread, which is
 * never changed.
 *
 * A library that counted a device stays loaded for the life of the process: a
 * GPU driver runs threads, and is not made to be unloaded under them.
 */
#ifndef LMSHM_GPU_H_
#define LMSHM_GPU_H_

#include <stddef.h>

#include "task.h"

struct lmshm_gpu {
  uint32_t kind;     /* enum lmshm_pinned_by; 0: none */
  uint32_t devices;  /* counted */
  int ordinal;       /* of the device whose context is used */
  char library[208]; /* path, cut to the room */

  /* All: count, add, drop. cudart and HIP: set, current, text, last. */
  int (*count)(int*);
  int (*add)(void*, size_t, unsigned);
  int (*drop)(void*);
  const char* (*text)(int);
  int (*last)(void);
  int (*set)(int);
  int (*current)(int*);
  int (*init)(unsigned);
  int (*device)(int*, int);
  int (*retain)(void**, int);
  int (*release)(int);
  int (*push)(void*);
  int (*pop)(void**);
  int (*driver_text)(int, const char**);
};

/* Looks for a library that counts at least one device: `library` if not NULL,
 * else the environment's LMSHM_GPU_LIBRARY, else the usual names in order; and
 * settles on a device: `gpu_device` - 1, else (0) the environment's
 * LMSHM_GPU_DEVICE, else the current one of the calling thread (driver: 0).
 * Returns 0, or -ENODEV with words why in `why` and the runtime's code in
 * `*code`. */
int lmshm_gpu_find(struct lmshm_gpu* gpu, const char* library, uint32_t gpu_device, char* why,
                   size_t why_bytes, int32_t* code);

/* Registers, or unregisters, one range by its address (size 1 or more), in
 * every context and with an address for kernels. Returns 0, or the runtime's
 * code, with its text in `why`. */
int lmshm_gpu_register(const struct lmshm_gpu* gpu, void* address, size_t size, char* why,
                       size_t why_bytes);
int lmshm_gpu_unregister(const struct lmshm_gpu* gpu, void* address, char* why, size_t why_bytes);

/* For a range whose registration is not known any more: unregisters it, and
 * the pieces of `piece` bytes that follow it, with whichever library that is
 * already loaded has it. Errors say that it was not registered: nothing is
 * reported. */
void lmshm_gpu_unregister_unknown(char* address, size_t size, size_t piece);

#endif /* LMSHM_GPU_H_ */
