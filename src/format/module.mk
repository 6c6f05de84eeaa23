# SPDX-License-Identifier: MIT
# Every durable byte: no libc.
format_SRCS := $(call layer_sources,format)
format_KIND := freestanding
