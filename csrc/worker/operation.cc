// SPDX-License-Identifier: Apache-2.0
#include "worker/operation.h"

#include <cerrno>

#include "worker/crc32c.h"
#include "worker/percent.h"

namespace lmshm {

namespace {

void AppendNamed(std::string_view name, std::string_view value, std::string* result) {
  result->push_back(' ');
  result->append(name);
  result->push_back('=');
  result->append(value);
}

void AppendStored(const ObjectInfo& info, std::string* result) {
  if (info.crc32c.has_value()) AppendNamed("crc32c", Crc32cHex(*info.crc32c), result);
  for (const Attribute& attribute : info.attributes) {
    AppendNamed(attribute.name, PercentEncode(attribute.value), result);
  }
}

Status Resolve(const RequestV2& request, const OperationContext& context, SharedBytes* bytes) {
  if (context.memory == nullptr) {
    return Status::Error(ENOTCONN, "no segment is attached: send ATTACH first");
  }
  return context.memory->Resolve(request.first, request.second, bytes);
}

Status Put(const RequestV2& request, const OperationContext& context, std::string* result) {
  SharedBytes bytes;
  Status status = Resolve(request, context, &bytes);
  if (!status.ok()) return status;
  uint32_t crc = 0;
  status = context.store->Put(request.keys.front(), bytes, request.attributes, context.cancel,
                              request.checksum ? &crc : nullptr);
  if (!status.ok()) return status;
  *result = " " + std::to_string(bytes.size);
  if (request.checksum) AppendNamed("crc32c", Crc32cHex(crc), result);
  return status;
}

Status Get(const RequestV2& request, const OperationContext& context, std::string* result) {
  SharedBytes bytes;
  Status status = Resolve(request, context, &bytes);
  if (!status.ok()) return status;
  ObjectInfo info;
  status = context.store->Get(request.keys.front(), bytes, request.checksum, context.cancel, &info);
  if (!status.ok()) return status;
  *result = " " + std::to_string(info.length);
  AppendStored(info, result);
  return status;
}

Status Stat(const RequestV2& request, const OperationContext& context, std::string* result) {
  ObjectInfo info;
  Status status = context.store->Stat(request.keys.front(), &info);
  if (!status.ok()) return status;
  *result = " " + std::to_string(info.length);
  AppendNamed("mtime_ms", std::to_string(info.mtime_ms), result);
  AppendNamed("disk", std::to_string(info.disk_bytes), result);
  AppendStored(info, result);
  return status;
}

// EXISTS and REMOVE: one digit a key.
Status ForEachKey(const RequestV2& request, const OperationContext& context, std::string* result) {
  *result = " ";
  for (const std::string& key : request.keys) {
    if (context.cancel != nullptr && context.cancel->Cancelled()) {
      return Status::System(ECANCELED, std::string(VerbName(request.verb)), "the worker is ending");
    }
    bool yes = false;
    Status status = request.verb == Verb::kExists ? context.store->Exists(key, &yes)
                                                  : context.store->Remove(key, &yes);
    if (!status.ok()) return status;
    result->push_back(yes ? '1' : '0');
  }
  return Status::OK();
}

Status List(const RequestV2& request, const OperationContext& context, size_t max_bytes,
            std::string* result) {
  constexpr size_t kMaxCursorBytes = 1 + 3 * 255;  // a file name, at worst all of it coded
  ListRequest list;
  list.limit = static_cast<size_t>(request.first);
  list.max_bytes = max_bytes - kMaxCursorBytes;
  list.after = request.text;
  list.prefix = request.prefix;
  ListPage page;
  Status status = context.listing->List(list, context.cancel, &page);
  if (!status.ok()) return status;
  *result = " " + (page.next.empty() ? std::string("-") : PercentEncode(page.next));
  for (const std::string& key : page.keys) {
    result->push_back(' ');
    AppendPercent(key, result);
  }
  return status;
}

}  // namespace

Status RunOperation(const RequestV2& request, const OperationContext& context, size_t max_bytes,
                    std::string* result) {
  switch (request.verb) {
    case Verb::kPut:
      return Put(request, context, result);
    case Verb::kGet:
      return Get(request, context, result);
    case Verb::kStat:
      return Stat(request, context, result);
    case Verb::kExists:
    case Verb::kRemove:
      return ForEachKey(request, context, result);
    case Verb::kList:
      return List(request, context, max_bytes, result);
    case Verb::kAttach:
    case Verb::kAuth:
    case Verb::kPing:
    case Verb::kQuit:
      break;
  }
  return Status::Error(EINVAL, "not an operation on objects");
}

}  // namespace lmshm
