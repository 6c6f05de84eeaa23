# SPDX-License-Identifier: MIT
bench_SRCS := $(wildcard bench/*.c bench/*.cc)
