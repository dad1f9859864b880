// SPDX-License-Identifier: Apache-2.0
//
// A key as a file name and back: the same rule as in src/keys/key_file.ts, so that one directory
// serves both. tests/golden/keys.tsv holds both to it. Pure functions.
//
// "/" becomes "-SEP-", and ".data" follows. A key that would not come back unchanged from that, or
// whose name would be over 255 bytes, is stored as "sha256-<64 hex digits of the key>.data", and
// the key itself beside it, in a file of the same name with ".key" instead (the sidecar).
#ifndef LMSHM_WORKER_STORAGE_OBJECT_KEY_H_
#define LMSHM_WORKER_STORAGE_OBJECT_KEY_H_

#include <cstddef>
#include <string>
#include <string_view>

#include "worker/base/status.h"

namespace lmshm {

// A longer key could not be listed: coded, it must fit into an answer.
inline constexpr size_t kMaxKeyBytes = 16 * 1024;

// A key that was checked, and where its object is stored.
struct ObjectKey {
  std::string_view text;     // refers to what it was made of
  std::string file_name;     // one component that ends in ".data"
  std::string sidecar_name;  // empty: the file name says the key
};

// Whether `text` is a key:
//   EINVAL        empty, a control character, or not UTF-8
//   ENAMETOOLONG  over kMaxKeyBytes
Status CheckKey(std::string_view text);

// Of a text that CheckKey() has found to be one: nothing is checked again.
ObjectKey CheckedKey(std::string_view text);

// Both. `*key` is set on success only.
Status ParseKey(std::string_view text, ObjectKey* key);

enum class FileKind {
  kOther,   // not an object: a temporary, a probe, a sidecar, somebody else's file
  kPlain,   // an object; its name says its key
  kHashed,  // an object whose key is in its sidecar
};

// What a file of this name is; sets `*key` for kPlain.
FileKind ClassifyFile(std::string_view file_name, std::string* key);

// Of kind kHashed, if it is an object's name at all. Cheap.
bool IsHashedName(std::string_view file_name);

// What the file names of all kPlain objects begin with whose keys begin with `prefix`.
std::string PlainNameOf(std::string_view prefix);

// The sidecar of an object of kind kHashed.
std::string SidecarOf(std::string_view file_name);

// The object that a file of this name would be the sidecar of; empty: it is no sidecar's name.
std::string ObjectOfSidecar(std::string_view file_name);

// Whether an object of this name is a probe (temporary_name.h), of kind kOther: not for LIST.
bool IsProbeFile(std::string_view file_name);

}  // namespace lmshm

#endif  // LMSHM_WORKER_STORAGE_OBJECT_KEY_H_
