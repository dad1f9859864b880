/* SPDX-License-Identifier: Apache-2.0
 *
 * limits.c - saying no at once to what can never fit. See limits.h.
 */
#include "limits.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include "maps.h"
#include "name.h"

#define PATH_BYTES 512
#define CGROUP_ROOT "/sys/fs/cgroup"

uint64_t lmshm_limits_space(void) {
  struct statvfs status;
  int rc;
  do rc = statvfs(LMSHM_SHM_DIR, &status);
  while (rc != 0 && errno == EINTR);
  if (rc != 0 || status.f_blocks == 0) return UINT64_MAX;
  uint64_t bytes;
  if (__builtin_mul_overflow((uint64_t)status.f_bavail, (uint64_t)status.f_frsize, &bytes))
    return UINT64_MAX;
  return bytes;
}

/* --------------------------------------------------------------- the machine */

struct machine {
  uint64_t total, swap_free, anonymous, shared, huge;
};

static bool machine_line(void* context, const char* line, size_t length) {
  struct machine* machine = context;
  const struct {
    const char* key;
    uint64_t* value;
  } keys[] = {{"MemTotal:", &machine->total},
              {"SwapFree:", &machine->swap_free},
              {"AnonPages:", &machine->anonymous},
              {"Shmem:", &machine->shared},
              {"Hugetlb:", &machine->huge}};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
    if (lmshm_keyed_number(line, length, keys[i].key, keys[i].value)) break;
  return true;
}

/* Everything but memory in use, plus free swap. Inconsistent numbers, as some
 * containers show them, say nothing. */
static uint64_t machine_room(uint64_t* swap_free) {
  struct machine machine = {0};
  *swap_free = UINT64_MAX;
  if (lmshm_lines("/proc/meminfo", machine_line, &machine) != 0) return UINT64_MAX;
  uint64_t used = machine.anonymous + machine.shared + machine.huge;
  if (machine.total == 0 || used > machine.total) return UINT64_MAX;
  *swap_free = machine.swap_free;
  return machine.total - used + machine.swap_free;
}

static bool strict_line(void* context, const char* line, size_t length) {
  *(bool*)context = length > 0 && line[0] == '2';
  return false;
}

bool lmshm_limits_strict(void) {
  bool strict = false;
  lmshm_lines("/proc/sys/vm/overcommit_memory", strict_line, &strict);
  return strict;
}

/* ------------------------------------------------------------ control group */

struct own_group {
  char path[PATH_BYTES]; /* below CGROUP_ROOT; "" when there is none */
};

/* "0::/user.slice" is the line of version 2. */
static bool own_group_line(void* context, const char* line, size_t length) {
  struct own_group* group = context;
  if (length < 4 || memcmp(line, "0::/", 4) != 0) return true;
  int written =
      snprintf(group->path, sizeof group->path, CGROUP_ROOT "%.*s", (int)(length - 3), line + 3);
  if (written < 0 || (size_t)written >= sizeof group->path) group->path[0] = '\0';
  return false;
}

struct single {
  uint64_t value;
  bool found;
};

static bool single_line(void* context, const char* line, size_t length) {
  struct single* single = context;
  char text[32];
  if (length + 1 >= sizeof text) return false;
  text[0] = '='; /* so that the number has a key */
  text[1] = ' ';
  if (length + 2 > sizeof text) return false;
  memcpy(text + 2, line, length);
  single->found = lmshm_keyed_number(text, length + 2, "=", &single->value);
  return false;
}

/* The number in a file of a group; `otherwise` for "max", or no file. */
static uint64_t group_number(const char* group, const char* file, uint64_t otherwise) {
  char path[PATH_BYTES + 32];
  struct single single = {0};
  snprintf(path, sizeof path, "%s/%s", group, file);
  lmshm_lines(path, single_line, &single);
  return single.found ? single.value : otherwise;
}

struct group_use {
  uint64_t anonymous, shared;
};

static bool group_use_line(void* context, const char* line, size_t length) {
  struct group_use* use = context;
  if (!lmshm_keyed_number(line, length, "anon", &use->anonymous))
    lmshm_keyed_number(line, length, "shmem", &use->shared);
  return true;
}

static uint64_t group_room(const char* group, uint64_t swap_free) {
  uint64_t limit = group_number(group, "memory.max", UINT64_MAX);
  if (limit == UINT64_MAX) return UINT64_MAX;
  char path[PATH_BYTES + 32];
  struct group_use use = {0};
  snprintf(path, sizeof path, "%s/memory.stat", group);
  if (lmshm_lines(path, group_use_line, &use) != 0) return UINT64_MAX;
  uint64_t used = use.anonymous + use.shared;
  uint64_t room = used < limit ? limit - used : 0;

  uint64_t swap = group_number(group, "memory.swap.max", UINT64_MAX);
  uint64_t swapped = group_number(group, "memory.swap.current", 0);
  swap = swap > swapped ? swap - swapped : 0;
  if (swap > swap_free) swap = swap_free;
  return __builtin_add_overflow(room, swap, &room) ? UINT64_MAX : room;
}

uint64_t lmshm_limits_memory(void) {
  uint64_t swap_free;
  uint64_t least = machine_room(&swap_free);
  struct own_group group = {""};
  lmshm_lines("/proc/self/cgroup", own_group_line, &group);
  while (strlen(group.path) >= sizeof CGROUP_ROOT - 1) { /* up to the root */
    uint64_t room = group_room(group.path, swap_free);
    if (room < least) least = room;
    *strrchr(group.path, '/') = '\0';
  }
  return least;
}

/* ---------------------------------------------------------------- huge pages */

uint64_t lmshm_limits_huge(uint64_t page_size) {
  char group[96];
  snprintf(group, sizeof group, "/sys/kernel/mm/hugepages/hugepages-%" PRIu64 "kB",
           page_size / 1024);
  uint64_t free_pages = group_number(group, "free_hugepages", UINT64_MAX);
  uint64_t reserved = group_number(group, "resv_hugepages", 0);
  if (free_pages == UINT64_MAX) return UINT64_MAX;
  return free_pages > reserved ? (free_pages - reserved) * page_size : 0;
}

/* -------------------------------------------------------------------- checks */

int lmshm_limits_no_space(bool named, uint64_t bytes, lmshm_task* task) {
  uint64_t space = named ? lmshm_limits_space() : UINT64_MAX;
  task->info.available = space == UINT64_MAX ? 0 : space;
  if (space >= bytes)
    return lmshm_task_fail(task, -ENOSPC,
                           "needs %" PRIu64
                           " bytes, and the kernel does not commit to so much "
                           "(see vm.overcommit_memory)",
                           bytes);
  return lmshm_task_fail(task, -ENOSPC,
                         "needs %" PRIu64 " bytes, %" PRIu64
                         " free on /dev/shm; remove segments there or make it larger, in "
                         "Docker by --shm-size",
                         bytes, space);
}

int lmshm_limits_check(bool named, uint64_t bytes, lmshm_task* task) {
  if (named && lmshm_limits_space() < bytes) return lmshm_limits_no_space(named, bytes, task);
  uint64_t room = lmshm_limits_memory();
  if (room >= bytes) return 0;
  task->info.available = room;
  return lmshm_task_fail(task, -ENOMEM,
                         "needs %" PRIu64 " bytes, and at most %" PRIu64
                         " bytes of memory could be freed for it; ask for less, or raise the "
                         "memory limit of the container",
                         bytes, room);
}
