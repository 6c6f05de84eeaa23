// SPDX-License-Identifier: MIT
// sysv_segment.cc - see sysv_segment.h. Invariant: as there. Context: N (agent).
#include "agent/sysv_segment.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "os/sysv_id.h"

namespace cr::agent {
namespace {

std::string describe(const format::ObjectRecord& o, const std::string& name) {
  char key[16];
  snprintf(key, sizeof(key), "0x%08x", static_cast<unsigned>(o.key));
  return "System V shared memory " + name + " (id " + std::to_string(o.ino) + ", key " + key + ")";
}

// Is it the one that the image has? One that was made since has another time, or another key.
bool is_same(const shmid_ds& ds, const format::ObjectRecord& o) {
  const bool removed = (ds.shm_perm.mode & SHM_DEST) != 0;
  return ds.shm_segsz == o.bytes && ds.shm_perm.__key == o.key &&
         removed == ((o.flags & format::kObjectRemoved) != 0) &&
         (o.key != IPC_PRIVATE || ds.shm_ctime == o.changed_s);
}

Trouble make_segment(const format::ObjectRecord& o, const std::string& name, SysvSegment* ret,
                     std::string* ret_warning) {
  const bool removed = (o.flags & format::kObjectRemoved) != 0;
  const int flags = IPC_CREAT | IPC_EXCL | static_cast<int>(o.mode & 0777);
  const os::SysvKind kind{"/proc/sys/kernel/shm_next_id",
                          [&] { return shmget(o.key, o.bytes, flags); },
                          [](int other) { shmctl(other, IPC_RMID, nullptr); }};
  const int id = os::make_with_id(kind, static_cast<int>(o.ino));
  if (id < 0) {
    return trouble(Errc::kSystem, errno,
                   describe(o, name) + " cannot be made again: " + strerror(errno));
  }
  ret->id = id;
  ret->fresh = true;
  ret->attached = SysvAttachment::attach(id, 0);
  const int error = errno;
  shmid_ds ds{};
  if (geteuid() == 0 && shmctl(id, IPC_STAT, &ds) == 0) {
    ds.shm_perm.uid = o.uid;
    ds.shm_perm.gid = o.gid;
    shmctl(id, IPC_SET, &ds);
  }
  const bool other_id = static_cast<uint64_t>(id) != o.ino;
  if (removed || !ret->attached || other_id) shmctl(id, IPC_RMID, nullptr);
  if (!ret->attached) {
    return trouble(Errc::kSystem, error, describe(o, name) + ": attaching: " + strerror(error));
  }
  if (other_id && !removed) {
    return trouble(Errc::kPermission, EPERM,
                   describe(o, name) +
                       " is gone, and its id, by which the program knows it, cannot be had again; "
                       "run crrestore as root, where no other segment has that id");
  }
  if (other_id) {
    *ret_warning = describe(o, name) + " had been removed (IPC_RMID); its id is " +
                   std::to_string(id) + " now";
  }
  return {};
}

}  // namespace

SysvAttachment SysvAttachment::attach(int id, int flags) {
  SysvAttachment a;
  void* p = shmat(id, nullptr, flags);
  if (p == reinterpret_cast<void*>(-1)) return a;
  a.data_ = static_cast<uint8_t*>(p);
  // A fork of ours, such as the init of a private namespace, would keep it.
  shmid_ds ds{};
  if (shmctl(id, IPC_STAT, &ds) != 0 || madvise(p, page_ceil(ds.shm_segsz), MADV_DONTFORK) != 0) {
    const int error = errno;
    a.reset();
    errno = error;
  }
  return a;
}

long SysvAttachment::read(uint64_t off, void* to, uint64_t bytes) const {
  const iovec into{to, bytes}, from{data_ + off, bytes};
  const ssize_t n = process_vm_readv(getpid(), &into, 1, &from, 1, 0);
  return n == static_cast<ssize_t>(bytes) ? 0 : -ENOMEM;
}

long SysvAttachment::write(uint64_t off, const void* from, uint64_t bytes) const {
  const iovec mine{const_cast<void*>(from), bytes}, into{data_ + off, bytes};
  const ssize_t n = process_vm_writev(getpid(), &mine, 1, &into, 1, 0);
  return n == static_cast<ssize_t>(bytes) ? 0 : -ENOMEM;
}

void SysvAttachment::reset() {
  if (data_ != nullptr) shmdt(data_);
  data_ = nullptr;
}

bool is_segment_there(const format::ObjectRecord& o) {
  shmid_ds ds{};
  return shmctl(static_cast<int>(o.ino), IPC_STAT, &ds) == 0 && is_same(ds, o);
}

Trouble find_or_make_segment(const format::ObjectRecord& o, const std::string& name,
                             const SegmentWanted& wanted, SysvSegment* ret,
                             std::string* ret_warning) {
  const int id = static_cast<int>(o.ino);
  const bool removed = (o.flags & format::kObjectRemoved) != 0;
  shmid_ds ds{};
  const bool there = shmctl(id, IPC_STAT, &ds) == 0;
  if (there && is_same(ds, o) && (!removed || wanted.live)) {
    ret->id = id;
    ret->attached = SysvAttachment::attach(id, wanted.read_only ? SHM_RDONLY : 0);
    if (ret->attached) return {};
    return trouble(Errc::kPermission, errno,
                   describe(o, name) + " cannot be attached: " + strerror(errno));
  }
  if (there && !removed) {
    return trouble(Errc::kBusy, EEXIST,
                   describe(o, name) + ": another segment has that id now; remove it (ipcrm -m " +
                       std::to_string(id) + "), then try again");
  }
  return make_segment(o, name, ret, ret_warning);
}

}  // namespace cr::agent
