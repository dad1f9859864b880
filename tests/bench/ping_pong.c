// SPDX-License-Identifier: Apache-2.0
//
// ping_pong [MICROSECONDS]: answers each line on stdin by the same line on stdout, so much later,
// and does nothing else. The yardstick for a round trip: pipe, scheduler and runtime, without a
// protocol.

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char** argv) {
  const unsigned delay_us = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 0;
  char bytes[65536];
  for (;;) {
    const ssize_t got = read(STDIN_FILENO, bytes, sizeof bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got == 0) return 0;
    if (got < 0) {
      fprintf(stderr, "read: %s\n", strerror(errno));
      return 1;
    }
    if (delay_us > 0) usleep(delay_us);
    for (ssize_t done = 0; done < got;) {
      const ssize_t n = write(STDOUT_FILENO, bytes + done, (size_t)(got - done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return errno == EPIPE ? 0 : 1;
      done += n;
    }
  }
}
