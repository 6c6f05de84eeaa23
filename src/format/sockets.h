// SPDX-License-Identifier: MIT
// sockets.h - what an image says of a socket: the content of a FileRecord of kind kFileSocket.
// Invariant: a socket is known by its inode number at the checkpoint, in whichever image it is
// described, and refers to others by theirs. The spec is docs/format/image.md.
// Context: N, H, S, R.
#pragma once

#include "format/image.h"

namespace cr::format {

enum SocketPhase : uint32_t {
  kSocketUnconnected = 1,
  kSocketListening = 2,
  kSocketConnected = 3,   // to the socket peer_ino
  kSocketWaiting = 4,     // for accept() of the listening socket peer_ino
  kSocketPeerGone = 5,    // its peer was closed
  kSocketReset = 6,       // its peer was outside, or it was reset
  kSocketConnecting = 7,  // to the outside, without waiting
  kSocketAddressed = 8,   // datagrams: to the address `remote`, whoever has it
};

inline constexpr uint32_t kSocketPathGone = 1;    // what it is bound to has been removed
inline constexpr uint32_t kSocketPeerEnded = 2;   // kSocketReset: the end of the stream had come
inline constexpr uint32_t kSocketErrorSeen = 4;   // kSocketReset: no error is to be reported
inline constexpr uint32_t kSocketPeerFailed = 8;  // kSocketPeerGone: with unread data, ECONNRESET
inline constexpr uint32_t kSocketShutRead = 1;
inline constexpr uint32_t kSocketShutWrite = 2;

struct SocketState {
  uint32_t family, type, protocol;
  uint32_t phase;     // SocketPhase
  uint32_t flags;     // kSocketPathGone ...
  uint32_t shutdown;  // kSocketShut...
  uint32_t backlog;   // of listen(2)
  uint32_t mode;      // of the path it is bound to
  uint32_t uid, gid;
  uint32_t order;  // kSocketWaiting: its place among those that wait
  uint32_t reserved;
  uint64_t peer_ino;  // 0: none
  BlobRef local;      // struct sockaddr, empty: none
  BlobRef remote;
  BlobRef options;  // SocketOption[], those that are not as in a new socket
  BlobRef queue;    // SocketMessage[], what has come and was not read
};
CR_ON_DISK(SocketState, 120);

struct SocketOption {  // of setsockopt(2)
  int32_t level, name;
  BlobRef value;
};
CR_ON_DISK(SocketOption, 24);

inline constexpr uint32_t kMessageCredentials = 1;  // it says who sent it

struct SocketMessage {
  BlobRef bytes;
  BlobRef from;         // struct sockaddr of the sender, empty: it has none
  BlobRef files;        // uint32_t[], indexes into Files: SCM_RIGHTS
  uint64_t sender_ino;  // of the socket it came from; 0: the peer, or one that is not known
  uint32_t flags;       // kMessage...
  int32_t pid;          // 0: it is not of the program
  uint32_t uid, gid;
};
CR_ON_DISK(SocketMessage, 72);

}  // namespace cr::format
