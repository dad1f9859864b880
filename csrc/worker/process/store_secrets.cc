// SPDX-License-Identifier: Apache-2.0
#include "worker/process/store_secrets.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "worker/base/private_file.h"
#include "worker/base/text.h"

namespace lmshm {

namespace {

constexpr size_t kMaxFileBytes = 64 * 1024;
constexpr size_t kMaxSecretBytes = 16 * 1024;  // session tokens are long

void Take(const char* name, std::string* copy) {
  char* const value = getenv(name);
  if (value == nullptr) return;
  *copy = value;
  memset(value, 0, strlen(value));
  unsetenv(name);
}

std::string_view Trimmed(std::string_view text) {
  const auto is_space = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

// As it can be sent: one line.
Status Check(std::string_view secret, const std::string& source) {
  const bool control = std::any_of(secret.begin(), secret.end(), [](char c) {
    return static_cast<unsigned char>(c) < ' ' || c == '\x7f';
  });
  if (!control && secret.size() <= kMaxSecretBytes) return Status::OK();
  return Status::Error(EINVAL, source +
                                   ": a secret is one line without control characters, at "
                                   "most " +
                                   std::to_string(kMaxSecretBytes) + " bytes");
}

Status ParseAwsCredentials(std::string_view content, const std::string& source,
                           StoreSecrets* secrets) {
  bool own = true;  // before the first section
  while (!content.empty()) {
    const size_t end = content.find('\n');
    const std::string_view line = Trimmed(content.substr(0, end));
    content = end == std::string_view::npos ? std::string_view() : content.substr(end + 1);
    if (line.empty() || line.front() == '#' || line.front() == ';') continue;
    if (line.front() == '[') {
      own = line == "[default]";
      continue;
    }
    const size_t equals = line.find('=');
    if (!own || equals == std::string_view::npos) continue;
    const std::string_view name = Trimmed(line.substr(0, equals));
    const std::string_view value = Trimmed(line.substr(equals + 1));
    if (name == "aws_access_key_id") secrets->user = value;
    if (name == "aws_secret_access_key") secrets->password = value;
    if (name == "aws_session_token") secrets->session_token = value;
  }
  if (secrets->user.empty() || secrets->password.empty()) {
    return Status::Error(EINVAL, source +
                                     ": expected lines aws_access_key_id = ... and "
                                     "aws_secret_access_key = ..., as in ~/.aws/credentials");
  }
  return Status::OK();
}

}  // namespace

StoreEnvironment TakeStoreEnvironment() {
  StoreEnvironment taken;
  Take("LMSHM_STORE_SECRET", &taken.secret);
  Take("AWS_ACCESS_KEY_ID", &taken.access_key_id);
  Take("AWS_SECRET_ACCESS_KEY", &taken.secret_access_key);
  Take("AWS_SESSION_TOKEN", &taken.session_token);
  return taken;
}

Status ParseStoreSecrets(std::string_view scheme, std::string_view content,
                         const std::string& source, StoreSecrets* secrets) {
  StoreSecrets found;
  Status status;
  if (scheme == "s3") {
    status = ParseAwsCredentials(content, source, &found);
  } else {
    if (!content.empty() && content.back() == '\n') content.remove_suffix(1);
    if (!content.empty() && content.back() == '\r') content.remove_suffix(1);
    if (content.empty()) return Status::Error(EINVAL, source + ": there is no password in it");
    found.password = content;
  }
  for (const std::string* one : {&found.user, &found.password, &found.session_token}) {
    if (status.ok()) status = Check(*one, source);
  }
  if (status.ok()) *secrets = std::move(found);
  return status;
}

Status FindStoreSecrets(const StoreUrl& url, const std::string& path, StoreEnvironment* environment,
                        StoreSecrets* secrets) {
  Status status;
  if (!path.empty()) {
    const std::string source = "store secret file " + Printable(path);
    std::string content;
    status = ReadPrivateFile(path, source, kMaxFileBytes, &content);
    if (status.ok() && content.size() > kMaxFileBytes) {
      status = Status::Error(
          EINVAL, source + ": it has more than " + std::to_string(kMaxFileBytes) + " bytes");
    }
    if (status.ok()) status = ParseStoreSecrets(url.scheme, content, source, secrets);
    Wipe(&content);
  } else if (url.scheme == "s3") {
    if (environment->access_key_id.empty() != environment->secret_access_key.empty()) {
      status = Status::Error(EINVAL,
                             "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together, and one "
                             "of them is not set");
    }
    secrets->user = environment->access_key_id;
    secrets->password = environment->secret_access_key;
    secrets->session_token = environment->session_token;
    for (const std::string* one : {&secrets->user, &secrets->password, &secrets->session_token}) {
      if (status.ok()) status = Check(*one, "environment variables AWS_...");
    }
  } else if (!environment->secret.empty()) {
    secrets->password = environment->secret;
    status = Check(secrets->password, "environment variable LMSHM_STORE_SECRET");
  }
  for (std::string* one : {&environment->secret, &environment->access_key_id,
                           &environment->secret_access_key, &environment->session_token}) {
    Wipe(one);
  }
  if (status.ok() && !url.user.empty() && secrets->password.empty()) {
    return Status::Error(EINVAL,
                         "the store's URL names a user, and there is no password: give "
                         "--store-secret-file FILE or set LMSHM_STORE_SECRET");
  }
  return status;
}

}  // namespace lmshm
