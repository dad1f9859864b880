// SPDX-License-Identifier: Apache-2.0
//
// The command line, and the rules of trust in it.
#include <cerrno>

#include "worker/process/options.h"
#include "worker_check.hh"

using lmshm::Environment;
using lmshm::ListenAddress;
using lmshm::Options;

namespace {

Options g_options;

// "" if accepted, else the text.
std::string Parse(const std::vector<std::string>& arguments, const Environment& environment = {}) {
  g_options = Options();
  const lmshm::Status status = lmshm::ParseOptions(arguments, environment, &g_options);
  return status.ok() ? "" : status.text();
}

Environment WithSecret() {
  Environment environment;
  environment.secret = "correct-horse-battery";
  return environment;
}

}  // namespace

TEST(nothing_given_is_pipe_mode) {
  CHECK_EQ(Parse({}), "");
  CHECK(g_options.listen.empty());
  CHECK(g_options.root.empty());
  CHECK(g_options.sandbox);
  CHECK(!g_options.max_clients.has_value());
  CHECK(!g_options.keep_open.has_value());
  CHECK_EQ(g_options.nice, 0u);
  CHECK(g_options.log_level == lmshm::LogLevel::kWarn);
}

TEST(values_with_and_without_an_equals_sign) {
  CHECK_EQ(Parse({"--root", "/a=b", "--max-clients=7", "--idle-timeout", "9", "--segment-fd=3",
                  "--segment-fd", "12", "--no-sandbox", "--log-level=debug", "--io-threads=11",
                  "--max-bytes-in-flight", "4096", "--keep-open=0", "--nice", "19"}),
           "");
  CHECK_EQ(g_options.keep_open.value_or(1), 0u);
  CHECK_EQ(g_options.nice, 19u);
  CHECK_EQ(g_options.io_threads, 11u);
  CHECK_EQ(g_options.max_bytes_in_flight, 4096u);
  CHECK_EQ(g_options.root, "/a=b");
  CHECK_EQ(g_options.max_clients.value_or(0), 7u);
  CHECK_EQ(g_options.idle_timeout_s, 9u);
  REQUIRE_EQ(g_options.segment_fds.size(), 2u);
  CHECK_EQ(g_options.segment_fds[0] + g_options.segment_fds[1], 15);
  CHECK(!g_options.sandbox);
  CHECK_EQ(Parse({"--root=/a=b"}), "");
  CHECK_EQ(g_options.root, "/a=b");
  CHECK(g_options.io == lmshm::IoMode::kAuto);
  CHECK(g_options.durability == lmshm::Durability::kNone);
  CHECK_EQ(Parse({"--io=direct", "--sync", "full"}), "");
  CHECK(g_options.io == lmshm::IoMode::kDirect);
  CHECK(g_options.durability == lmshm::Durability::kFull);
}

