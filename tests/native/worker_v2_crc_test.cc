// SPDX-License-Identifier: Apache-2.0
//
// CRC-32C, and computing it over memory that goes away.
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "worker/base/crc32c.h"
#include "worker/memory/shared_bytes.h"
#include "worker/storage/bounce_buffer.h"
#include "worker/storage/file_io.h"
#include "worker_fixture.hh"

using lmshm::Crc32c;
using lmshm::Crc32cByInstruction;
using lmshm::Crc32cPortable;
using lmshm::SharedBytes;

namespace {

std::string Noise(size_t size) {
  std::string data(size, '\0');
  uint64_t state = 88172645463325252u;
  for (char& c : data) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    c = static_cast<char>(state);
  }
  return data;
}

uint32_t BitByBit(const std::string& data) {
  uint32_t crc = ~uint32_t{0};
  for (const char c : data) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78u : 0);
  }
  return ~crc;
}

void CheckAll(const std::string& data, uint32_t expected) {
  CHECK_EQ(Crc32c(0, data.data(), data.size()), expected);
  CHECK_EQ(Crc32cByInstruction(0, data.data(), data.size()), expected);
  CHECK_EQ(Crc32cPortable(0, data.data(), data.size()), expected);
}

}  // namespace

// RFC 3720, B.4, and the customary check value.
TEST(crc32c_vectors) {
  CheckAll(std::string(32, '\0'), 0x8a9136aau);
  CheckAll(std::string(32, '\xff'), 0x62a8ab43u);
  std::string up, down;
  for (int i = 0; i < 32; i++) {
    up.push_back(static_cast<char>(i));
    down.push_back(static_cast<char>(31 - i));
  }
  CheckAll(up, 0x46dd794eu);
  CheckAll(down, 0x113fdb5cu);
  const unsigned char command[48] = {0x01, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,    0, 0, 0, 0,
                                     0x14, 0,    0, 0, 0, 0, 4, 0, 0, 0, 0, 0x14, 0, 0, 0, 0x18,
                                     0x28, 0,    0, 0, 0, 0, 0, 0, 2, 0, 0, 0,    0, 0, 0, 0};
  CheckAll(std::string(reinterpret_cast<const char*>(command), sizeof command), 0xd9963a56u);
  CheckAll("123456789", 0xe3069283u);
  CheckAll("", 0);
}

TEST(every_length_and_alignment_agrees_with_the_definition) {
  const std::string data = Noise(3 * 8192 + 3 * 256 + 64);
  for (size_t size = 0; size < 900; size++) {
    CheckAll(data.substr(size % 9, size), BitByBit(data.substr(size % 9, size)));
  }
  for (size_t size = 3 * 8192 - 9; size < 3 * 8192 + 9; size++) {
    CheckAll(data.substr(3, size), BitByBit(data.substr(3, size)));
  }
  CheckAll(data, BitByBit(data));
}

// Long data is taken in blocks of eight pages, what is left of it in rows, lines and bytes.
TEST(long_data_agree_whatever_their_length) {
  constexpr size_t kBlock = 32768;
  const std::string data = Noise(3 * kBlock + 1000);
  for (const size_t blocks : {size_t{1}, size_t{2}, size_t{3}}) {
    for (const size_t more : {0, 1, 63, 64, 65, 192, 255, 256, 257, 511, 512, 777}) {
      for (const size_t less : {size_t{0}, size_t{1}, size_t{300}}) {
        const size_t size = blocks * kBlock + more - less;
        CHECK_EQ(Crc32c(7, data.data() + less, size), Crc32cPortable(7, data.data() + less, size));
      }
    }
  }
}

TEST(a_copy_is_exact_and_has_the_checksum_of_the_same_bytes) {
  constexpr size_t kMargin = 100;
  const std::string data = Noise(70000);
  const auto check = [&](size_t from, size_t to, size_t size) {
    std::string target(size + 2 * kMargin, '~');
    char* const place = target.data() + kMargin + to;
    CHECK_EQ(lmshm::Crc32cCopy(9, place, data.data() + from, size),
             Crc32cPortable(9, data.data() + from, size));
    std::string expected(size + 2 * kMargin, '~');
    expected.replace(kMargin + to, size, data, from, size);
    CHECK(target == expected);
  };
  for (size_t size = 0; size < 700; size++) check(size % 7, size % 65, size);
  for (size_t to = 0; to < 65; to++) check(to % 3, to, 65536 + 300);
  for (const size_t size : {32767, 32768, 32769, 33023, 33024, 65536, 69990}) check(3, 5, size);
}

