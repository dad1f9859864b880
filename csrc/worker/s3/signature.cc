// SPDX-License-Identifier: Apache-2.0
#include "worker/s3/signature.h"

namespace lmshm {

namespace {

std::string_view View(const Sha256Digest& digest) {
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

std::string Scope(std::string_view day, std::string_view region) {
  return std::string(day).append("/").append(region).append("/s3/aws4_request");
}

std::string SignedNames(const RequestToSign& request) {
  std::string names;
  for (const auto& [name, value] : request.headers) {
    if (!names.empty()) names.push_back(';');
    names.append(name);
  }
  return names;
}

std::string CanonicalRequest(const RequestToSign& request, const std::string& signed_names) {
  std::string text(request.method);
  text.append("\n").append(request.path).append("\n").append(request.query).append("\n");
  for (const auto& [name, value] : request.headers) {
    text.append(name).append(":").append(value).append("\n");
  }
  return text.append("\n").append(signed_names).append("\n").append(request.payload_hash);
}

}  // namespace

void AppendUriEncoded(std::string_view text, bool keep_slashes, std::string* out) {
  constexpr char kHex[] = "0123456789ABCDEF";
  for (const char c : text) {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
        c == '.' || c == '_' || c == '~' || (c == '/' && keep_slashes)) {
      out->push_back(c);
      continue;
    }
    const auto byte = static_cast<unsigned char>(c);
    out->push_back('%');
    out->push_back(kHex[byte >> 4]);
    out->push_back(kHex[byte & 15]);
  }
}

std::string UriEncode(std::string_view text, bool keep_slashes) {
  std::string out;
  AppendUriEncoded(text, keep_slashes, &out);
  return out;
}

std::string AmzTime(time_t when) {
  struct tm fields = {};
  gmtime_r(&when, &fields);
  char text[32];
  return std::string(text, strftime(text, sizeof text, "%Y%m%dT%H%M%SZ", &fields));
}

Sha256Digest SigningKey(std::string_view secret, std::string_view day, std::string_view region) {
  const Sha256Digest date = HmacSha256(std::string("AWS4").append(secret), day);
  const Sha256Digest date_region = HmacSha256(View(date), region);
  const Sha256Digest date_region_service = HmacSha256(View(date_region), "s3");
  return HmacSha256(View(date_region_service), "aws4_request");
}

std::string Authorization(const RequestToSign& request, std::string_view access_key_id,
                          std::string_view region, std::string_view time, const Sha256Digest& key) {
  const std::string scope = Scope(time.substr(0, 8), region);
  const std::string names = SignedNames(request);
  std::string to_sign = "AWS4-HMAC-SHA256\n";
  to_sign.append(time).append("\n").append(scope).append("\n");
  to_sign.append(Sha256Hex(CanonicalRequest(request, names)));
  std::string value = "AWS4-HMAC-SHA256 Credential=";
  value.append(access_key_id).append("/").append(scope);
  value.append(",SignedHeaders=").append(names);
  return value.append(",Signature=").append(HexOf(HmacSha256(View(key), to_sign)));
}

}  // namespace lmshm
