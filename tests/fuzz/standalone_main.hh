// SPDX-License-Identifier: Apache-2.0
//
// A main() for fuzz targets without libFuzzer: runs the target on every file that is given, and on
// every file in a directory that is given. Built with -DLMSHM_FUZZ_STANDALONE, a target and its
// corpus are an ordinary regression test.
#ifndef LMSHM_TESTS_FUZZ_STANDALONE_MAIN_H_
#define LMSHM_TESTS_FUZZ_STANDALONE_MAIN_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

inline int RunFile(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  return 1;
}

int main(int argc, char** argv) {
  int count = 0;
  for (int i = 1; i < argc; i++) {
    if (!std::filesystem::is_directory(argv[i])) {
      count += RunFile(argv[i]);
      continue;
    }
    for (const auto& entry : std::filesystem::recursive_directory_iterator(argv[i])) {
      if (entry.is_regular_file()) count += RunFile(entry.path());
    }
  }
  std::cout << (count > 0 ? "ok " : "not ok ") << count << " inputs" << std::endl;
  return count > 0 ? 0 : 1;
}

#endif  // LMSHM_TESTS_FUZZ_STANDALONE_MAIN_H_