TEST(what_is_wrong_is_named) {
  CHECK_CONTAINS(Parse({"--rot", "x"}), "unknown option --rot; did you mean --root?");
  CHECK_CONTAINS(Parse({"--listn=x"}), "did you mean --listen?");
  CHECK_CONTAINS(Parse({"--max-byte-inflight=1"}), "did you mean --max-bytes-in-flight?");
  for (const char* far : {"--completely-different", "--foo", "--ab", "--bool"})
    CHECK(Parse({far}).find("mean") == std::string::npos);
  CHECK_CONTAINS(Parse({"somewhere"}), "unexpected argument \"somewhere\"");
  CHECK_CONTAINS(Parse({""}), "unexpected argument");
  CHECK_CONTAINS(Parse({"--root"}), "--root needs a value");
  CHECK_CONTAINS(Parse({"--root="}), "empty");
  CHECK_CONTAINS(Parse({"--no-auth=1"}), "takes no value");
  CHECK_CONTAINS(Parse({"--max-clients", "0"}), "from 1 to 4096");
  CHECK_CONTAINS(Parse({"--max-clients", "99999999999999999999"}), "from 1 to 4096");
  CHECK_CONTAINS(Parse({"--idle-timeout=-1"}), "from 0 to");
  CHECK_CONTAINS(Parse({"--io", "fast"}), "--io fast: expected auto, direct or cached");
  CHECK_CONTAINS(Parse({"--sync="}), "expected none, data or full");
  CHECK_CONTAINS(Parse({"--io-threads=0"}), "from 1 to 256");
  CHECK_CONTAINS(Parse({"--max-bytes-in-flight=0"}), "from 1 to");
  CHECK_CONTAINS(Parse({"--root=/r", "--max-bytes=100"}), "from 4096 to");
  CHECK_CONTAINS(Parse({"--root=/r", "--max-bytes=1G"}), "or 0 for no limit");
  CHECK_CONTAINS(Parse({"--max-bytes=4096"}), "--max-bytes needs --root DIR");
  CHECK_EQ(Parse({"--root=/r", "--max-bytes", "4096"}), "");
  CHECK_EQ(g_options.max_bytes.value_or(1), 4096u);
  CHECK_EQ(Parse({"--root=/r", "--max-bytes", "0"}), "");
  CHECK_EQ(g_options.max_bytes.value_or(1), 0u);
  CHECK_CONTAINS(Parse({"--keep-open=many"}), "from 0 to");
  CHECK_CONTAINS(Parse({"--nice=20"}), "from 0 to 19");
  CHECK_CONTAINS(Parse({"--segment-fd=2"}), "from 3 to");
  CHECK_CONTAINS(Parse({"--log-level", "loud"}), "error, warn, info or debug");
  CHECK_CONTAINS(Parse({"--bad\noption"}), "--bad\\x0aoption");
  Environment environment;
  environment.log = "loud";
  CHECK_CONTAINS(Parse({}, environment), "LMSHM_LOG");
}

TEST(the_command_line_wins_over_the_environment) {
  Environment environment;
  environment.log = "debug";
  CHECK_EQ(Parse({}, environment), "");
  CHECK(g_options.log_level == lmshm::LogLevel::kDebug);
  CHECK_EQ(Parse({"--log-level=error"}, environment), "");
  CHECK(g_options.log_level == lmshm::LogLevel::kError);
}

TEST(help_and_version_win_over_what_follows) {
  for (const char* option : {"--help", "-h"}) {
    CHECK_EQ(Parse({option, "--nonsense"}), "");
    CHECK(g_options.action == Options::Action::kHelp);
  }
  for (const char* option : {"--version", "-V"}) {
    CHECK_EQ(Parse({option}), "");
    CHECK(g_options.action == Options::Action::kVersion);
  }
}

TEST(addresses) {
  ListenAddress a;
  CHECK_OK(lmshm::ParseListenAddress("127.0.0.1:9800", &a));
  CHECK(a.kind == ListenAddress::Kind::kIpv4 && a.loopback && a.port == 9800);
  CHECK_OK(lmshm::ParseListenAddress(":0", &a));
  CHECK(a.kind == ListenAddress::Kind::kIpv4 && a.loopback && a.port == 0);
  CHECK_OK(lmshm::ParseListenAddress("localhost:1", &a));
  CHECK(a.loopback);
  CHECK_OK(lmshm::ParseListenAddress("127.9.9.9:65535", &a));
  CHECK(a.loopback);
  for (const char* text : {"0.0.0.0:1", "10.0.0.1:1", "128.0.0.1:1", "[::]:1", "[2001:db8::1]:1",
                           "[::ffff:10.0.0.1]:1"}) {
    CHECK_OK(lmshm::ParseListenAddress(text, &a));
    CHECK(!a.loopback);
  }
  for (const char* text : {"[::1]:1", "[::ffff:127.0.0.1]:1"}) {
    CHECK_OK(lmshm::ParseListenAddress(text, &a));
    CHECK(a.kind == ListenAddress::Kind::kIpv6 && a.loopback);
  }
  CHECK_OK(lmshm::ParseListenAddress("/run/x.sock", &a));
  CHECK(a.kind == ListenAddress::Kind::kUnix);
  CHECK_OK(lmshm::ParseListenAddress("unix:x.sock", &a));
  CHECK_EQ(a.path, "x.sock");
  CHECK_OK(lmshm::ParseListenAddress("./x:1", &a));
  CHECK_EQ(a.path, "./x:1");
}