TEST(a_checksum_can_be_continued) {
  const std::string data = Noise(100000);
  const uint32_t whole = Crc32cPortable(0, data.data(), data.size());
  for (const size_t cut : {size_t{0}, size_t{1}, size_t{4095}, size_t{24576}, size_t{100000}}) {
    uint32_t crc = Crc32c(0, data.data(), cut);
    crc = Crc32c(crc, data.data() + cut, data.size() - cut);
    CHECK_EQ(crc, whole);
  }
}

TEST(checksums_as_text) {
  CHECK_EQ(lmshm::Crc32cHex(0x0a1b2c3du), "0a1b2c3d");
  uint32_t crc = 7;
  CHECK(lmshm::ParseCrc32cHex("ffffffff", &crc));
  CHECK_EQ(crc, 0xffffffffu);
  for (const char* bad : {"", "0", "0a1b2c3", "0a1b2c3d4", "0A1B2C3D", "0x1b2c3d", "0a1b2c3 "}) {
    CHECK(!lmshm::ParseCrc32cHex(bad, &crc));
  }
  CHECK_EQ(crc, 0xffffffffu);
}

TEST(a_segment_that_is_cut_is_an_error_and_not_a_signal) {
  TestSegment segment(1 << 20);
  segment.FillPattern(1);
  const SharedBytes bytes = {segment.data(), segment.size()};
  uint32_t whole = 0;
  REQUIRE_EQ(lmshm::SharedCrc32c(bytes, &whole), 0);
  CHECK_EQ(whole, Crc32cPortable(0, segment.data(), segment.size()));
  for (int round = 0; round < 3; round++) {
    REQUIRE_EQ(ftruncate(segment.fd(), 100000), 0);
    uint32_t crc = 12345;
    CHECK_EQ(lmshm::SharedCrc32c(bytes, &crc), EFAULT);
    CHECK_EQ(crc, 12345u);
    crc = 0;
    CHECK_EQ(lmshm::SharedCrc32c({segment.data(), 100000}, &crc), 0);
    CHECK_EQ(crc, Crc32cPortable(0, segment.data(), 100000));
    REQUIRE_EQ(ftruncate(segment.fd(), 1 << 20), 0);
  }
}

TEST(so_is_copying_into_it) {
  TestSegment segment(1 << 20);
  const std::string data = Noise(1 << 20);
  const SharedBytes bytes = {segment.data(), segment.size()};
  const uint32_t expected = Crc32cPortable(0, data.data(), data.size());
  for (int round = 0; round < 3; round++) {
    uint32_t crc = 0;
    REQUIRE_EQ(lmshm::SharedCopyCrc32c(data.data(), bytes, &crc), 0);
    CHECK_EQ(crc, expected);
    CHECK(segment.Bytes(0, data.size()) == data);
    REQUIRE_EQ(ftruncate(segment.fd(), 100000), 0);
    crc = 12345;
    CHECK_EQ(lmshm::SharedCopyCrc32c(data.data(), bytes, &crc), EFAULT);
    CHECK_EQ(crc, 12345u);
    REQUIRE_EQ(ftruncate(segment.fd(), 1 << 20), 0);
  }
}

TEST(threads_are_guarded_each_for_itself) {
  TestSegment cut(1 << 20), whole(1 << 20);
  whole.FillPattern(5);
  const uint32_t expected = Crc32cPortable(0, whole.data(), whole.size());
  REQUIRE_EQ(ftruncate(cut.fd(), 4096), 0);
  int wrong[4] = {};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; i++) {
        uint32_t crc = 0;
        if (t % 2 == 0) {
          wrong[t] += lmshm::SharedCrc32c({cut.data(), cut.size()}, &crc) != EFAULT;
        } else {
          wrong[t] += lmshm::SharedCrc32c({whole.data(), whole.size()}, &crc) != 0;
          wrong[t] += crc != expected;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const int count : wrong) CHECK_EQ(count, 0);
}

// Outside of the guarded range SIGBUS must go on killing.
TEST(any_other_bus_error_still_kills) {
  TestSegment segment(1 << 20);
  for (const bool sent : {false, true}) {
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      signal(SIGBUS, SIG_DFL);  // a sanitizer's handler would print and exit
      uint32_t crc = 0;
      if (lmshm::SharedCrc32c({segment.data(), segment.size()}, &crc) != 0) _exit(1);
      if (sent) {
        kill(getpid(), SIGBUS);
      } else {
        if (ftruncate(segment.fd(), 0) != 0) _exit(2);
        *static_cast<volatile char*>(segment.data()) = 1;
      }
      _exit(3);
    }
    int status = 0;
    REQUIRE_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
  }
}

