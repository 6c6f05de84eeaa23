# SPDX-License-Identifier: MIT
# Uses libc; what the libraries take of it must not need libstdc++.
os_SRCS := $(call layer_sources,os)
os_KIND := hosted