TEST(addresses_that_are_none) {
  ListenAddress a;
  for (const char* text : {"", "9800", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1",
                           "127.0.0.1:x", "example.org:1", "::1:9800", "[::1]", "[::1:9800",
                           "[localhost]:1", "unix:", "/dir/", "127.0.0.1:1 ", "1.2.3:1"}) {
    const lmshm::Status status = lmshm::ParseListenAddress(text, &a);
    CHECK_EQ(status.number(), EINVAL);
    CHECK_CONTAINS(status.text(), "expected HOST:PORT");
  }
  CHECK_EQ(lmshm::ParseListenAddress("/" + std::string(200, 'x'), &a).number(), ENAMETOOLONG);
}

TEST(listening_needs_a_root) {
  CHECK_CONTAINS(Parse({"--listen=/x.sock"}), "--root");
  CHECK_CONTAINS(Parse({"--listen=:0", "--no-auth"}), "--root");
  CHECK_EQ(Parse({"--listen=/x.sock", "--root=/"}), "");
}

TEST(tcp_needs_a_secret_or_no_auth_on_loopback) {
  CHECK_CONTAINS(Parse({"--listen=:0", "--root=/r"}), "needs a secret");
  CHECK_EQ(Parse({"--listen=:0", "--root=/r", "--no-auth"}), "");
  CHECK_EQ(Parse({"--listen=:0", "--root=/r", "--secret-file=/s"}), "");
  CHECK_EQ(Parse({"--listen=:0", "--root=/r"}, WithSecret()), "");
  CHECK_EQ(g_options.secret_text, "correct-horse-battery");
  CHECK_EQ(Parse({"--listen=0.0.0.0:0", "--root=/r"}, WithSecret()), "");
  CHECK_CONTAINS(Parse({"--listen=0.0.0.0:0", "--root=/r", "--no-auth"}), "loopback only");
  CHECK_CONTAINS(Parse({"--listen=0.0.0.0:0", "--root=/r", "--no-auth"}, WithSecret()),
                 "loopback only");
  CHECK_CONTAINS(Parse({"--listen=:0", "--listen=[::]:0", "--root=/r", "--no-auth"}),
                 "loopback only");
}

TEST(an_address_without_authentication_is_named_and_is_of_one_network) {
  CHECK_EQ(Parse({"--no-auth-on=172.17.0.1:9800", "--root=/r"}), "");
  REQUIRE_EQ(g_options.listen.size(), 1u);
  CHECK(g_options.listen[0].no_auth);
  CHECK(!g_options.listen[0].loopback);
  CHECK_EQ(Parse({"--no-auth-on", "[fd00::1]:9800", "--listen=:0", "--root=/r"}, WithSecret()), "");
  REQUIRE_EQ(g_options.listen.size(), 2u);
  CHECK(g_options.listen[0].no_auth);
  CHECK(!g_options.listen[1].no_auth);
  // It lets nobody in elsewhere.
  CHECK_CONTAINS(Parse({"--no-auth-on=172.17.0.1:1", "--listen=:0", "--root=/r"}),
                 "needs a secret");
  CHECK_CONTAINS(Parse({"--no-auth-on=172.17.0.1:1"}), "--root");
  for (const char* all : {"0.0.0.0:9800", "[::]:9800", "[::ffff:0.0.0.0]:9800"}) {
    CHECK_CONTAINS(Parse({std::string("--no-auth-on=") + all, "--root=/r"}),
                   "everybody on all networks");
  }
  CHECK_CONTAINS(Parse({"--no-auth-on=/x.sock", "--root=/r"}), "a Unix socket asks for the user");
  CHECK_STARTS(Parse({"--no-auth-on=there:1", "--root=/r"}), "--no-auth-on there:1: ");
  CHECK_CONTAINS(Parse({"--no-auth-on=172.17.0.1:1", "--root=/r", "--plain-auth"}),
                 "--plain-auth is for TCP");
}