TEST(checksums_of_parts_are_joined) {
  const std::string data = Noise(300000);
  const uint32_t whole = Crc32cPortable(0, data.data(), data.size());
  uint64_t state = 1;
  for (int round = 0; round < 200; round++) {
    uint32_t joined = 0;
    for (size_t at = 0; at < data.size();) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      // Of every order of magnitude, 0 included.
      const size_t limit = size_t{1} << ((state >> 40) % 19);
      const size_t size = std::min<size_t>((state >> 20) % limit, data.size() - at);
      joined = lmshm::Crc32cCombine(joined, Crc32c(0, data.data() + at, size), size);
      at += size;
    }
    CHECK_EQ(joined, whole);
  }
  // Zeros behind it, as many as no memory holds: appending them in one step or in many is the same.
  uint32_t steps = 0x12345678;
  const uint64_t size = (uint64_t{1} << 40) + 4097;
  for (int i = 0; i < 16; i++) steps = lmshm::Crc32cCombine(steps, 0, size);
  CHECK_EQ(steps, lmshm::Crc32cCombine(0x12345678, 0, 16 * size));
}

TEST(checked_transfers_move_and_sum) {
  const TempDir dir;
  TestSegment segment(3 << 20);
  segment.FillPattern(9);
  const size_t size = (2 << 20) + 777;
  const std::string before = segment.Bytes(5, size);
  const uint32_t expected = Crc32cPortable(0, before.data(), before.size());
  const int fd = open((dir / "f").c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  REQUIRE(fd >= 0);
  lmshm::RangeIo range;
  range.data = {segment.data() + 5, size};
  uint32_t crc = 0;
  CHECK_EQ(lmshm::WriteRange(fd, range, &crc), 0);
  CHECK_EQ(crc, expected);
  CHECK(ReadFile(dir / "f") == before);
  uint64_t done = 0;
  range.data = {segment.data() + 1, (3 << 20) - 1};
  for (const bool bounce : {false, true}) {
    segment.FillPattern(10);
    crc = 0;
    range.bounce = bounce;
    CHECK_EQ(lmshm::ReadRange(fd, range, &done, &crc), 0);
    CHECK_EQ(done, size);
    CHECK_EQ(crc, expected);
    CHECK(segment.Bytes(1, size) == before);
  }
  // A range of it, without a checksum.
  segment.FillPattern(11);
  range.data = {segment.data(), 1000};
  range.offset = 4097;
  CHECK_EQ(lmshm::ReadRange(fd, range, &done, nullptr), 0);
  CHECK_EQ(done, 1000u);
  CHECK(segment.Bytes(0, 1000) == before.substr(4097, 1000));
  REQUIRE_EQ(ftruncate(segment.fd(), 1 << 20), 0);
  range.offset = 0;
  range.data.size = 3 << 20;
  for (uint32_t* const sum : {&crc, static_cast<uint32_t*>(nullptr)}) {
    for (const bool bounce : {false, true}) {
      range.bounce = bounce;
      CHECK_EQ(lmshm::ReadRange(fd, range, &done, sum), EFAULT);
      CHECK(done <= size_t{1} << 20);
    }
    CHECK_EQ(lmshm::WriteRange(fd, range, sum), EFAULT);
  }
  close(fd);
}

TEST(bounce_buffers_are_few_and_used_again) {
  void* last = nullptr;
  for (int i = 0; i < 3; i++) {
    const lmshm::BounceBuffer one(true);
    const lmshm::BounceBuffer none(false);
    REQUIRE(one.get() != nullptr);
    CHECK(none.get() == nullptr);
    CHECK(last == nullptr || last == one.get());
    last = one.get();
  }
  std::vector<std::unique_ptr<lmshm::BounceBuffer>> all;
  std::set<void*> places;
  for (size_t i = 0; i < lmshm::BounceBuffer::kMost; i++) {
    all.push_back(std::make_unique<lmshm::BounceBuffer>(true));
    CHECK(all.back()->get() != nullptr && places.insert(all.back()->get()).second);
  }
  const lmshm::BounceBuffer too_many(true);
  CHECK(too_many.get() == nullptr);
  all.pop_back();
  CHECK(lmshm::BounceBuffer(true).get() != nullptr);
}

// Not a test of speed: it says what this machine does.
TEST(crc32c_speed_is_reported) {
  const std::string data = Noise(16 << 20);
  const auto measure = [&](uint32_t (*function)(uint32_t, const void*, size_t)) {
    double best = 1e9;
    for (int i = 0; i < 5; i++) {
      const auto start = std::chrono::steady_clock::now();
      CHECK(function(0, data.data(), data.size()) != 0);
      const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
      best = std::min(best, time.count());
    }
    return static_cast<double>(data.size()) / best / 1e6;
  };
  std::cout << "# crc32c, MB/s: " << lmshm::Crc32cMethod() << " " << measure(Crc32c)
            << ", by instruction " << measure(Crc32cByInstruction) << ", portable "
            << measure(Crc32cPortable) << std::endl;
}

CHECK_MAIN
