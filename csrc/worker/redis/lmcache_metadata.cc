// SPDX-License-Identifier: Apache-2.0
#include "worker/redis/lmcache_metadata.h"

#include <cerrno>
#include <limits>

#include "worker/base/text.h"

namespace lmshm {

namespace {

constexpr size_t kDimensions = 4;
constexpr size_t kGroupNumbers = 1 + kDimensions;
constexpr size_t kMostGroups = 128;

struct Named {
  uint32_t number;
  std::string_view name;
};

// The first with a name, or with a number, is the one that counts.
constexpr Named kDtypes[] = {{1, "half"},   {2, "half"},  {3, "bfloat16"}, {4, "float"},
                             {5, "double"}, {6, "uint8"}, {7, "fp8_e4m3"}, {8, "fp8_e5m2"}};
constexpr Named kFormats[] = {{1, "KV_2LTD"}, {2, "KV_T2D"},        {3, "KV_2TD"},
                              {4, "BINARY"},  {5, "BINARY_BUFFER"}, {6, "KV_MLA_FMT"}};

template <size_t N>
bool NumberOf(const Named (&table)[N], std::string_view name, uint32_t* number) {
  for (const Named& one : table) {
    if (one.name != name) continue;
    *number = one.number;
    return true;
  }
  return false;
}

template <size_t N>
bool NameOf(const Named (&table)[N], uint32_t number, std::string_view* name) {
  for (const Named& one : table) {
    if (one.number != number) continue;
    *name = one.name;
    return true;
  }
  return false;
}

std::vector<std::string_view> Split(std::string_view text, char between) {
  std::vector<std::string_view> parts;
  for (;;) {
    const size_t at = text.find(between);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text = text.substr(at + 1);
  }
}

void AppendInt(uint64_t number, std::string* out) {
  for (int i = 0; i < 4; i++) out->push_back(static_cast<char>(number >> (8 * i)));
}

uint32_t IntAt(std::string_view text, size_t index) {
  uint32_t number = 0;
  for (size_t i = 4; i-- > 0;) {
    number = number << 8 | static_cast<unsigned char>(text[4 * index + i]);
  }
  return number;
}

Status Unfit(std::string_view what, std::string_view value) {
  return Status::Error(EINVAL, "layout=lmcache-redis: LMCache has no " + std::string(what) + " \"" +
                                   Printable(value) + "\"");
}

}  // namespace

Status FormatLmcacheMetadata(uint64_t length, const std::vector<Attribute>& attributes,
                             std::string* text) {
  constexpr uint64_t kMost = std::numeric_limits<int32_t>::max();
  if (length > kMost) return Unfit("length", std::to_string(length));
  std::string shape = std::to_string(length);
  std::string dtype = "uint8";
  std::string format = "BINARY";
  for (const Attribute& attribute : attributes) {
    if (attribute.name == "shape") shape = attribute.value;
    if (attribute.name == "dtype") dtype = attribute.value;
    if (attribute.name == "format") format = attribute.value;
  }
  uint32_t number = 0;
  if (!NumberOf(kFormats, format, &number)) return Unfit("format", format);
  text->clear();
  AppendInt(length, text);
  AppendInt(number, text);
  const std::vector<std::string_view> shapes = Split(shape, '+');
  const std::vector<std::string_view> dtypes = Split(dtype, '+');
  if (shapes.size() != dtypes.size() || shapes.size() > kMostGroups) return Unfit("shape", shape);
  for (size_t i = 0; i < shapes.size(); i++) {
    if (!NumberOf(kDtypes, dtypes[i], &number)) return Unfit("dtype", dtypes[i]);
    AppendInt(number, text);
    const std::vector<std::string_view> dimensions = Split(shapes[i], ',');
    if (dimensions.size() > kDimensions) return Unfit("shape", shape);
    for (size_t j = 0; j < kDimensions; j++) {
      uint64_t dimension = 0;
      if (j < dimensions.size() &&
          (ParseU64(dimensions[j], &dimension) != NumberError::kNone || dimension > kMost)) {
        return Unfit("shape", shape);
      }
      AppendInt(dimension, text);
    }
  }
  return Status::OK();
}

bool ParseLmcacheMetadata(std::string_view text, uint64_t* length,
                          std::vector<Attribute>* attributes) {
  if (text.size() % 4 != 0 || text.size() < 4 * (2 + kGroupNumbers)) return false;
  const size_t numbers = text.size() / 4;
  if ((numbers - 2) % kGroupNumbers != 0 || (numbers - 2) / kGroupNumbers > kMostGroups) {
    return false;
  }
  *length = IntAt(text, 0);
  std::string_view format;
  if (!NameOf(kFormats, IntAt(text, 1), &format)) return false;
  std::string shape;
  std::string dtype;
  for (size_t at = 2; at < numbers; at += kGroupNumbers) {
    std::string_view name;
    if (!NameOf(kDtypes, IntAt(text, at), &name)) return false;
    if (at > 2) {
      shape.push_back('+');
      dtype.push_back('+');
    }
    dtype.append(name);
    size_t dimensions = kDimensions;
    while (dimensions > 1 && IntAt(text, at + dimensions) == 0) dimensions--;
    for (size_t i = 1; i <= dimensions; i++) {
      if (i > 1) shape.push_back(',');
      shape.append(std::to_string(IntAt(text, at + i)));
    }
  }
  *attributes = {{"dtype", dtype}, {"format", std::string(format)}, {"shape", shape}};
  return true;
}

}  // namespace lmshm
