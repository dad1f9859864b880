// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/lmcache_header.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include "worker/base/text.h"

namespace lmshm {

namespace {

constexpr size_t kDimensions = 4;
constexpr size_t kMaxRank = 4;
constexpr uint64_t kMaxLength = (uint64_t{1} << 31) - 1;

struct DType {
  int32_t number;
  std::string_view name;  // as LMCache writes it into keys, and clients into attributes
  uint64_t bytes;
};
// The first of a name is what is written. LMCache has 1 and 2 for half, and writes 2, since to
// torch half and float16 are one. 0 is its None, which plain bytes may have.
constexpr DType kDTypes[] = {
    {2, "half", 2},  {1, "half", 2},  {3, "bfloat16", 2}, {4, "float", 4},    {5, "double", 8},
    {6, "uint8", 1}, {0, "uint8", 1}, {7, "fp8_e4m3", 1}, {8, "fp8_e5m2", 1},
};
constexpr std::string_view kFormats[] = {
    "", "KV_2LTD", "KV_T2D", "KV_2TD", "BINARY", "BINARY_BUFFER", "KV_MLA_FMT", "EC_TD", "HS_TD"};
constexpr std::string_view kBinary = "BINARY";

bool IsBinary(size_t format) { return format == 4 || format == 5; }

const DType* FindDType(uint32_t number) {
  for (const DType& known : kDTypes) {
    if (static_cast<uint32_t>(known.number) == number) return &known;
  }
  return nullptr;
}

uint32_t ReadNumber(std::string_view bytes, size_t index) {
  uint32_t number = 0;
  for (size_t i = 4; i-- > 0;) {
    number = number << 8 | static_cast<unsigned char>(bytes[index * 4 + i]);
  }
  return number;
}

void AppendNumber(uint64_t number, std::string* bytes) {
  for (size_t i = 0; i < 4; i++) bytes->push_back(static_cast<char>(number >> (8 * i)));
}

// Bytes of a tensor; 0: it is none, or larger than kMaxLength.
uint64_t TensorBytes(const DType& dtype, const std::vector<uint64_t>& shape) {
  uint64_t bytes = dtype.bytes;
  for (const uint64_t size : shape) {
    if (size == 0 || size > kMaxLength) return 0;
    bytes *= size;
    if (bytes > kMaxLength) return 0;
  }
  return shape.empty() ? 0 : bytes;
}

void AppendItem(std::string_view item, char separator, std::string* list) {
  if (!list->empty()) list->push_back(separator);
  list->append(item);
}

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

std::string_view ValueOf(const std::vector<Attribute>& attributes, std::string_view name) {
  for (const Attribute& attribute : attributes) {
    if (attribute.name == name) return attribute.value;
  }
  return {};
}

Status Wrong(const std::string& why) { return Status::Error(EINVAL, "LMCache's header: " + why); }

}  // namespace

bool ParseLmcacheHeader(std::string_view begin, LmcacheHeader* header) {
  if (begin.size() < kLeastHeaderBytes) return false;
  const uint64_t length = ReadNumber(begin, 0);
  const size_t format = ReadNumber(begin, 1);
  if (length == 0 || length > kMaxLength) return false;
  if (format == 0 || format >= std::size(kFormats)) return false;
  std::string shapes, dtypes;
  uint64_t sum = 0;
  for (size_t at = 2; sum < length; at += 1 + kDimensions) {
    if (begin.size() < (at + 1 + kDimensions) * 4 || at > kMaxHeaderBytes / 4) return false;
    const uint32_t number = ReadNumber(begin, at);
    const auto* const dtype = std::find_if(
        std::begin(kDTypes), std::end(kDTypes),
        [&](const DType& known) { return static_cast<uint32_t>(known.number) == number; });
    if (dtype == std::end(kDTypes) || (number == 0 && !IsBinary(format))) return false;
    std::vector<uint64_t> shape;
    for (size_t i = 0; i < kDimensions; i++) shape.push_back(ReadNumber(begin, at + 1 + i));
    while (shape.size() > 1 && shape.back() == 0) shape.pop_back();
    const uint64_t bytes = TensorBytes(*dtype, shape);
    if (bytes == 0 || bytes > length - sum) return false;
    sum += bytes;
    std::string sizes;
    for (const uint64_t size : shape) AppendItem(std::to_string(size), ',', &sizes);
    AppendItem(sizes, '+', &shapes);
    AppendItem(dtype->name, '+', &dtypes);
    header->bytes = (at + 1 + kDimensions) * 4;
  }
  header->length = length;
  header->attributes = {
      {"dtype", dtypes}, {"format", std::string(kFormats[format])}, {"shape", shapes}};
  return true;
}

bool HasUnfitLmcacheHeader(std::string_view begin, uint64_t file_bytes) {
  if (begin.size() < kLeastHeaderBytes) return false;
  const uint64_t length = ReadNumber(begin, 0);
  const uint32_t format = ReadNumber(begin, 1);
  if (length > kMaxLength || format == 0 || format >= std::size(kFormats)) return false;
  const uint64_t bytes = file_bytes - std::min(file_bytes, length);
  if (bytes < kLeastHeaderBytes || bytes > begin.size() || bytes % 4 != 0) return false;
  if ((bytes / 4 - 2) % (1 + kDimensions) != 0) return false;
  for (size_t at = 2; at < bytes / 4; at += 1 + kDimensions) {
    if (FindDType(ReadNumber(begin, at)) == nullptr) return false;
  }
  return true;
}

Status MakeLmcacheHeader(uint64_t length, const std::vector<Attribute>& attributes,
                         std::string* header) {
  if (length == 0) return Wrong("LMCache has no empty objects");
  if (length > kMaxLength) {
    return Status::Error(EFBIG, "LMCache's header has 31 bits for the length, and the object " +
                                    std::to_string(length) + " bytes");
  }
  const std::string whole = std::to_string(length);
  const std::string_view shapes = ValueOf(attributes, "shape");
  const std::string_view dtypes = ValueOf(attributes, "dtype");
  std::string_view format = ValueOf(attributes, "format");
  const bool plain = shapes.empty();
  if (plain) format = kBinary;
  const auto* const known = std::find(std::begin(kFormats) + 1, std::end(kFormats), format);
  if (known == std::end(kFormats)) {
    return Wrong("it has no number for the format \"" + Printable(format.substr(0, 40)) + "\"");
  }
  const std::vector<std::string_view> shape_list = Split(plain ? whole : shapes, '+');
  const std::vector<std::string_view> dtype_list = Split(plain ? "uint8" : dtypes, '+');
  if (shape_list.size() != dtype_list.size() || shape_list.size() > kMaxHeaderGroups) {
    return Wrong(std::to_string(shape_list.size()) + " shapes and " +
                 std::to_string(dtype_list.size()) + " dtypes; it takes as many of each, at most " +
                 std::to_string(kMaxHeaderGroups));
  }
  std::string made;
  AppendNumber(length, &made);
  AppendNumber(static_cast<uint64_t>(known - std::begin(kFormats)), &made);
  uint64_t sum = 0;
  for (size_t group = 0; group < shape_list.size(); group++) {
    const auto* const dtype =
        std::find_if(std::begin(kDTypes), std::end(kDTypes),
                     [&](const DType& one) { return one.name == dtype_list[group]; });
    if (dtype == std::end(kDTypes)) {
      return Wrong("it has no number for the dtype \"" +
                   Printable(dtype_list[group].substr(0, 40)) + "\"");
    }
    std::vector<uint64_t> shape;
    for (const std::string_view word : Split(shape_list[group], ',')) {
      uint64_t size;
      if (ParseU64(word, &size) != NumberError::kNone || shape.size() == kMaxRank) {
        return Wrong("the shape \"" + Printable(shape_list[group].substr(0, 40)) +
                     "\" is not one to four sizes");
      }
      shape.push_back(size);
    }
    const uint64_t bytes = TensorBytes(*dtype, shape);
    if (bytes == 0) return Wrong("the shape \"" + Printable(shape_list[group]) + "\" is no size");
    sum += bytes;
    shape.resize(kDimensions);
    AppendNumber(static_cast<uint64_t>(dtype->number), &made);
    for (const uint64_t size : shape) AppendNumber(size, &made);
  }
  if (sum != length) {
    return Wrong("shape and dtype say " + std::to_string(sum) + " bytes, and the object has " +
                 whole);
  }
  *header = std::move(made);
  return Status::OK();
}

}  // namespace lmshm
