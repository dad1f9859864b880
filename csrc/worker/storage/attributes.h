// SPDX-License-Identifier: Apache-2.0
//
// Extended attributes of an object's file. What is remembered with an object is one of them,
// "user.lmshm" (object_record.h), so that the file's content is the payload and nothing else.
//
// Some file systems have none (NFS before 4.2, FAT, tmpfs before Linux 6.6): the caller asks
// DetectAttributes() once and does without. Others have little room: ext4 keeps one block, about
// 4,000 bytes, for all of a file.
#ifndef LMSHM_WORKER_STORAGE_ATTRIBUTES_H_
#define LMSHM_WORKER_STORAGE_ATTRIBUTES_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace lmshm {

struct Attribute {
  std::string name;   // [a-z0-9_]{1,32}
  std::string value;  // any bytes
};

inline constexpr size_t kMaxAttributeNameBytes = 32;
// What a client may give with one object; names and values together.
inline constexpr size_t kMaxAttributes = 32;
inline constexpr size_t kMaxAttributeBytes = 4096;

bool IsAttributeName(std::string_view name);

// Whether a client may not give an attribute of this name: it is the worker's, or a word of the
// protocol.
bool IsReservedAttribute(std::string_view name);

// Whether files in the directory `dir_fd` (may be O_PATH) can have attributes: by trying with
// `file_fd`, a file of no use in there; or, where none can be made (-1), by asking.
bool DetectAttributes(int dir_fd, int file_fd);

// Stores `text` as the file's record. Returns 0 or an errno value: ENOSPC or E2BIG where the file
// system has no room for it.
[[nodiscard]] int SetRecord(int fd, std::string_view text);

// The file's record; empty where there is none. Returns 0 or an errno value: E2BIG for one that is
// larger than a worker would ever have stored.
[[nodiscard]] int GetRecord(int fd, std::string* text);

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_ATTRIBUTES_H_
