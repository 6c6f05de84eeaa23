# SPDX-License-Identifier: MIT
# tests/unit: one program, build/tests/unit_tests (Criterion).
unit_SRCS := $(wildcard tests/unit/*.cc tests/unit/*/*.cc tests/unit/*/*/*.cc)
# tests/system/programs: one file, one program; lib_* is linked with libcheckpoint_restore.
system_SRCS := $(wildcard tests/system/programs/*.c tests/system/programs/*.cc)
# tests/crash: one file, one program, linked with the agent's layers and tests/crash/common.
crash_SRCS := $(wildcard tests/crash/*.cc)
crash_COMMON_SRCS := $(wildcard tests/crash/common/*.cc)
# tests/fuzz: one file, one target.
fuzz_SRCS := $(wildcard tests/fuzz/*.cc)
