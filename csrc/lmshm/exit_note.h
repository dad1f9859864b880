/* SPDX-License-Identifier: Apache-2.0
 *
 * exit_note.h - a name that goes when the process ends by exit(), if nobody
 * has closed its segment by then.
 *
 * The C library's own list of what to do at exit has the notes, this library
 * has no list of them. Nothing can be taken off that list, so a note stays
 * allocated to the end (some 60 bytes and the names).
 */
#ifndef LMSHM_EXIT_NOTE_H_
#define LMSHM_EXIT_NOTE_H_

#include <sys/types.h>

#include "name.h"

struct lmshm_exit_note;

/* Of the file `device`:`inode`, which this process owns, and which has the
 * name or, until it replaces a stranger's, the temporary one ("": never had
 * one). Returns NULL when there is no memory: then the file is left as by a
 * process that is killed. */
struct lmshm_exit_note* lmshm_exit_note_make(const struct lmshm_name* name,
                                             const struct lmshm_name* temporary, dev_t device,
                                             ino_t inode);

/* The name is not to go any more. `note` may be NULL, and must not be used
 * again. */
void lmshm_exit_note_drop(struct lmshm_exit_note* note);

#endif /* LMSHM_EXIT_NOTE_H_ */
