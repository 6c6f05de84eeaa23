# SPDX-License-Identifier: MIT
# System calls without libc.
rawsys_SRCS := $(call layer_sources,rawsys)
rawsys_KIND := freestanding
