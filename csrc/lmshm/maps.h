/* SPDX-License-Identifier: Apache-2.0
 *
 * maps.h - reading the kernel's tables of text: mappings, locks, memory.
 *
 * Each table has a pure function for one line, and one reader feeds them all.
 * Lines are not NUL-terminated.
 */
#ifndef LMSHM_MAPS_H_
#define LMSHM_MAPS_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Gets one line without its newline; returns false to stop reading. */
typedef bool (*lmshm_line_fn)(void* context, const char* line, size_t length);

/* Feeds a file to `each`, line by line. Lines above 16 KiB are cut. Returns 0
 * or -errno. */
int lmshm_lines(const char* path, lmshm_line_fn each, void* context);

/* ---- /proc/self/maps: what a range of addresses is */

/* A search for the mapping that covers a range; it may be in several pieces
 * (mlock and mbind split it), as long as they follow each other without a gap
 * in one file from its start. Zero it, set begin and end, feed it lines. */
struct lmshm_range {
  uint64_t begin;
  uint64_t end;     /* exclusive */
  bool broken;      /* something else lies in the range */
  bool continued;   /* the same mapping goes on after the range */
  uint64_t reached; /* covered so far, 0 before the first piece */
  unsigned major, minor;
  uint64_t inode;
  bool deleted;    /* the name is gone from the file system */
  char file[1024]; /* last part of the path as the kernel shows it: a newline
                      is the four characters \012 */
};

bool lmshm_range_line(void* range, const char* line, size_t length);

/* Whether the lines fed covered the range, and nothing more. */
bool lmshm_range_found(const struct lmshm_range* range);

/* ---- /proc/self/smaps: huge pages behind a range */

struct lmshm_huge {
  uint64_t begin;
  uint64_t end;
  bool inside;    /* the lines concern the range */
  uint64_t bytes; /* the sum */
};

bool lmshm_huge_line(void* huge, const char* line, size_t length);

/* ---- /proc/locks: who holds flock() on a file */

struct lmshm_lock_search {
  unsigned major, minor;
  uint64_t inode;
  pid_t pid;
  bool found;
};

bool lmshm_lock_line(void* search, const char* line, size_t length);

/* ---- "Key:  123 kB", as in /proc/meminfo, and "key 123", as in cgroups */

/* Whether the line is `key` with a number; then `*value` is it, in bytes when
 * the line says kB. */
bool lmshm_keyed_number(const char* line, size_t length, const char* key, uint64_t* value);

#endif /* LMSHM_MAPS_H_ */
