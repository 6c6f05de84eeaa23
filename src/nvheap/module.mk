# SPDX-License-Identifier: MIT
# Uses libc, except in *_stopped.cc.
nvheap_SRCS := $(call layer_sources,nvheap)
nvheap_KIND := hosted
