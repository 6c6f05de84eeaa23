# SPDX-License-Identifier: MIT
# Uses libc, never libstdc++: it is loaded into every program.
api_SRCS := $(call layer_sources,api)
api_KIND := hosted
