// SPDX-License-Identifier: Apache-2.0
//
// What --store says, and what a store logs in with.
#include <sys/stat.h>

#include <cerrno>
#include <cstdlib>

#include "worker/process/make_store.h"
#include "worker/process/store_secrets.h"
#include "worker/storage/store_url.h"
#include "worker_fixture.hh"

using lmshm::ParseStoreUrl;
using lmshm::Status;
using lmshm::StoreSecrets;
using lmshm::StoreUrl;

namespace {

// "scheme|user|host:port,...|path|name=value&...", or the error's text.
std::string Parse(std::string_view text) {
  StoreUrl url;
  const Status status = ParseStoreUrl(text, &url);
  if (!status.ok()) {
    CHECK_EQ(status.number(), EINVAL);
    CHECK(url.scheme.empty());
    return status.text();
  }
  std::string out = url.scheme + "|" + url.user + "|";
  for (const lmshm::StoreHost& host : url.hosts) {
    out += (&host == url.hosts.data() ? "" : ",") + host.name + ":" + std::to_string(host.port);
  }
  out += "|" + url.path + "|";
  for (const auto& [name, value] : url.parameters) out += name + "=" + value + ";";
  return out;
}

StoreUrl Url(const std::string& text) {
  StoreUrl url;
  REQUIRE(ParseStoreUrl(text, &url).ok());
  return url;
}

}  // namespace

TEST(store_urls_of_every_form) {
  CHECK_EQ(Parse("/dir"), "file|||/dir|");
  CHECK_EQ(Parse("/dir with %20?x=1#"), "file|||/dir with %20?x=1#|");
  CHECK_EQ(Parse("./dir"), "file|||./dir|");
  CHECK_EQ(Parse("file:///dir/a%20b"), "file|||/dir/a b|");
  CHECK_EQ(Parse("file:///"), "file|||/|");
  CHECK_EQ(Parse("redis://host"), "redis||host:0||");
  CHECK_EQ(Parse("REDIS://Host:6380/2"), "redis||Host:6380|2|");
  CHECK_EQ(Parse("valkey://me@10.0.0.1:1/"), "redis|me|10.0.0.1:1||");
  CHECK_EQ(Parse("redis://a%40b@[::1]:65535?prefix=a%2Fb%25&ttl=5"),
           "redis|a@b|::1:65535||prefix=a/b%;ttl=5;");
  CHECK_EQ(Parse("redis://[fe80::1]"), "redis||fe80::1:0||");
  CHECK_EQ(Parse("redis+unix:///run/redis.sock?db=3"), "redis+unix|||/run/redis.sock|db=3;");
  CHECK_EQ(Parse("redis+unix://me@/run/r"), "redis+unix|me||/run/r|");
  CHECK_EQ(Parse("valkey+cluster://a:7000,[::1]:7001,c"), "redis+cluster||a:7000,::1:7001,c:0||");
  CHECK_EQ(Parse("valkeys://h"), "rediss||h:0||");
  CHECK_EQ(Parse("s3://my-bucket/a/b?endpoint=http%3A%2F%2Fh%3A1&region=us-east-1"),
           "s3||my-bucket:0|a/b|endpoint=http://h:1;region=us-east-1;");
  CHECK_EQ(Parse("s3://bkt?endpoint=http://h:1&path_style="),
           "s3||bkt:0||endpoint=http://h:1;path_style=;");
  CHECK_EQ(Parse("redis://h?prefix=%e2%82%ac"), "redis||h:0||prefix=\xe2\x82\xac;");
}