TEST(file_modes_that_let_everybody_write_are_refused) {
  CHECK_EQ(Parse({}), "");
  CHECK_EQ(g_options.file_mode, 0600u);
  for (const auto& [text, mode] :
       {std::pair("0600", 0600u), std::pair("640", 0640u), std::pair("0644", 0644u),
        std::pair("00664", 0664u), std::pair("0660", 0660u), std::pair("0604", 0604u)}) {
    CHECK_EQ(Parse({"--file-mode", text}), "");
    CHECK_EQ(g_options.file_mode, mode);
  }
  for (const char* wrong :
       {"", "6", "64", "0666", "0646", "0602", "0700", "0611", "0400", "0200", "4644", "02640",
        "01644", "rw-r--r--", "0x1a4", "644 ", "-644", "0000000644"}) {
    CHECK_CONTAINS(Parse({"--file-mode", wrong}), "expected an octal mode");
  }
  CHECK_CONTAINS(Parse({"--group="}), "is empty");
  CHECK_EQ(Parse({"--group=kv"}), "");
  CHECK_EQ(g_options.group, "kv");
}

TEST(a_store_that_is_a_directory_is_a_root) {
  for (const char* url : {"/a/b c", "file:///a/b%20c"}) {
    CHECK_EQ(Parse({"--store", url, "--max-bytes", "1000000", "--io", "direct"}), "");
    CHECK_EQ(g_options.root, "/a/b c");
    CHECK(!g_options.store.has_value());
    CHECK_EQ(g_options.threads(), 4u);
    CHECK_CONTAINS(Parse({"--store", url, "--root", "/a"}), "exclude each other");
  }
}

TEST(a_store_of_another_kind_and_what_goes_with_it) {
  CHECK_EQ(Parse({"--store=redis://h:1/2"}), "");
  REQUIRE(g_options.store.has_value());
  CHECK_EQ(g_options.store->path, "2");
  CHECK_EQ(g_options.store_text, "redis://h:1/2");
  CHECK_EQ(g_options.threads(), 16u);
  CHECK_EQ(Parse({"--store=redis://h", "--io-threads=2", "--store-secret-file", "/f", "--listen",
                  "/socket", "--sync=none", "--io=auto"}),
           "");
  CHECK_EQ(g_options.threads(), 2u);
  CHECK_EQ(g_options.store_secret_file, "/f");
  for (const char* surplus : {"--max-bytes=0", "--keep-open=1", "--io=cached", "--sync=data"}) {
    CHECK_CONTAINS(Parse({"--store=s3://bucket", surplus}),
                   "is for directories, and --store s3://");
  }
  CHECK_CONTAINS(Parse({"--store=redis://h", "--root=/a"}), "exclude each other");
  CHECK_CONTAINS(Parse({"--store=redis://u:hush@h"}), "--store-secret-file");
  CHECK(Parse({"--store=redis://u:hush@h"}).find("hush") == std::string::npos);
  CHECK_CONTAINS(Parse({"--store-secret-file=/f"}), "no directory");
  CHECK_CONTAINS(Parse({"--root=/a", "--store-secret-file=/f"}), "no directory");
  CHECK_CONTAINS(Parse({"--store=/a", "--store-secret-file=/f"}), "no directory");
  CHECK_CONTAINS(Parse({"--listen=/socket"}), "--store URL");
}

TEST(options_that_would_have_no_effect) {
  CHECK_CONTAINS(Parse({"--no-auth"}), "is for TCP");
  CHECK_CONTAINS(Parse({"--plain-auth"}), "--plain-auth is for TCP");
  CHECK_CONTAINS(Parse({"--listen=:0", "--root=/r", "--no-auth", "--plain-auth"}), "exclude");
  CHECK_CONTAINS(Parse({"--listen=:0", "--root=/r", "--plain-auth"}), "needs a secret");
  CHECK(!g_options.plain_auth);
  CHECK_EQ(Parse({"--listen=:0", "--root=/r", "--plain-auth"}, WithSecret()), "");
  CHECK(g_options.plain_auth);
  CHECK_CONTAINS(Parse({"--secret-file=/s"}), "is for TCP");
  CHECK_CONTAINS(Parse({"--listen=/x.sock", "--root=/r", "--no-auth"}), "is for TCP");
  CHECK_CONTAINS(Parse({"--listen=:0", "--root=/r", "--no-auth", "--secret-file=/s"}), "exclude");
  CHECK_EQ(Parse({}, WithSecret()), "");  // the environment is inherited, and harmless
}

CHECK_MAIN
