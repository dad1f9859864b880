/* SPDX-License-Identifier: Apache-2.0
 *
 * identity.h - what tells the file of a segment from every other, for as long
 * as somebody maps it: the kernel it is in, its file system, its inode. A name
 * tells nothing of the kind: it leads to another file once its owner has been
 * replaced, and to another one in every container with a /dev/shm of its own.
 */
#ifndef LMSHM_IDENTITY_H_
#define LMSHM_IDENTITY_H_

#include <sys/types.h>

#define LMSHM_IDENTITY_BYTES 80

/* Writes "<boot>:<device>:<inode>". */
void lmshm_identity(dev_t device, ino_t inode, char text[LMSHM_IDENTITY_BYTES]);

#endif /* LMSHM_IDENTITY_H_ */
