// SPDX-License-Identifier: Apache-2.0
#include "worker/s3/s3_options.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "worker/base/text.h"

namespace lmshm {

namespace {

constexpr uint16_t kHttpPort = 80;
constexpr uint16_t kHttpsPort = 443;
constexpr uint64_t kMostSeconds = 3600;

Status Refused(std::string text) { return Status::Error(EINVAL, std::move(text)); }

bool IsHostByte(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '-' || c == '_';
}

// "name", "1.2.3.4", "[::1]", each with or without ":port".
bool ParseHost(std::string_view text, StoreHost* host) {
  std::string_view rest;
  if (text.substr(0, 1) == "[") {
    const size_t end = text.find(']');
    if (end == std::string_view::npos) return false;
    host->name = std::string(text.substr(1, end - 1));
    rest = text.substr(end + 1);
    if (host->name.find_first_not_of("0123456789abcdefABCDEF:.") != std::string::npos) return false;
  } else {
    const size_t colon = text.find(':');
    host->name = std::string(text.substr(0, colon));
    if (colon != std::string_view::npos) rest = text.substr(colon);
    if (!std::all_of(host->name.begin(), host->name.end(), IsHostByte)) return false;
  }
  if (host->name.empty()) return false;
  host->port = 0;
  if (rest.empty()) return true;
  uint64_t port = 0;
  if (rest[0] != ':' || ParseU64(rest.substr(1), &port) != NumberError::kNone) return false;
  if (port < 1 || port > 65535) return false;
  host->port = static_cast<uint16_t>(port);
  return true;
}

bool ParseBool(std::string_view text, bool* value) {
  *value = text == "true" || text == "1";
  return *value || text == "false" || text == "0";
}

Status ParseEndpoint(std::string_view text, StoreHost* host, bool* tls) {
  std::string_view rest = text;
  *tls = rest.substr(0, 8) == "https://";
  if (*tls) {
    rest.remove_prefix(8);
  } else if (rest.substr(0, 7) == "http://") {
    rest.remove_prefix(7);
  } else {
    rest = {};
  }
  if (!rest.empty() && rest.back() == '/') rest.remove_suffix(1);
  if (text.find('@') != std::string_view::npos) {  // not repeated: there may be a secret in it
    return Refused(
        "s3://: no user belongs into the endpoint; the access key is taken from AWS_ACCESS_KEY_ID "
        "and AWS_SECRET_ACCESS_KEY, or from the file that --store-secret-file names");
  }
  if (!ParseHost(rest, host)) {
    return Refused("s3://: endpoint=" + Printable(text) +
                   " is no http://HOST[:PORT] or https://HOST[:PORT], without a path");
  }
  return Status::OK();
}

// The recipe is in docs/engines.md with all its lines; here it is what gets somebody started.
Status NeedsTunnel(const std::string& endpoint, const StoreHost& host) {
  const std::string port = std::to_string(host.port != 0 ? host.port : kHttpsPort);
  return Status::Error(
      EPROTONOSUPPORT,
      "s3://: endpoint=" + endpoint +
          " needs TLS, which this worker does not speak: start a tunnel, such as stunnel with "
          "\"client = yes\", \"accept = 127.0.0.1:8443\", \"connect = " +
          host.name + ":" + port + "\", \"checkHost = " + host.name +
          "\", \"verifyChain = yes\", \"CApath = /etc/ssl/certs\", and add via=127.0.0.1:8443 "
          "(see docs/engines.md)");
}

// Amazon's rule, which others have taken over; so that a bucket needs no coding anywhere.
bool IsBucketName(std::string_view name) {
  return name.size() >= 3 && name.size() <= 63 && std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '.' || c == '-' || c == '_';
         });
}

