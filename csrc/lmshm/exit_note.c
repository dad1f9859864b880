/* SPDX-License-Identifier: Apache-2.0
 *
 * exit_note.c - see exit_note.h.
 */
#include "exit_note.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct lmshm_exit_note {
  atomic_bool dropped;
  pid_t pid; /* a child made by fork() runs the list as well, and owns nothing */
  dev_t device;
  ino_t inode;
  char paths[]; /* the temporary one ("": none), and after its NUL the name's */
};

/* What atexit() is made of, in every libc that matters; it takes an argument. */
extern int __cxa_atexit(void (*function)(void*), void* argument, void* dso_handle);
extern void* __dso_handle __attribute__((visibility("hidden")));

static void at_exit(void* argument) {
  struct lmshm_exit_note* note = argument;
  struct lmshm_name name, temporary;
  if (atomic_load(&note->dropped) || note->pid != getpid()) return;
  strcpy(temporary.path, note->paths);
  strcpy(name.path, note->paths + strlen(note->paths) + 1);
  /* In this order: a job's thread may rename the one to the other meanwhile. */
  lmshm_name_give_back(&temporary, note->device, note->inode, -1);
  lmshm_name_give_back(&name, note->device, note->inode, -1);
}

struct lmshm_exit_note* lmshm_exit_note_make(const struct lmshm_name* name,
                                             const struct lmshm_name* temporary, dev_t device,
                                             ino_t inode) {
  size_t first = strlen(temporary->path) + 1, second = strlen(name->path) + 1;
  struct lmshm_exit_note* note = malloc(sizeof *note + first + second);
  if (note == NULL) return NULL;
  atomic_init(&note->dropped, false);
  note->pid = getpid();
  note->device = device;
  note->inode = inode;
  memcpy(note->paths, temporary->path, first);
  memcpy(note->paths + first, name->path, second);
  if (__cxa_atexit(at_exit, note, &__dso_handle) == 0) return note;
  free(note);
  return NULL;
}

void lmshm_exit_note_drop(struct lmshm_exit_note* note) {
  if (note != NULL) atomic_store(&note->dropped, true);
}
