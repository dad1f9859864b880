/* SPDX-License-Identifier: Apache-2.0
 *
 * identity_test.c - two ends of one memory: what a segment says that it is, and
 * the descriptor that it hands over, when its name leads elsewhere.
 */
#include <signal.h>

#include "check.h"
#include "sandbox.h"

static lmshm_segment* open_or_fail(const lmshm_options* options, lmshm_info* info) {
  intptr_t result = lmshm_open(options, info);
  CHECK(result > 0, "%ld: %s", (long)result, info->message);
  return result > 0 ? (lmshm_segment*)result : NULL;
}

/* "<boot>:<device>:<inode>" of a descriptor, by other means than the library's. */
static const char* identity_of(int fd) {
  static char text[96];
  char boot[64] = "";
  struct stat status = {0};
  FILE* file = fopen("/proc/sys/kernel/random/boot_id", "re");
  CHECK(file != NULL && fgets(boot, sizeof boot, file) != NULL, "no boot id");
  if (file != NULL) fclose(file);
  size_t kept = 0;
  for (size_t at = 0; boot[at] != '\0' && boot[at] != '\n'; at++)
    if (boot[at] != '-') boot[kept++] = boot[at];
  boot[kept] = '\0';
  CHECK_EQUAL(kept, 32);
  CHECK_EQUAL(fstat(fd, &status), 0);
  snprintf(text, sizeof text, "%s:%" PRIu64 ":%" PRIu64, boot, (uint64_t)status.st_dev,
           (uint64_t)status.st_ino);
  return text;
}

static void every_kind_says_which_file_it_is(void) {
  const char* name = check_name("which");
  lmshm_options options = check_options(LMSHM_CREATE, name, MIB);
  lmshm_info owner = check_info(), guest = check_info(), anonymous = check_info();
  lmshm_segment* created = open_or_fail(&options, &owner);
  options = check_options(LMSHM_ATTACH, name, 0);
  lmshm_segment* attached = open_or_fail(&options, &guest);
  options = check_options(LMSHM_ANONYMOUS, NULL, MIB);
  lmshm_segment* nameless = open_or_fail(&options, &anonymous);
  if (check_failures > 0) return;

  int fd = open(check_path(name), O_RDONLY | O_CLOEXEC);
  CHECK_EQUAL(strcmp(owner.identity, identity_of(fd)), 0);
  CHECK_EQUAL(strcmp(guest.identity, owner.identity), 0);
  char named[80];
  CHECK_EQUAL(lmshm_name_identity(name, named, sizeof named), 0);
  CHECK_EQUAL(strcmp(named, owner.identity), 0);
  CHECK_EQUAL(lmshm_name_identity(name, named, sizeof named - 1), -EINVAL);
  CHECK_EQUAL(lmshm_name_identity(name, NULL, sizeof named), -EINVAL);
  CHECK_EQUAL(lmshm_name_identity("a/b", named, sizeof named), -EINVAL);
  CHECK_EQUAL(lmshm_name_identity(check_name("nobodys"), named, sizeof named), -ENOENT);
  CHECK_EQUAL(strcmp(owner.identity, identity_of(owner.fd)), 0);
  CHECK_EQUAL(strcmp(guest.identity, identity_of(guest.fd)), 0);
  CHECK_EQUAL(strcmp(anonymous.identity, identity_of(anonymous.fd)), 0);
  CHECK(strcmp(anonymous.identity, owner.identity) != 0, "%s", anonymous.identity);
  CHECK(guest.fd != owner.fd, "%d", guest.fd);
  close(fd);
  const int mine[] = {owner.fd, guest.fd, anonymous.fd};
  for (int i = 0; i < 3; i++) CHECK_EQUAL(fcntl(mine[i], F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  CHECK_EQUAL(lmshm_close(attached, 0), 0);
  CHECK_EQUAL(lmshm_close(nameless, LMSHM_CLOSE_KEEP_RANGE), 0);
  CHECK_EQUAL(lmshm_close(created, 0), 0);
  for (int i = 0; i < 3; i++) CHECK_EQUAL(fcntl(mine[i], F_GETFD), -1);
  munmap((void*)(uintptr_t)anonymous.address, anonymous.mapped_size);
}

static void a_name_that_was_made_anew_is_another_file(void) {
  const char* name = check_name("anew");
  lmshm_options options = check_options(LMSHM_CREATE, name, MIB);
  lmshm_info first = check_info(), guest = check_info(), second = check_info();
  lmshm_segment* old = open_or_fail(&options, &first);
  options = check_options(LMSHM_ATTACH, name, 0);
  lmshm_segment* attached = open_or_fail(&options, &guest);
  if (check_failures > 0) return;
  memset((void*)(uintptr_t)first.address, 0x11, MIB);
  CHECK_EQUAL(unlink(check_path(name)), 0); /* as Python does */

  options = check_options(LMSHM_CREATE, name, MIB);
  lmshm_segment* new = open_or_fail(&options, &second);
  CHECK(strcmp(first.identity, second.identity) != 0, "%s", second.identity);
  memset((void*)(uintptr_t)second.address, 0x22, MIB);
  /* Who has the first keeps it, and its descriptor leads to it. */
  unsigned char byte = 0;
  CHECK_EQUAL(pread(guest.fd, &byte, 1, 4096), 1);
  CHECK_EQUAL(byte, 0x11);
  CHECK_EQUAL(((unsigned char*)(uintptr_t)guest.address)[4096], 0x11);
  CHECK_EQUAL(lmshm_close(old, 0), 0);
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_LIVE); /* the second's still */
  CHECK_EQUAL(lmshm_close(attached, 0), 0);
  CHECK_EQUAL(lmshm_close(new, 0), 0);
}

static void who_inherits_the_descriptor_does_not_keep_the_name(void) {
  const char* name = check_name("inherited");
  int ends[2];
  CHECK_EQUAL(pipe2(ends, O_CLOEXEC), 0);
  fflush(stdout);
  pid_t owner = fork();
  if (owner == 0) {
    lmshm_options options = check_options(LMSHM_CREATE, name, MIB);
    lmshm_info info = check_info();
    if (lmshm_open(&options, &info) <= 0) _exit(1);
    char number[16];
    snprintf(number, sizeof number, "%d", info.fd);
    fcntl(info.fd, F_SETFD, 0);
    pid_t heir = fork();
    /* A program of its own, as a worker is: without the mapping, with the descriptor. */
    if (heir == 0) {
      execl("/bin/sleep", "sleep", "60", (char*)NULL);
      _exit(1);
    }
    ssize_t written = write(ends[1], &heir, sizeof heir);
    alarm(60);
    while (written > 0) pause();
    _exit(1);
  }
  close(ends[1]);
  pid_t heir = 0;
  CHECK_EQUAL(read(ends[0], &heir, sizeof heir), sizeof heir);
  close(ends[0]);
  char path[64], program[64] = "";
  snprintf(path, sizeof path, "/proc/%d/comm", (int)heir);
  for (int i = 0; i < 1000 && strncmp(program, "sleep", 5) != 0; i++) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && read(fd, program, sizeof program - 1) <= 0) program[0] = '\0';
    if (fd >= 0) close(fd);
    usleep(1000);
  }
  CHECK_EQUAL(strncmp(program, "sleep", 5), 0);
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_LIVE);
  kill(owner, SIGKILL);
  waitpid(owner, NULL, 0);
  CHECK_EQUAL(kill(heir, 0), 0); /* it lives, and has the file */
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_DEAD);
  CHECK_EQUAL(lmshm_reclaim(name), 1);
  kill(heir, SIGKILL);
}

