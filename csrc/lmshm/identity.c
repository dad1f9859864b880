/* SPDX-License-Identifier: Apache-2.0
 *
 * identity.c - the identity of a segment's file as text. See identity.h.
 */
#include "identity.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#define BOOT_ID "/proc/sys/kernel/random/boot_id"
#define BOOT_DIGITS 32

/* The kernel's random id of this boot, without its dashes; "-" where it cannot
 * be read. */
static void read_boot(char boot[BOOT_DIGITS + 1]) {
  char text[64];
  int fd = open(BOOT_ID, O_RDONLY | O_CLOEXEC);
  ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof text);
  if (fd >= 0) close(fd);
  int digits = 0;
  for (ssize_t at = 0; at < length && digits < BOOT_DIGITS; at++)
    if (text[at] != '-' && text[at] != '\n') boot[digits++] = text[at];
  if (digits < BOOT_DIGITS) {
    boot[0] = '-';
    digits = 1;
  }
  boot[digits] = '\0';
}

void lmshm_identity(dev_t device, ino_t inode, char text[LMSHM_IDENTITY_BYTES]) {
  char boot[BOOT_DIGITS + 1];
  read_boot(boot);
  snprintf(text, LMSHM_IDENTITY_BYTES, "%s:%" PRIu64 ":%" PRIu64, boot, (uint64_t)device,
           (uint64_t)inode);
}