TEST(store_urls_that_are_none) {
  for (const char* text : {"", "dir", "xx", "redis", "redis:h", "redis:/h", "http://h", "://h",
                           "s4://b", " redis://h", "redis ://h"}) {
    CHECK_CONTAINS(Parse(text), "expected /dir, file:///dir, redis://host");
  }
  const struct {
    const char* url;
    const char* why;
  } kWrong[] = {
      {"redis://", "names no host"},
      {"redis:///0", "names no host"},
      {"redis://h:0", "port"},
      {"redis://h:65536", "port"},
      {"redis://h:", "port"},
      {"redis://h:1x", "port"},
      {"redis://h:-1", "port"},
      {"redis://::1", "brackets"},
      {"redis://[::1", "IPv6"},
      {"redis://[]", "IPv6"},
      {"redis://[h]", "IPv6"},
      {"redis://[::1]x", "after ]"},
      {"redis://a,b", "redis+cluster"},
      {"redis+cluster://a,,b", "names no host"},
      {"redis+cluster://a,", "names no host"},
      {"redis://h%00", "letters"},
      {"redis://h h", "letters"},
      {"redis://@h", "user before @ is empty"},
      {"redis://u%zz@h", "%XX"},
      {"redis://h/%00", "control"},
      {"redis://h/%0a", "control"},
      {"redis://h/%ff", "UTF-8"},
      {"redis://h?", "name=value"},
      {"redis://h?a", "name=value"},
      {"redis://h?=1", "name=value"},
      {"redis://h?a=1&", "name=value"},
      {"redis://h?a=1&&b=2", "name=value"},
      {"redis://h?A=1", "name=value"},
      {"redis://h?a=1&a=2", "a comes twice"},
      {"redis://h?a=%", "the parameter a"},
      {"redis://h?password=x", "--store-secret-file"},
      {"redis://h#x", "%23"},
      {"redis+unix://", "absolute path"},
      {"redis+unix:///", "absolute path"},
      {"redis+unix://host/x", "absolute path"},
      {"file://", "absolute path"},
      {"file://host/x", "absolute path"},
      {"file:///x?a=1", "no parameters"},
      {"file://me@/x", "no user"},
      {"s3://", "names no host"},
      {"s3://me@b", "no user"},
      {"s3://b:1", "no port"},
      {"s3://a,b", "redis+cluster"},
  };
  for (const auto& [url, why] : kWrong) CHECK_CONTAINS(Parse(url), why);
  CHECK_CONTAINS(Parse(std::string("/d\0x", 4)), "zero byte");
  CHECK_CONTAINS(Parse("redis://" + std::string(300, 'h')), "too long");
  CHECK_CONTAINS(Parse("redis://h/" + std::string(9000, 'x')), "longer than");
  std::string many = "redis+cluster://h";
  for (int i = 0; i < 64; i++) many += ",h";
  CHECK_CONTAINS(Parse(many), "at most 64 hosts");
}

TEST(a_password_in_a_store_url_is_refused_and_not_repeated) {
  for (const char* url :
       {"redis://u:hush@h", "redis://:hush@h:1/0", "redis://u:hu/hush@h", "redis://u:hu?hush@h/1",
        "redis://u:hush@x@h", "redis://u:hush#x@h", "s3://k:hush@b", "redis+unix://:hush@/x",
        "redis+cluster://u:hush@a,b", "rediss://u:hush@h", "valkey://u:hush\n@h",
        "redis://h?password=hush", "redis://u:hush", "redis://u:/?hush@h", "redis://u:%hush@h"}) {
    const std::string why = Parse(url);
    CHECK_STARTS(why, "store URL: ");
    CHECK(why.find("hush") == std::string::npos);
  }
}

// Whatever it is, it is a URL or an error, and what is accepted is what was written.
TEST(store_urls_of_random_text) {
  constexpr std::string_view kPieces[] = {"redis", "s3", "file", "://", "/",  "//", "@", ":",  "?",
                                          "&",     "=",  "%",    "%41", "%0", "[",  "]", "::", ",",
                                          "h",     "1",  "\xff", "\0x", " ",  "#",  ".", "a=b"};
  uint32_t seed = 1;
  size_t accepted = 0;
  for (int round = 0; round < 200000; round++) {
    std::string text = round % 2 == 0 ? "redis://" : "";
    for (int i = 0; i < 8; i++) {
      seed = seed * 1664525 + 1013904223;
      text += kPieces[(seed >> 16) % std::size(kPieces)];
    }
    StoreUrl url;
    const Status status = ParseStoreUrl(text, &url);
    if (!status.ok()) {
      CHECK_EQ(status.number(), EINVAL);
      continue;
    }
    accepted++;
    CHECK(url.directory() || !url.hosts.empty() || url.scheme == "redis+unix");
    CHECK(url.user.find('\0') == std::string::npos && url.path.find('\0') == std::string::npos);
    CHECK(!url.directory() || !url.path.empty());
  }
  CHECK(accepted > 100);
}