static void the_simple_interface_keeps_no_descriptor(void) {
  const char* name = check_name("simple");
  struct check_resources before = check_resources();
  intptr_t address = alloc_shm_pinned_ptr(MIB, name);
  CHECK(address > 0, "%ld", (long)address);
  CHECK_EQUAL(check_resources().descriptors, before.descriptors);
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_LIVE);
  CHECK_EQUAL(free_shm_pinned_ptr((void*)address, MIB, name), 0);
}

static void open_without_proc(void) {
  if (sandbox_tmpfs("/proc", "size=1m") != 0) _exit(SANDBOX_REFUSED);
  const char* name = check_name("noproc");
  lmshm_options options = check_options(LMSHM_CREATE, name, MIB);
  lmshm_info info = check_info(), guest = check_info();
  lmshm_segment* segment = open_or_fail(&options, &info);
  options = check_options(LMSHM_ATTACH, name, 0);
  lmshm_segment* attached = open_or_fail(&options, &guest);
  if (check_failures > 0) return;
  struct stat status;
  char wanted[64];
  CHECK_EQUAL(stat(check_path(name), &status), 0);
  snprintf(wanted, sizeof wanted, "-:%" PRIu64 ":%" PRIu64, (uint64_t)status.st_dev,
           (uint64_t)status.st_ino);
  CHECK(strcmp(info.identity, wanted) == 0, "%s, not %s", info.identity, wanted);
  CHECK(strcmp(guest.identity, wanted) == 0, "%s, not %s", guest.identity, wanted);
  CHECK_EQUAL(info.fd, -1);
  CHECK(guest.fd >= 0, "%d", guest.fd);
  CHECK_EQUAL(lmshm_close(attached, 0), 0);
  CHECK_EQUAL(lmshm_close(segment, 0), 0);
  CHECK_EQUAL(lmshm_name_state(name), LMSHM_NAME_FREE);
}

static void without_proc_the_boot_is_not_known(void) {
  int status = check_in_child(open_without_proc);
  if (status == SANDBOX_REFUSED)
    check_skip("no mount namespaces");
  else
    CHECK_EQUAL(status, 0);
}

CHECK_MAIN(CASE(every_kind_says_which_file_it_is), CASE(a_name_that_was_made_anew_is_another_file),
           CASE(who_inherits_the_descriptor_does_not_keep_the_name),
           CASE(the_simple_interface_keeps_no_descriptor), CASE(without_proc_the_boot_is_not_known))
