// SPDX-License-Identifier: Apache-2.0
//
// Golden files: lines of columns with a tab between, "#" begins a comment. tests/*_golden_test.ts
// read the same ones.
#ifndef LMSHM_TESTS_NATIVE_GOLDEN_H_
#define LMSHM_TESTS_NATIVE_GOLDEN_H_

#include <fstream>
#include <string>
#include <vector>

#include "worker_check.hh"

inline std::vector<std::vector<std::string>> ReadGolden(const std::string& name,
                                                        size_t least_rows = 20) {
  std::ifstream in(std::string(LMSHM_GOLDEN_DIR) + "/" + name, std::ios::binary);
  REQUIRE(in.good());
  std::vector<std::vector<std::string>> rows;
  for (std::string line; std::getline(in, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::vector<std::string> columns(1);
    for (const char c : line) {
      if (c == '\t') {
        columns.emplace_back();
      } else {
        columns.back().push_back(c);
      }
    }
    rows.push_back(columns);
  }
  REQUIRE(rows.size() >= least_rows);
  return rows;
}

#endif  // LMSHM_TESTS_NATIVE_GOLDEN_H_
