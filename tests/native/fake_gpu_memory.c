/* SPDX-License-Identifier: Apache-2.0
 *
 * fake_gpu_memory.c - the fake's memory: what is registered, and what it has
 * allocated itself.
 *
 * Device memory has two mappings: the bytes, and an address that programs see,
 * which faults when it is touched, as a device's address does on the host.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fake_gpu_inside.h"

enum { kMaxRanges = 4096 };

static struct range ranges[kMaxRanges];
static int used; /* no entry at or after it is taken */

static size_t page(void) { return (size_t)sysconf(_SC_PAGESIZE); }

static size_t whole_pages(size_t size) { return (size + page() - 1) / page() * page(); }

bool locked_is_mapped(const void* begin, size_t size) {
  uintptr_t from = (uintptr_t)begin / page() * page();
  size_t length = (uintptr_t)begin + size - from;
  unsigned char* pages = malloc(length / page() + 2);
  bool mapped = pages != NULL && mincore((void*)from, length, pages) == 0;
  free(pages);
  return mapped;
}

static struct range* find(const void* address) {
  for (int i = 0; i < used; i++) {
    struct range* range = &ranges[i];
    if (range->begin != NULL && (const char*)address >= range->begin &&
        (const char*)address < range->begin + range->size)
      return range;
  }
  return NULL;
}

static struct range* free_entry(void) {
  for (int i = 0; i < used; i++)
    if (ranges[i].begin == NULL) return &ranges[i];
  return used < kMaxRanges ? &ranges[used++] : NULL;
}

struct range locked_range(const void* address) {
  const struct range* found = find(address);
  return found != NULL ? *found : (struct range){.space = kPageable, .device = -1};
}

static int* counter(enum space space) {
  return space == kRegistered      ? &fake_books.registered
         : space == kHostAllocated ? &fake_books.host_ranges
                                   : &fake_books.device_ranges;
}

int locked_register(int device, void* address, size_t size, unsigned flags) {
  char room[256];
  const char* max = locked_order("FAKE_GPU_MAX", room);
  char* begin = address;
  if (flags != 3) locked_violation("registering with flags %u", flags);
  if ((uintptr_t)address % page() != 0) locked_violation("registering %p", address);
  if (!locked_is_mapped(address, size)) locked_violation("registering what is not mapped");
  if (max != NULL && size > strtoull(max, NULL, 10)) return kOutOfMemory;
  for (int i = 0; i < used; i++)
    if (ranges[i].begin != NULL && begin < ranges[i].begin + ranges[i].size &&
        ranges[i].begin < begin + size)
      return kAlready;
  struct range* range = free_entry();
  if (range == NULL) return kOutOfMemory;
  *range = (struct range){kRegistered, device, begin, begin, size};
  fake_books.registered++;
  return 0;
}

int locked_unregister(void* address) {
  struct range* range = address != NULL ? find(address) : NULL;
  if (range == NULL || range->begin != address || range->space != kRegistered)
    return kNotRegistered;
  if (!locked_is_mapped(address, range->size)) locked_violation("unregistering after unmapping");
  range->begin = NULL;
  fake_books.registered--;
  return 0;
}

size_t locked_capacity(void) {
  char room[256];
  const char* bytes = locked_order("FAKE_GPU_MEMORY", room);
  return bytes != NULL ? strtoull(bytes, NULL, 10) : (size_t)1 << 30;
}

size_t locked_allocated(int device) {
  size_t sum = 0;
  for (int i = 0; i < used; i++)
    if (ranges[i].begin != NULL && ranges[i].space == kOnDevice && ranges[i].device == device)
      sum += ranges[i].size;
  return sum;
}

int locked_allocate(enum space space, int device, size_t size, void** address) {
  if (size == 0) return kInvalid;
  size_t length = whole_pages(size);
  if (space == kOnDevice && size > locked_capacity() - locked_allocated(device))
    return kOutOfMemory;
  struct range* range = free_entry();
  if (range == NULL) return kOutOfMemory;
  char* bytes = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  char* seen = bytes;
  if (bytes != MAP_FAILED && space == kOnDevice)
    seen = mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (bytes == MAP_FAILED || seen == MAP_FAILED) return kOutOfMemory;
  *range = (struct range){space, device, seen, bytes, size};
  ++*counter(space);
  *address = seen;
  return 0;
}

static void unmap(struct range* range) {
  if (range->backing != range->begin) munmap(range->backing, whole_pages(range->size));
  munmap(range->begin, whole_pages(range->size));
  range->begin = NULL;
}

int locked_release(enum space space, void* address) {
  struct range* range = address != NULL ? find(address) : NULL;
  if (range == NULL || range->begin != address || range->space != space) {
    locked_violation("freeing %p, which was not allocated so", address);
    return kInvalid;
  }
  locked_idle(); /* as the real ones do; the range may have moved meanwhile */
  range = find(address);
  if (range == NULL) return kInvalid;
  unmap(range);
  --*counter(space);
  return 0;
}

int locked_check(const void* address, size_t size, bool on_device) {
  const struct range* range = find(address);
  if ((range != NULL && range->space == kOnDevice) != on_device) return kInvalid;
  if (range == NULL) return 0; /* pageable */
  size_t room = (size_t)(range->begin + range->size - (const char*)address);
  return size <= room ? 0 : kInvalid; /* beyond the allocation, or this registration */
}

char* locked_backing(const void* address) {
  const struct range* range = find(address);
  if (range == NULL || range->space != kOnDevice) return (char*)(uintptr_t)address;
  return range->backing + ((const char*)address - range->begin);
}

void locked_forget_memory(void) {
  for (int i = 0; i < used; i++) {
    if (ranges[i].begin == NULL) continue;
    if (ranges[i].space == kRegistered)
      ranges[i].begin = NULL;
    else
      unmap(&ranges[i]);
  }
  used = 0;
}
