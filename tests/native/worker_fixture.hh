// SPDX-License-Identifier: Apache-2.0
//
// What tests of the worker need around them: a directory, a segment, files. Each removes what it
// made.
#ifndef LMSHM_TESTS_NATIVE_WORKER_FIXTURE_H_
#define LMSHM_TESTS_NATIVE_WORKER_FIXTURE_H_

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "worker/storage/object_key.h"
#include "worker/storage/storage_facts.h"
#include "worker_check.hh"

// A new directory below `parent`, or below the temporary directory.
class TempDir {
 public:
  explicit TempDir(const char* parent = nullptr) {
    const char* const base = parent != nullptr ? parent : getenv("TMPDIR");
    std::string pattern = std::string(base != nullptr && *base != '\0' ? base : "/tmp") +
                          "/lmshm_test." + std::to_string(getpid()) + ".XXXXXX";
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

  // Names in the directory, "." and ".." left out.
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }

 private:
  std::string path_;
};

// A segment as any program would make it, named lmshm_test_<pid>_<n>, mapped here.
class TestSegment {
 public:
  explicit TestSegment(size_t size) : size_(size) {
    static int count = 0;
    name_ = "lmshm_test_" + std::to_string(getpid()) + "_" + std::to_string(count++);
    fd_ = open(path().c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    REQUIRE(fd_ >= 0);
    REQUIRE_EQ(ftruncate(fd_, static_cast<off_t>(size)), 0);
    void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    REQUIRE(p != MAP_FAILED);
    data_ = static_cast<char*>(p);
  }
  TestSegment(const TestSegment&) = delete;
  TestSegment& operator=(const TestSegment&) = delete;
  ~TestSegment() {
    munmap(data_, size_);
    close(fd_);
    unlink(path().c_str());
  }

  char* data() { return data_; }
  size_t size() const { return size_; }
  int fd() const { return fd_; }
  const std::string& name() const { return name_; }  // without a slash
  std::string path() const { return "/dev/shm/" + name_; }
  uint64_t base() const { return reinterpret_cast<uintptr_t>(data_); }

  // "ATTACH ..." with the address it has here.
  std::string AttachLine() const {
    return "ATTACH /" + name_ + " " + std::to_string(size_) + " " + std::to_string(base());
  }
  // "WRITE path ..." or "READ path ..." for `length` bytes at `offset`.
  std::string Line(const std::string& command, const std::string& path, uint64_t offset,
                   uint64_t length) const {
    return command + " " + path + " " + std::to_string(base() + offset) + " " +
           std::to_string(length);
  }
  std::string Bytes(size_t offset, size_t length) const {
    return std::string(data_ + offset, length);
  }
  // Fills with bytes that differ by position and by `seed`.
  void FillPattern(unsigned seed) {
    for (size_t i = 0; i < size_; i++)
      data_[i] = static_cast<char>((i * 131 + i / 251 + seed) & 0xff);
  }

 private:
  std::string name_;
  size_t size_;
  int fd_ = -1;
  char* data_ = nullptr;
};

// Refers to `text`.
inline lmshm::ObjectKey Key(std::string_view text) {
  lmshm::ObjectKey key;
  REQUIRE(lmshm::ParseKey(text, &key).ok());
  return key;
}

inline lmshm::StorageFacts FactsOf(int dir_fd) {
  lmshm::StorageFacts facts;
  REQUIRE_EQ(lmshm::ProbeStorage(dir_fd, &facts), 0);
  return facts;
}

inline std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

inline void WriteFile(const std::string& path, const std::string& text, mode_t mode = 0600) {
  std::ofstream(path, std::ios::binary) << text;
  REQUIRE_EQ(chmod(path.c_str(), mode), 0);
}

#endif  // LMSHM_TESTS_NATIVE_WORKER_FIXTURE_H_
