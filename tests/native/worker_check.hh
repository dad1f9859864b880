// SPDX-License-Identifier: Apache-2.0
//
// The smallest thing that can be called a test framework. A test program defines tests with
// TEST(name) { ... } and ends with CHECK_MAIN. It prints "ok NAME", "not ok NAME" or "skip NAME",
// and its exit status is 0, 1, or 77 when every test was skipped. A name as argument runs that
// test alone. A test that takes kWatchdogSeconds is killed, and the program with it: none hangs.
#ifndef LMSHM_TESTS_NATIVE_CHECK_H_
#define LMSHM_TESTS_NATIVE_CHECK_H_

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

namespace check {

inline constexpr unsigned kWatchdogSeconds = 110;

struct Abort {};  // thrown by REQUIRE
struct Skip {
  std::string reason;
};  // thrown by SKIP

struct Test {
  const char* name;
  void (*run)();
};

// Whether what could go on for ever takes its long form, as tests/support/effort.ts says.
inline bool LongForm() {
  const char* const text = getenv("LMSHM_LONG_TESTS");
  return text != nullptr && std::string(text) == "true";
}

inline std::vector<Test>& Tests() {
  static std::vector<Test> tests;
  return tests;
}

inline int& Failures() {
  static int failures = 0;
  return failures;
}

struct Registration {
  Registration(const char* name, void (*run)()) { Tests().push_back({name, run}); }
};

// Megabytes of an object are of no use to a reader.
inline std::string Shortened(const std::string& text) {
  constexpr size_t kMost = 4000;
  if (text.size() <= kMost) return text;
  const std::string left = std::to_string(text.size() - kMost);
  return text.substr(0, kMost / 2) + " ... " + left + " bytes ... " +
         text.substr(text.size() - kMost / 2);
}

inline void Fail(const char* file, int line, const std::string& what) {
  Failures()++;
  std::cout << "# " << file << ":" << line << ": " << Shortened(what) << std::endl;
}

template <typename A, typename B>
bool Equal(const A& a, const B& b, const char* text, const char* file, int line) {
  if (a == b) return true;
  std::ostringstream what;
  what << text << "\n#   left:  " << a << "\n#   right: " << b;
  Fail(file, line, what.str());
  return false;
}

inline bool StartsWith(const std::string& text, const std::string& start) {
  return text.compare(0, start.size(), start) == 0;
}

inline bool Starts(const std::string& text, const std::string& start, const char* file, int line) {
  if (StartsWith(text, start)) return true;
  Fail(file, line, "\"" + text + "\" does not start with \"" + start + "\"");
  return false;
}

inline bool Contains(const std::string& text, const std::string& part, const char* file, int line) {
  if (text.find(part) != std::string::npos) return true;
  Fail(file, line, "\"" + text + "\" does not contain \"" + part + "\"");
  return false;
}

inline int RunAll(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  int failed = 0, passed = 0, skipped = 0;
  for (const Test& test : Tests()) {
    if (argc > 1 && argv[1][0] != '/' && std::string(argv[1]) != test.name) continue;
    Failures() = 0;
    alarm(kWatchdogSeconds);
    std::string skip;
    try {
      test.run();
    } catch (const Abort&) {
    } catch (const Skip& reason) {
      skip = reason.reason;
    }
    if (Failures() > 0) {
      failed++;
      std::cout << "not ok " << test.name << std::endl;
    } else if (!skip.empty()) {
      skipped++;
      std::cout << "skip " << test.name << ": " << skip << std::endl;
    } else {
      passed++;
      std::cout << "ok " << test.name << std::endl;
    }
  }
  if (failed > 0) return 1;
  if (passed == 0 && skipped == 0) {
    std::cout << "no such test" << std::endl;
    return 1;
  }
  return passed == 0 ? 77 : 0;
}

}  // namespace check

#define TEST(name)                                                          \
  static void Test_##name();                                                \
  static const check::Registration registration_##name(#name, Test_##name); \
  static void Test_##name()

#define CHECK_MAIN \
  int main(int argc, char** argv) { return check::RunAll(argc, argv); }

#define CHECK(condition) \
  ((condition) ? (void)0 : check::Fail(__FILE__, __LINE__, "failed: " #condition))
#define CHECK_EQ(a, b) (void)check::Equal(a, b, #a " == " #b, __FILE__, __LINE__)
#define CHECK_STARTS(text, start) (void)check::Starts(text, start, __FILE__, __LINE__)
#define CHECK_CONTAINS(text, part) (void)check::Contains(text, part, __FILE__, __LINE__)
#define CHECK_OK(expression)                                    \
  do {                                                          \
    const auto check_status = (expression);                     \
    if (!check_status.ok()) {                                   \
      check::Fail(__FILE__, __LINE__, check_status.ToString()); \
    }                                                           \
  } while (0)
// These end the test.
#define REQUIRE(condition)                                    \
  do {                                                        \
    if (!(condition)) {                                       \
      check::Fail(__FILE__, __LINE__, "failed: " #condition); \
      throw check::Abort();                                   \
    }                                                         \
  } while (0)
#define REQUIRE_EQ(a, b)                                                             \
  do {                                                                               \
    if (!check::Equal(a, b, #a " == " #b, __FILE__, __LINE__)) throw check::Abort(); \
  } while (0)
#define SKIP(why) \
  throw check::Skip { why }

#endif  // LMSHM_TESTS_NATIVE_CHECK_H_
