// SPDX-License-Identifier: Apache-2.0
#include "worker/storage/store_url.h"

#include <algorithm>
#include <cerrno>
#include <iterator>

#include "worker/base/percent.h"
#include "worker/base/text.h"

namespace lmshm {

namespace {

constexpr size_t kMaxUrlBytes = 8192;
constexpr size_t kMaxHostBytes = 253;
constexpr size_t kMaxHosts = 64;
constexpr char kForms[] =
    "expected /dir, file:///dir, redis://host[:port], redis+unix:///path, "
    "redis+cluster://host[:port],..., or s3://bucket[/prefix]";

struct Scheme {
  std::string_view written;
  std::string_view name;
};

constexpr Scheme kSchemes[] = {
    {"file", "file"},
    {"redis", "redis"},
    {"redis+unix", "redis+unix"},
    {"redis+cluster", "redis+cluster"},
    {"rediss", "rediss"},
    {"valkey", "redis"},
    {"valkey+unix", "redis+unix"},
    {"valkey+cluster", "redis+cluster"},
    {"valkeys", "rediss"},
    {"s3", "s3"},
};

Status Wrong(const std::string& text) { return Status::Error(EINVAL, "store URL: " + text); }

// `what` is named in messages, `text` is not: it might hold a password that was not coded.
Status Decode(std::string_view text, const std::string& what, std::string* decoded) {
  if (!PercentDecode(text, decoded)) {
    return Wrong(what + ": what is not ASCII, spaces and % are written as %XX");
  }
  if (!IsPrintable(*decoded)) {
    return Wrong(what + ": it must be UTF-8 without control characters");
  }
  return Status::OK();
}

bool IsHostName(std::string_view name) {
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '-' || c == '_';
  });
}

bool IsIpv6(std::string_view address) {
  return address.find(':') != std::string_view::npos &&
         std::all_of(address.begin(), address.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F') ||
                  c == ':' || c == '.';
         });
}

Status ParseHost(std::string_view text, StoreHost* host) {
  std::string_view name = text;
  std::string_view port;
  bool has_port = false;
  if (!text.empty() && text.front() == '[') {
    const size_t close = text.find(']');
    if (close == std::string_view::npos || !IsIpv6(text.substr(1, close - 1))) {
      return Wrong("an IPv6 address is written as [::1]");
    }
    name = text.substr(1, close - 1);
    const std::string_view rest = text.substr(close + 1);
    has_port = !rest.empty();
    if (has_port && rest.front() != ':') return Wrong("after ] comes :PORT");
    if (has_port) port = rest.substr(1);
  } else {
    const size_t colon = text.find(':');
    has_port = colon != std::string_view::npos;
    name = text.substr(0, colon);
    if (has_port) port = text.substr(colon + 1);
    if (port.find(':') != std::string_view::npos) {
      return Wrong("an IPv6 address is written in brackets: [::1]:6379");
    }
    if (!IsHostName(name)) {
      return Wrong("a host's name has letters, digits, points and dashes");
    }
  }
  if (name.empty()) return Wrong("it names no host");
  if (name.size() > kMaxHostBytes) return Wrong("the host's name is too long");
  uint64_t number = 0;
  if (has_port && (ParseU64(port, &number) != NumberError::kNone || number < 1 || number > 65535)) {
    return Wrong("a port is a number from 1 to 65535");
  }
  host->name = name;
  host->port = static_cast<uint16_t>(number);
  return Status::OK();
}

Status ParseParameters(std::string_view text, StoreUrl* url) {
  while (true) {
    const size_t end = text.find('&');
    const std::string_view one = text.substr(0, end);
    const size_t equals = one.find('=');
    const std::string_view name = one.substr(0, equals);
    const bool is_name = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
    });
    if (!is_name || equals == std::string_view::npos) {
      return Wrong("behind ? come name=value, with & between them");
    }
    if (name.find("password") != std::string_view::npos) {
      return Wrong("a password does not belong into it: give --store-secret-file FILE");
    }
    for (const auto& [other, value] : url->parameters) {
      if (other == name) return Wrong("the parameter " + other + " comes twice");
    }
    std::string value;
    Status status = Decode(one.substr(equals + 1), "the parameter " + std::string(name), &value);
    if (!status.ok()) return status;
    url->parameters.emplace_back(name, std::move(value));
    if (end == std::string_view::npos) return Status::OK();
    text.remove_prefix(end + 1);
  }
}

