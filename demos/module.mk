# SPDX-License-Identifier: MIT
demos_SRCS := $(wildcard demos/*.c demos/*.cc)