TEST(what_a_store_logs_in_with_comes_from_a_file) {
  StoreSecrets secrets;
  CHECK_OK(lmshm::ParseStoreSecrets("redis", "pass word:@/\n", "f", &secrets));
  CHECK_EQ(secrets.password, "pass word:@/");
  CHECK(secrets.user.empty());
  CHECK_OK(lmshm::ParseStoreSecrets("s3",
                                    "# comment\n[other]\naws_access_key_id=no\n[default]\r\n"
                                    "aws_access_key_id = AK\r\naws_secret_access_key=s/+=\n"
                                    "aws_session_token = t\nregion = x\n[last]\n"
                                    "aws_access_key_id = no",
                                    "f", &secrets));
  CHECK_EQ(secrets.user, "AK");
  CHECK_EQ(secrets.password, "s/+=");
  CHECK_EQ(secrets.session_token, "t");
  CHECK_OK(lmshm::ParseStoreSecrets("s3", "aws_access_key_id=a\naws_secret_access_key=b", "f",
                                    &secrets));
  CHECK_EQ(secrets.session_token, "");
  for (const char* content : {"", "\n", "two\nhush", "hush\x01"}) {
    const Status status = lmshm::ParseStoreSecrets("redis", content, "f", &secrets);
    CHECK_EQ(status.number(), EINVAL);
    CHECK_STARTS(status.text(), "f: ");
    CHECK(status.text().find("hush") == std::string::npos);
  }
  for (const char* content : {"", "hush", "aws_access_key_id = hush",
                              "[other]\naws_access_key_id=a\naws_secret_access_key=hush"}) {
    const Status status = lmshm::ParseStoreSecrets("s3", content, "f", &secrets);
    CHECK_EQ(status.number(), EINVAL);
    CHECK_CONTAINS(status.text(), "~/.aws/credentials");
    CHECK(status.text().find("hush") == std::string::npos);
  }
}

TEST(a_file_goes_before_the_environment_which_is_wiped) {
  TempDir dir;
  WriteFile(dir / "secret", "from the file\n");
  chmod((dir / "secret").c_str(), 0600);
  setenv("LMSHM_STORE_SECRET", "from the environment", 1);
  setenv("AWS_ACCESS_KEY_ID", "AK", 1);
  setenv("AWS_SECRET_ACCESS_KEY", "SK", 1);
  setenv("AWS_SESSION_TOKEN", "ST", 1);
  const char* const there = getenv("LMSHM_STORE_SECRET");
  const lmshm::StoreEnvironment taken = lmshm::TakeStoreEnvironment();
  CHECK_EQ(std::string(there), "");
  for (const char* name :
       {"LMSHM_STORE_SECRET", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}) {
    CHECK(getenv(name) == nullptr);
  }
  StoreSecrets secrets;
  lmshm::StoreEnvironment environment = taken;
  CHECK_OK(lmshm::FindStoreSecrets(Url("redis://me@h"), dir / "secret", &environment, &secrets));
  CHECK_EQ(secrets.password, "from the file");
  CHECK(environment.secret.empty() && environment.secret_access_key.empty());
  environment = taken;
  CHECK_OK(lmshm::FindStoreSecrets(Url("redis://h"), "", &environment, &secrets));
  CHECK_EQ(secrets.password, "from the environment");
  secrets = StoreSecrets();
  environment = taken;
  CHECK_OK(lmshm::FindStoreSecrets(Url("s3://bucket"), "", &environment, &secrets));
  CHECK_EQ(secrets.user + secrets.password + secrets.session_token, "AKSKST");

  environment = taken;
  environment.access_key_id.clear();
  CHECK_EQ(lmshm::FindStoreSecrets(Url("s3://bucket"), "", &environment, &secrets).number(),
           EINVAL);
  environment = lmshm::StoreEnvironment();
  secrets = StoreSecrets();
  CHECK_OK(lmshm::FindStoreSecrets(Url("redis://h"), "", &environment, &secrets));
  CHECK_OK(lmshm::FindStoreSecrets(Url("s3://bucket"), "", &environment, &secrets));
  CHECK_EQ(lmshm::FindStoreSecrets(Url("redis://me@h"), "", &environment, &secrets).number(),
           EINVAL);
  chmod((dir / "secret").c_str(), 0640);
  CHECK_EQ(
      lmshm::FindStoreSecrets(Url("redis://h"), dir / "secret", &environment, &secrets).number(),
      EACCES);
  CHECK_EQ(lmshm::FindStoreSecrets(Url("redis://h"), dir / "none", &environment, &secrets).number(),
           ENOENT);
}

TEST(tls_is_refused_with_the_way_around_it) {
  lmshm::MadeStore made;
  const Status status =
      lmshm::MakeStore(Url("rediss://h"), StoreSecrets(), lmshm::StoreLimits(), nullptr, &made);
  CHECK_EQ(status.number(), ENOTSUP);
  CHECK_CONTAINS(status.text(), "tunnel");
}

CHECK_MAIN