Status ParseParameter(std::string_view name, const std::string& value, std::string* endpoint,
                      std::optional<StoreHost>* via, S3Options* options) {
  const auto wrong = [&](std::string_view accepted) {
    return Refused("s3://: " + std::string(name) + "=" + Printable(value) + ": it must be " +
                   std::string(accepted));
  };
  if (name == "endpoint") {
    *endpoint = value;
  } else if (name == "via") {
    StoreHost host;
    if (!ParseHost(value, &host) || host.port == 0) return wrong("HOST:PORT");
    *via = host;
  } else if (name == "region") {
    if (value.empty() || !std::all_of(value.begin(), value.end(), IsHostByte)) {
      return wrong("a region such as eu-central-1");
    }
    options->region = value;
  } else if (name == "path_style") {
    if (!ParseBool(value, &options->path_style)) return wrong("true or false");
  } else if (name == "sign_payload") {
    if (!ParseBool(value, &options->sign_payload)) return wrong("true or false");
  } else if (name == "chunk_bytes") {
    uint64_t bytes = 0;
    if (ParseU64(value, &bytes) != NumberError::kNone || bytes == 0)
      return wrong("a size in bytes");
    options->chunk_bytes = bytes;
  } else if (name == "timeout") {
    uint64_t seconds = 0;
    if (ParseU64(value, &seconds) != NumberError::kNone || seconds < 1 || seconds > kMostSeconds) {
      return wrong("1 to " + std::to_string(kMostSeconds) + " seconds");
    }
    options->timeout = std::chrono::seconds(seconds);
  } else if (name == "layout") {
    if (value == "lmshm") {
      options->layout = S3Layout::kLmshm;
    } else if (value == "payload") {
      options->layout = S3Layout::kPayload;
    } else if (value == "lmcache-s3") {
      options->layout = S3Layout::kLmcacheS3;
    } else {
      return wrong("lmshm, payload or lmcache-s3");
    }
  } else {
    return Refused("s3://: there is no parameter \"" + Printable(name) +
                   "\"; there are endpoint, via, region, path_style, layout, chunk_bytes, "
                   "sign_payload and timeout");
  }
  return Status::OK();
}

}  // namespace

Status ParseS3Options(const StoreUrl& url, S3Options* options) {
  *options = S3Options();
  if (url.hosts.size() != 1 || url.hosts[0].port != 0 || !IsBucketName(url.hosts[0].name)) {
    return Refused(
        "s3://: the bucket must be 3 to 63 letters, digits, dots or hyphens, and the server is "
        "given as endpoint=URL: s3://bucket/prefix?endpoint=http://127.0.0.1:8333");
  }
  if (!url.user.empty()) {
    return Refused(
        "s3://: no user belongs into the URL; the access key is taken from AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or from the file that --store-secret-file names");
  }
  options->bucket = url.hosts[0].name;
  options->prefix = url.path;
  while (!options->prefix.empty() && options->prefix.back() == '/') options->prefix.pop_back();
  if (!IsPrintable(options->prefix)) return Refused("s3://: the prefix is no printable UTF-8");
  if (!options->prefix.empty()) options->prefix.push_back('/');

  std::string endpoint;
  std::optional<StoreHost> via;
  for (const auto& [name, value] : url.parameters) {
    const Status status = ParseParameter(name, value, &endpoint, &via, options);
    if (!status.ok()) return status;
  }
  if (endpoint.empty()) endpoint = "https://s3." + options->region + ".amazonaws.com";
  StoreHost host;
  const Status status = ParseEndpoint(endpoint, &host, &options->tls);
  if (!status.ok()) return status;
  if (options->tls && !via.has_value()) return NeedsTunnel(endpoint, host);

  options->host = host.name.find(':') == std::string::npos ? host.name : "[" + host.name + "]";
  const uint16_t usual = options->tls ? kHttpsPort : kHttpPort;
  if (host.port != 0 && host.port != usual) options->host += ":" + std::to_string(host.port);
  if (!options->path_style) options->host = options->bucket + "." + options->host;
  if (host.port == 0) host.port = usual;
  options->connect = via.value_or(host);
  return Status::OK();
}

std::string_view S3LayoutName(S3Layout layout) {
  switch (layout) {
    case S3Layout::kPayload:
      return "payload";
    case S3Layout::kLmcacheS3:
      return "lmcache-s3";
    case S3Layout::kLmshm:
      break;
  }
  return "lmshm";
}

}  // namespace lmshm