// A password may have any character that should have been coded, so it is looked for in all that
// comes before the last @.
bool HasPassword(std::string_view text) {
  const size_t at = text.rfind('@');
  return at != std::string_view::npos && text.substr(0, at).find(':') != std::string_view::npos;
}

Status ParseAuthority(std::string_view text, StoreUrl* url) {
  const std::string& scheme = url->scheme;
  const size_t at = text.rfind('@');
  if (at != std::string_view::npos) {
    if (scheme == "file" || scheme == "s3")
      return Wrong("there is no user in a " + scheme + " URL");
    Status status = Decode(text.substr(0, at), "the user", &url->user);
    if (!status.ok()) return status;
    if (url->user.empty()) return Wrong("the user before @ is empty");
    text.remove_prefix(at + 1);
  }
  if (scheme == "file" || scheme == "redis+unix") {
    if (text.empty()) return Status::OK();
    return Wrong(scheme + "://" + " is followed by an absolute path: three slashes in all");
  }
  const bool many = scheme == "redis+cluster";
  for (;;) {
    const size_t comma = text.find(',');
    if (comma != std::string_view::npos && !many) {
      return Wrong("several hosts are for redis+cluster://");
    }
    if (url->hosts.size() == kMaxHosts) {
      return Wrong("at most " + std::to_string(kMaxHosts) +
                   " hosts; the others are found by these");
    }
    StoreHost host;
    Status status = ParseHost(text.substr(0, comma), &host);
    if (!status.ok()) return status;
    if (scheme == "s3" && host.port != 0) return Wrong("a bucket has no port; endpoint=URL has");
    url->hosts.push_back(std::move(host));
    if (comma == std::string_view::npos) return Status::OK();
    text.remove_prefix(comma + 1);
  }
}

}  // namespace

Status ParseStoreUrl(std::string_view text, StoreUrl* url) {
  StoreUrl parsed;
  if (text.empty()) return Wrong(std::string("it is empty; ") + kForms);
  if (text.size() > kMaxUrlBytes) {
    return Wrong("it is longer than " + std::to_string(kMaxUrlBytes) + " bytes");
  }
  if (text.front() == '/' || text.front() == '.') {
    if (text.find('\0') != std::string_view::npos) return Wrong("there is a zero byte in it");
    parsed.scheme = "file";
    parsed.path = text;
    *url = std::move(parsed);
    return Status::OK();
  }
  const size_t colon = text.find("://");
  std::string scheme(text.substr(0, std::min(colon, size_t{32})));
  std::transform(scheme.begin(), scheme.end(), scheme.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 'a' - 'A') : c;
  });
  const Scheme* const known =
      std::find_if(std::begin(kSchemes), std::end(kSchemes),
                   [&](const Scheme& one) { return one.written == scheme; });
  if (colon == std::string_view::npos || known == std::end(kSchemes)) return Wrong(kForms);
  parsed.scheme = known->name;
  std::string_view rest = text.substr(colon + 3);

  const size_t question = rest.find('?');
  if (HasPassword(rest.substr(0, question)) ||
      (question != std::string_view::npos && HasPassword(rest.substr(0, rest.find('/'))))) {
    return Wrong(
        "there is a password in it, which everybody on this machine could read; give "
        "--store-secret-file FILE or set LMSHM_STORE_SECRET (a : or @ that is none is %3A or %40)");
  }
  if (rest.find('#') != std::string_view::npos) return Wrong("# is written as %23");
  std::string_view parameters;
  if (question != std::string_view::npos) {
    parameters = rest.substr(question + 1);
    rest = rest.substr(0, question);
  }
  const size_t slash = rest.find('/');
  Status status = ParseAuthority(rest.substr(0, slash), &parsed);
  if (!status.ok()) return status;
  if (slash != std::string_view::npos) {
    const bool absolute = parsed.scheme == "file" || parsed.scheme == "redis+unix";
    status = Decode(rest.substr(absolute ? slash : slash + 1), "the path", &parsed.path);
    if (!status.ok()) return status;
  }
  if ((parsed.scheme == "file" || parsed.scheme == "redis+unix") && parsed.path.size() < 2 &&
      !(parsed.scheme == "file" && parsed.path == "/")) {
    return Wrong(parsed.scheme + ":// is followed by an absolute path");
  }
  if (question != std::string_view::npos && !(status = ParseParameters(parameters, &parsed)).ok()) {
    return status;
  }
  if (parsed.scheme == "file" && !parsed.parameters.empty()) {
    return Wrong("a directory has no parameters; its options are on the command line");
  }
  *url = std::move(parsed);
  return Status::OK();
}

}  // namespace lmshm
