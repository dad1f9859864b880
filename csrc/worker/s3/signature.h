// SPDX-License-Identifier: Apache-2.0
//
// How a request to S3 is signed: AWS Signature Version 4 in the Authorization header, as "Signature
// Calculations for the Authorization Header" of the Amazon S3 API reference has it. Pure functions.
#ifndef LMSHM_WORKER_S3_SIGNATURE_H_
#define LMSHM_WORKER_S3_SIGNATURE_H_

#include <ctime>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "worker/base/sha256.h"

namespace lmshm {

// What stands for the hash of a body that is not signed.
inline constexpr std::string_view kUnsignedPayload = "UNSIGNED-PAYLOAD";

// Letters, digits and - . _ ~ stand for themselves, every other byte becomes % and two capital
// hexadecimal digits. "/" stands for itself, too, if `keep_slashes`: that is the path of an object.
void AppendUriEncoded(std::string_view text, bool keep_slashes, std::string* out);
std::string UriEncode(std::string_view text, bool keep_slashes);

// "20130524T000000Z", by which the day is the first 8 characters.
std::string AmzTime(time_t when);

// A request, as far as it is signed.
struct RequestToSign {
  std::string_view method;
  std::string_view path;   // coded, begins with "/"
  std::string_view query;  // coded, sorted by name, each with "=": "list-type=2&prefix=a%2Fb"
  // All that are signed, "host" among them: names in lower case, sorted; values without spaces
  // around them and without two in a row.
  std::vector<std::pair<std::string, std::string>> headers;
  std::string_view payload_hash;  // 64 hexadecimal digits, or kUnsignedPayload
};

// The key that signs everything of one day. Worth keeping: it takes four HMACs.
Sha256Digest SigningKey(std::string_view secret, std::string_view day, std::string_view region);

// The value of the header Authorization. `time` is an AmzTime(), `key` the SigningKey() of its day.
std::string Authorization(const RequestToSign& request, std::string_view access_key_id,
                          std::string_view region, std::string_view time, const Sha256Digest& key);

}  // namespace lmshm

#endif  // LMSHM_WORKER_S3_SIGNATURE_H_
