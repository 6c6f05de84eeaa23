# SPDX-License-Identifier: MIT
# Outside the program: libc and libstdc++, no exceptions.
store_SRCS := $(call layer_sources,store)
store_KIND := hosted
