# SPDX-License-Identifier: MIT
# crstored: the checkpoints of a node and its neighbours. Outside the program: libc, libstdc++, UCX,
# ISA-L, OpenSSL and zstd.
node_SRCS := $(call layer_sources,node)
node_KIND := hosted
node_PKGS := ucx libisal libcrypto libzstd
