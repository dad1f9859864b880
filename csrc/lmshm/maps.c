/* SPDX-License-Identifier: Apache-2.0
 *
 * maps.c - reading the kernel's tables of text. See maps.h.
 */
#include "maps.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES 16384

int lmshm_lines(const char* path, lmshm_line_fn each, void* context) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  int rc = 0;
  char* buffer = malloc(LINE_MAX_BYTES);
  if (buffer == NULL) {
    rc = -ENOMEM;
    goto close_file;
  }
  size_t held = 0;
  bool cutting = false, more = true;
  while (more) {
    ssize_t got = read(fd, buffer + held, LINE_MAX_BYTES - held);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      rc = -errno;
      break;
    }
    if (got == 0) {
      if (held > 0 && !cutting) each(context, buffer, held);
      break;
    }
    held += (size_t)got;
    char *line = buffer, *end = buffer + held, *newline;
    while (more && (newline = memchr(line, '\n', (size_t)(end - line))) != NULL) {
      if (!cutting) more = each(context, line, (size_t)(newline - line));
      cutting = false;
      line = newline + 1;
    }
    held = (size_t)(end - line);
    memmove(buffer, line, held);
    if (held == LINE_MAX_BYTES) {
      if (!cutting) more = more && each(context, buffer, held);
      cutting = true;
      held = 0;
    }
  }
  free(buffer);
close_file:
  close(fd);
  return rc;
}

/* ------------------------------------------------------------- a line's parts */

struct text {
  const char* at;
  const char* end;
};

static struct text text_of(const char* line, size_t length) {
  return (struct text){line, line + length};
}

static bool take(struct text* text, char c) {
  if (text->at == text->end || *text->at != c) return false;
  text->at++;
  return true;
}

static void skip_blanks(struct text* text) {
  while (text->at < text->end && (*text->at == ' ' || *text->at == '\t')) text->at++;
}

/* Skips blanks and takes everything up to the next one. */
static struct text word(struct text* text) {
  skip_blanks(text);
  struct text word = {text->at, text->at};
  while (text->at < text->end && *text->at != ' ' && *text->at != '\t') text->at++;
  word.end = text->at;
  return word;
}

static bool is(struct text text, const char* expected) {
  size_t length = strlen(expected);
  return (size_t)(text.end - text.at) == length && memcmp(text.at, expected, length) == 0;
}

/* Takes digits of the base; false when there is none, or they overflow. */
static bool number(struct text* text, unsigned base, uint64_t* value) {
  const char* start = text->at;
  uint64_t sum = 0;
  for (; text->at < text->end; text->at++) {
    char c = *text->at;
    unsigned digit;
    if (c >= '0' && c <= '9')
      digit = (unsigned)(c - '0');
    else if (c >= 'a' && c <= 'f')
      digit = (unsigned)(c - 'a') + 10;
    else
      break;
    if (digit >= base) break;
    if (__builtin_mul_overflow(sum, (uint64_t)base, &sum) ||
        __builtin_add_overflow(sum, (uint64_t)digit, &sum))
      return false;
  }
  *value = sum;
  return text->at > start;
}

/* "00:19", hexadecimal. */
static bool device(struct text* text, unsigned* major, unsigned* minor) {
  uint64_t a, b;
  if (!number(text, 16, &a) || !take(text, ':') || !number(text, 16, &b)) return false;
  if (a > UINT32_MAX || b > UINT32_MAX) return false;
  *major = (unsigned)a;
  *minor = (unsigned)b;
  return true;
}

/* "7f00-7f10 rw-s 00000000 00:19 42     /dev/shm/kv", the head of a mapping. */
struct mapping {
  uint64_t begin, end, offset, inode;
  unsigned major, minor;
  struct text path;
};

static bool parse_mapping(struct text text, struct mapping* out) {
  if (!number(&text, 16, &out->begin) || !take(&text, '-')) return false;
  if (!number(&text, 16, &out->end) || !take(&text, ' ')) return false;
  word(&text); /* permissions */
  skip_blanks(&text);
  if (!number(&text, 16, &out->offset) || !take(&text, ' ')) return false;
  if (!device(&text, &out->major, &out->minor) || !take(&text, ' ')) return false;
  if (!number(&text, 10, &out->inode)) return false;
  if (text.at < text.end && *text.at != ' ') return false;
  skip_blanks(&text);
  out->path = text;
  return out->begin < out->end;
}

