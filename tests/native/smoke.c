/* SPDX-License-Identifier: Apache-2.0
 *
 * Loads a built liblmshm.so and walks the shortest way through it: allocate, write and read every
 * page, free. scripts/common/smoke.mjs builds this for each target and runs it, under qemu where
 * the target is another machine's. Not a test of behaviour: those are beside this file.
 *
 *   smoke LIBRARY SEGMENT_NAME
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { kSize = 1 << 20, kPage = 4096 };

/* ISO C has no cast from an object pointer to a function pointer. */
static int lookup(void* library, const char* name, void* function) {
  void* symbol = dlsym(library, name);
  if (symbol == NULL) fprintf(stderr, "no symbol %s\n", name);
  memcpy(function, &symbol, sizeof symbol);
  return symbol != NULL;
}

int main(int argc, char** argv) {
  if (argc != 3) return fprintf(stderr, "usage: smoke LIBRARY SEGMENT_NAME\n"), 2;
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) return fprintf(stderr, "%s\n", dlerror()), 1;

  const char* (*version)(void);
  intptr_t (*allocate)(size_t, const char*);
  int (*release)(void*, size_t, const char*);
  int (*identify)(const char*, char*, size_t);
  if (!lookup(library, "lmshm_version", &version) ||
      !lookup(library, "alloc_shm_pinned_ptr", &allocate) ||
      !lookup(library, "free_shm_pinned_ptr", &release) ||
      !lookup(library, "lmshm_name_identity", &identify)) {
    return 1;
  }

  intptr_t address = allocate(kSize, argv[2]);
  if (address < 0) return fprintf(stderr, "alloc_shm_pinned_ptr: %ld\n", (long)address), 1;
  volatile unsigned char* bytes = (volatile unsigned char*)address;
  for (int i = 0; i < kSize; i += kPage) bytes[i] = (unsigned char)(i / kPage);
  for (int i = 0; i < kSize; i += kPage) {
    if (bytes[i] != (unsigned char)(i / kPage)) return fprintf(stderr, "byte %d differs\n", i), 1;
  }
  if (allocate(kSize, argv[2]) >= 0) return fprintf(stderr, "a live name was taken over\n"), 1;
  int rc = release((void*)address, kSize, argv[2]);
  if (rc != 0) return fprintf(stderr, "free_shm_pinned_ptr: %d\n", rc), 1;
  if (release((void*)address, kSize, argv[2]) == 0) {
    return fprintf(stderr, "freeing twice was accepted\n"), 1;
  }
  /* Its errno is the C library's. */
  char identity[80];
  rc = identify(argv[2], identity, sizeof identity);
  if (rc != -ENOENT) return fprintf(stderr, "the name is gone, and gives %d\n", rc), 1;
  printf("lmshm %s\n", version());
  return 0;
}
