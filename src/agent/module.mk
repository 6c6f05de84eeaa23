# SPDX-License-Identifier: MIT
# Outside the program: libc and libstdc++, no exceptions.
agent_SRCS := $(call layer_sources,agent)
agent_KIND := hosted