/* -------------------------------------------------------------------- ranges */

static void note_file(struct lmshm_range* range, struct text path) {
  static const char deleted[] = " (deleted)";
  const size_t tail = sizeof deleted - 1;
  if ((size_t)(path.end - path.at) >= tail && memcmp(path.end - tail, deleted, tail) == 0) {
    range->deleted = true;
    path.end -= tail;
  }
  for (const char* c = path.at; c < path.end; c++)
    if (*c == '/') path.at = c + 1;

  size_t length = (size_t)(path.end - path.at);
  if (length >= sizeof range->file) return;
  memcpy(range->file, path.at, length);
  range->file[length] = '\0';
}

bool lmshm_range_line(void* context, const char* line, size_t length) {
  struct lmshm_range* range = context;
  struct mapping map;
  if (!parse_mapping(text_of(line, length), &map) || map.end <= range->begin) return true;

  bool same = range->reached == map.begin && range->major == map.major &&
              range->minor == map.minor && range->inode == map.inode &&
              map.offset == map.begin - range->begin;
  if (map.begin >= range->end) {
    range->continued = same;
    return false;
  }
  if (range->reached == 0) {
    if (map.begin != range->begin || map.offset != 0 || map.inode == 0) {
      range->broken = true;
      return false;
    }
    range->major = map.major;
    range->minor = map.minor;
    range->inode = map.inode;
    note_file(range, map.path);
  } else if (!same) {
    range->broken = true;
    return false;
  }
  range->reached = map.end;
  return true;
}

bool lmshm_range_found(const struct lmshm_range* range) {
  return !range->broken && !range->continued && range->reached == range->end;
}

/* ---------------------------------------------------------------- huge pages */

bool lmshm_huge_line(void* context, const char* line, size_t length) {
  static const char* const keys[] = {
      "ShmemPmdMapped:", "FilePmdMapped:", "AnonHugePages:", "Shared_Hugetlb:", "Private_Hugetlb:"};
  struct lmshm_huge* huge = context;
  struct mapping map;
  if (parse_mapping(text_of(line, length), &map)) {
    huge->inside = map.begin >= huge->begin && map.end <= huge->end;
    return map.begin < huge->end;
  }
  uint64_t bytes;
  for (size_t i = 0; huge->inside && i < sizeof keys / sizeof *keys; i++)
    if (lmshm_keyed_number(line, length, keys[i], &bytes)) huge->bytes += bytes;
  return true;
}

/* --------------------------------------------------------------------- locks */

/* "1: FLOCK  ADVISORY  WRITE 1234 00:19:42 0 EOF" */
bool lmshm_lock_line(void* context, const char* line, size_t length) {
  struct lmshm_lock_search* search = context;
  struct text text = text_of(line, length);
  word(&text); /* running number */
  if (!is(word(&text), "FLOCK")) return true;
  word(&text); /* ADVISORY */
  if (!is(word(&text), "WRITE")) return true;

  struct text pid = word(&text), file = word(&text);
  uint64_t owner, inode;
  unsigned major, minor;
  if (!number(&pid, 10, &owner) || pid.at != pid.end) return true;
  if (!device(&file, &major, &minor) || !take(&file, ':')) return true;
  if (!number(&file, 10, &inode) || file.at != file.end) return true;
  if (owner == (uint64_t)search->pid && major == search->major && minor == search->minor &&
      inode == search->inode)
    search->found = true;
  return !search->found;
}

/* -------------------------------------------------------------- keyed numbers */

bool lmshm_keyed_number(const char* line, size_t length, const char* key, uint64_t* value) {
  struct text text = text_of(line, length);
  if (!is(word(&text), key)) return false;
  skip_blanks(&text);
  uint64_t sum;
  if (!number(&text, 10, &sum)) return false;
  struct text unit = word(&text);
  if (is(unit, "kB")) {
    if (__builtin_mul_overflow(sum, (uint64_t)1024, &sum)) return false;
  } else if (!is(unit, "")) {
    return false;
  }
  *value = sum;
  return true;
}
