// SPDX-License-Identifier: MIT
// image.h - every struct of an image file (image.0, image.1).
// Invariant: fixed width, little endian, explicit padding, a size assert beside each struct; the
// first 16 bytes of the superblock never change. The spec is docs/format/image.md.
// Context: N, H, S, R.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <type_traits>

#include "base/base.h"

namespace cr::format {

inline constexpr char kImageMagic[8] = {'C', 'R', 'I', 'M', 'A', 'G', 'E', '\n'};
inline constexpr uint32_t kImageVersion = 1;
inline constexpr uint32_t kMachineX86_64 = 62;  // EM_X86_64

// Incompatible features: a reader that does not know a set bit must refuse the image.
inline constexpr uint64_t kIncompatObjects = 1;  // memory that is shared: kSectionObjects
// Kinds of descriptors, locks, owners and timers that the first readers did not know.
inline constexpr uint64_t kIncompatKinds = 1ull << 8;
inline constexpr uint64_t kIncompatSockets = 1ull << 9;  // kFileSocket
inline constexpr uint64_t kIncompatTree = 1ull << 22;    // one of several processes: kSectionTree
// Credentials, filters and descriptor tables that a process must not come back without.
inline constexpr uint64_t kIncompatTraits = 1ull << 16;
inline constexpr uint64_t kIncompatPlugins = 1ull << 17;     // kSectionPlugins
inline constexpr uint64_t kIncompatSemaphores = 1ull << 18;  // kSectionSemaphores
inline constexpr uint64_t kIncompatKnown = kIncompatObjects | kIncompatKinds | kIncompatSockets |
                                           kIncompatTraits | kIncompatPlugins |
                                           kIncompatSemaphores | kIncompatTree;
inline constexpr uint64_t kRoCompatKnown = 0;

#define CR_ON_DISK(type, bytes)                       \
  static_assert(sizeof(type) == (bytes));             \
  static_assert(std::is_trivially_copyable_v<type> && \
                std::has_unique_object_representations_v<type>)

// How a session knows which pages were written since the last checkpoint.
enum Tracker : uint32_t {
  kTrackerUnknown = 0,
  kTrackerEverything = 1,   // it does not: all pages are copied
  kTrackerUserfaultfd = 2,  // asynchronous write protection and PAGEMAP_SCAN
  kTrackerSoftDirty = 3,    // the soft-dirty bits of pagemap
  kTrackerHash = 4,         // checksums of all pages are compared
};

// Offset 0 of the file, inside one 512-byte sector so that it is written atomically.
struct SuperBlock {
  char magic[8];
  uint32_t format_version;
  uint32_t header_bytes;  // sizeof(SuperBlock)
  uint32_t machine;
  uint32_t page_bytes;
  uint64_t feature_compat;
  uint64_t feature_ro_compat;
  uint64_t feature_incompat;
  uint64_t write_lock;  // WRITE_LOCK: 0 while the buffer is being written, 1 when it is whole
  uint64_t epoch;
  uint64_t sequence;
  uint64_t attempt;
  uint64_t realtime_ns;   // CLOCK_REALTIME of the stop
  uint64_t monotonic_ns;  // CLOCK_MONOTONIC of the stop
  uint64_t payload_off;   // slot i is at payload_off + i * page_bytes
  uint64_t payload_slots;
  uint64_t metadata_off;
  uint64_t metadata_bytes;
  uint64_t metadata_xxh3;
  uint64_t pause_ns;
  uint64_t memory_bytes;  // of all segments that may be accessed (zero pages included)
  uint8_t session_id[16];
  uint32_t tracker;        // Tracker, of this checkpoint
  uint32_t interval_mode;  // IntervalMode, of the session; its interval_ms is in ProcessRecord
  uint32_t overhead_ppm;   // automatic: what checkpoints may cost, 0: not given; so the next ones
  uint32_t min_interval_ms;
  uint32_t max_interval_ms;
  uint32_t reserved0;
  uint64_t mtbf_ms;
  uint64_t files_generation;   // of the journal of changed files (file_journal.h), 0: none
  uint64_t files_limit_bytes;  // of its copies
  uint32_t files_policy;       // FilesPolicy, of the session
  uint32_t reserved1;
  uint8_t reserved[280];
  uint64_t checksum;  // XXH3-64 of the bytes before it
};
CR_ON_DISK(SuperBlock, 512);
static_assert(offsetof(SuperBlock, write_lock) == 48);
static_assert(offsetof(SuperBlock, checksum) == 504);

enum IntervalMode : uint32_t {
  kIntervalFixed = 0,
  kIntervalAutomatic = 1,  // chosen by what checkpoints cost
};

enum SectionKind : uint32_t {
  kSectionProcess = 1,
  kSectionStrings = 2,
  kSectionSegments = 3,
  kSectionExtents = 4,
  kSectionChecksums = 5,
  kSectionThreads = 6,
  kSectionBlobs = 7,
  kSectionFds = 8,
  kSectionFiles = 9,
  kSectionSigactions = 10,
  kSectionSiginfos = 11,
  kSectionOverlays = 12,
  kSectionObjects = 13,
  kSectionTree = 14,
  kSectionPosixTimers = 16,
  kSectionLocks = 17,
  kSectionOwners = 18,
  kSectionThreadTraits = 24,
  kSectionProcessTraits = 25,
  kSectionPlugins = 26,
  kSectionSemaphores = 27,
  kSectionKinds = 28,  // one past the last
};

// METADATA begins with this, followed by section_count SectionHeaders.
struct MetadataHeader {
  char magic[8];  // "CRMETA\0\0"
  uint32_t section_count;
  uint32_t reserved;
};
CR_ON_DISK(MetadataHeader, 16);
inline constexpr char kMetadataMagic[8] = {'C', 'R', 'M', 'E', 'T', 'A', 0, 0};

struct SectionHeader {
  uint32_t kind;
  uint32_t element_bytes;  // 1 for Strings and Blobs
  uint64_t count;
  uint64_t off;  // from the beginning of METADATA, a multiple of 16
};
CR_ON_DISK(SectionHeader, 24);

// Offset of a NUL-terminated string in the Strings section; 0 is "".
using StringRef = uint32_t;
struct BlobRef {
  uint64_t off;
  uint64_t bytes;
};
CR_ON_DISK(BlobRef, 16);

// CPU capabilities the program may have come to rely on.
struct CpuRecord {
  uint32_t leaf1_ecx, leaf1_edx;
  uint32_t leaf7_ebx, leaf7_ecx, leaf7_edx, leaf7_1_eax;
  uint32_t ext1_ecx, ext1_edx;
  uint64_t xcr0;
  uint64_t xstate_bytes;  // XSAVE area for the features enabled by default
};
CR_ON_DISK(CpuRecord, 48);

// As prctl(PR_SET_MM, PR_SET_MM_MAP) takes them.
struct MmRecord {
  uint64_t start_code, end_code, start_data, end_data, start_brk, brk, start_stack;
  uint64_t arg_start, arg_end, env_start, env_end;
};
CR_ON_DISK(MmRecord, 88);

struct TimerRecord {  // struct itimerval, in microseconds
  int64_t interval_us;
  int64_t value_us;
};
CR_ON_DISK(TimerRecord, 16);

struct RlimitRecord {
  uint64_t soft, hard;
};
CR_ON_DISK(RlimitRecord, 16);

inline constexpr uint32_t kProcessLeaderGone = 1;  // the main thread had ended
inline constexpr uint32_t kProcessThpDisabled = 4;
inline constexpr uint32_t kProcessChildSubreaper = 8;
inline constexpr uint32_t kProcessHeapOnly = 16;  // the heap of a program, no threads or files
inline constexpr uint32_t kProcessEnded = 32;     // others of its tree go on: kSectionTree

struct ProcessRecord {
  int32_t pid, ppid, pgid, sid;
  uint32_t uid, gid;
  uint32_t umask;
  uint32_t personality;
  uint32_t flags;  // kProcess...
  uint32_t dumpable;
  uint32_t reserved0;
  uint32_t control_tid;  // not among the threads
  StringRef program;     // argv[0] path of the executable (/proc/PID/exe)
  StringRef exe_name;    // file name of the same, for messages
  StringRef cwd;
  StringRef hostname;
  BlobRef cmdline;  // NUL-separated
  BlobRef environ;  // NUL-separated
  BlobRef auxv;     // pairs of uint64_t
  MmRecord mm;
  CpuRecord cpu;
  TimerRecord itimers[3];
  RlimitRecord rlimits[16];
  uint64_t control_entry;      // address of the control thread's entry function
  uint64_t control_stack_top;  // its stack
  uint64_t control_state;      // address of the library's control state
  uint64_t control_state_bytes;
  uint64_t vdso_start, vdso_bytes;
  uint64_t vvar_start, vvar_bytes;  // all [vvar*] mappings together
  StringRef kernel_release;
  uint32_t interval_ms;  // of the session's automatic checkpoints; 0: none
};
CR_ON_DISK(ProcessRecord, 624);

enum SegmentKind : uint32_t {
  kSegmentAnon = 1,
  kSegmentFile = 2,        // private mapping of a file
  kSegmentFileShared = 3,  // read-only shared mapping of a file
  kSegmentAnonShared = 4,  // MAP_SHARED|MAP_ANONYMOUS, or shared mapping of /dev/zero
  kSegmentStack = 5,       // grows down
  kSegmentVdso = 6,
  kSegmentVvar = 7,
  kSegmentObject = 8,  // shared mapping of an object: number file_bytes of Objects
};
inline constexpr uint32_t kSegmentEmbedded = 1;  // clean file pages are in the image as well
inline constexpr uint32_t kSegmentDeleted = 2;   // the file had no name any more
inline constexpr uint32_t kSegmentHeap = 4;      // begins with the directory of the crmalloc heap
inline constexpr uint32_t kSegmentOfObject = 8;  // kSegmentFile: as kSegmentObject, but private
// madvise and mlock state, from VmFlags.
inline constexpr uint32_t kSegmentDontFork = 0x10;
inline constexpr uint32_t kSegmentWipeOnFork = 0x20;
inline constexpr uint32_t kSegmentDontDump = 0x40;
inline constexpr uint32_t kSegmentHuge = 0x80;
inline constexpr uint32_t kSegmentNoHuge = 0x100;
inline constexpr uint32_t kSegmentLocked = 0x200;
inline constexpr uint32_t kSegmentNoReserve = 0x400;
inline constexpr uint32_t kSegmentSequential = 0x800;
inline constexpr uint32_t kSegmentRandom = 0x1000;
inline constexpr uint32_t kSegmentMergeable = 0x2000;
inline constexpr uint32_t kSegmentMayWrite = 0x4000;  // shared: mprotect may make it writable

struct SegmentRecord {
  uint64_t start, end;
  uint32_t kind;
  uint32_t prot;   // PROT_*
  uint32_t flags;  // kSegment...
  StringRef file;
  uint64_t file_off;
  uint64_t dev, ino;
  uint64_t file_bytes;
  int64_t file_mtime_ns;
};
CR_ON_DISK(SegmentRecord, 72);

// Pages [addr, addr + pages * page size) are in slots [slot, slot + pages). A page of a segment in
// no extent reads as zeros, or as the file's content where the segment maps a file.
struct ExtentRecord {
  uint64_t addr;
  uint64_t pages;
  uint64_t slot;
};
CR_ON_DISK(ExtentRecord, 24);

inline constexpr uint64_t kSlotZero = ~0ull;  // an extent of zero pages that shadow a file

// Memory or a file that several mappings and descriptors may share.
enum ObjectKind : uint32_t {
  kObjectNamed = 1,    // a file, by path
  kObjectUnnamed = 2,  // a file without a name
  kObjectMemfd = 3,
  kObjectSysv = 4,  // System V shared memory; ino: its id
  kObjectAnon = 5,  // MAP_SHARED | MAP_ANONYMOUS, mapped more than once or by several processes
};
inline constexpr uint32_t kObjectWhole = 1;    // all of its content is stored, not what is mapped
inline constexpr uint32_t kObjectRemoved = 2;  // kObjectSysv: goes with its last detach (IPC_RMID)

// Byte i of the object is at address addr + i of extents. Such addresses are beyond all segments.
struct ObjectRecord {
  uint32_t kind;
  uint32_t flags;  // kObject...
  uint32_t mode;   // st_mode
  uint32_t seals;  // F_GET_SEALS
  uint64_t dev, ino;
  uint64_t bytes;
  uint64_t addr;
  int64_t changed_s;  // kObjectSysv: shm_ctime
  StringRef name;     // as /proc/PID/maps shows it
  int32_t key;        // kObjectSysv
  uint32_t uid, gid;
};
CR_ON_DISK(ObjectRecord, 72);
inline constexpr uint64_t kObjectSpace = uint64_t{1} << 62;

struct ThreadRecord {
  int32_t tid;
  uint32_t flags;  // kThread...
  uint64_t fs_base, gs_base;
  uint64_t clear_child_tid;
  uint64_t robust_list;
  uint64_t robust_list_bytes;
  uint64_t rseq_addr;
  uint32_t rseq_bytes, rseq_signature;
  uint64_t timer_slack_ns;
  BlobRef frame;       // rt_sigframe without the return address: ucontext, then the XSAVE area
  int64_t syscall_nr;  // system call the thread was blocked in, -1 none
  char name[16];
  int32_t sched_policy, sched_priority, nice;
  int32_t pdeathsig;
  BlobRef affinity;  // cpu_set_t bits; empty: unknown
};
CR_ON_DISK(ThreadRecord, 144);
inline constexpr uint32_t kThreadLeader = 1;
inline constexpr uint32_t kThreadNoNewPrivs = 2;
inline constexpr uint32_t kThreadKeepCaps = 4;

// One open file description; several descriptors may share it.
enum FileKind : uint32_t {
  kFileRegular = 1,  // by path; size at the checkpoint recorded
  kFileDeleted = 2,  // regular without a name: content in the image
  kFileDirectory = 3,
  kFileDevice = 4,    // null, zero, full, random, urandom, tty by path
  kFileTerminal = 5,  // inherited from crrestore
  kFileStdPipe = 6,   // pipe or socket to the outside, inherited from crrestore
  kFilePipe = 7,      // pipe inside the process
  kFileOpath = 8,     // O_PATH
  kFileProc = 9,      // below /proc; the process's own directory is kProcSelf
  kFileObject = 10,   // number `pair` of Objects
  kFileShared = 11,   // open file number `pair` of the image of member `file_bytes` of the tree
  // Made anew; FileRecord.content has the struct that is named, or an array of it.
  kFileEventfd = 32,    // EventfdState
  kFileTimerfd = 33,    // TimerfdState
  kFileSignalfd = 34,   // SignalfdState
  kFileEpoll = 35,      // EpollEntry[]
  kFileInotify = 36,    // InotifyWatch[], by wd
  kFilePidfd = 37,      // PidfdState
  kFileFifo = 38,       // by path; FileRecord.file_bytes says who is at the other end: FifoPeer
  kFilePtyMaster = 39,  // PtyState; FileRecord.pair: its number
  kFilePtySlave = 40,   // of the master with that `pair`; file_bytes 1: that one was closed
  kFileSocket = 64,     // SocketState (format/sockets.h)
  kFilePlugin = 48,     // made by a plug-in of the program
};

// How FileRecord.path of a kFileProc begins if it is of the process itself; and how it goes on
// there if it is of its first thread. (Ids may be others after a restore.)
inline constexpr char kProcSelf[] = "/proc/self/", kProcTaskSelf[] = "task/self";

enum FifoPeer : uint64_t {
  kFifoInside = 1,         // the process itself
  kFifoAlone = 2,          // nobody any more
  kFifoReaderOutside = 3,  // another process reads
  kFifoWriterOutside = 4,  // another process writes, or nobody has written yet
};

struct FileRecord {
  uint32_t kind;
  uint32_t open_flags;  // O_* of F_GETFL
  uint64_t position;
  uint64_t dev, ino;
  uint64_t file_bytes;  // size at the checkpoint
  StringRef path;
  uint32_t mode;        // st_mode
  uint32_t pair;        // pipes: number of the pipe, unique in the image; or of the object
  int32_t std_fd;       // kFileTerminal, kFileStdPipe: crrestore's descriptor to inherit
  uint64_t pipe_bytes;  // F_GETPIPE_SZ
  BlobRef content;      // pipes: unread bytes (in the read end); deleted files: all bytes
  int32_t owner_pid, owner_signal;
};
CR_ON_DISK(FileRecord, 88);

struct EventfdState {
  uint64_t count;
  uint32_t semaphore;  // EFD_SEMAPHORE
  uint32_t reserved;
};
CR_ON_DISK(EventfdState, 16);

struct TimerfdState {
  int32_t clock;
  uint32_t flags;        // TFD_TIMER_... of timerfd_settime
  uint64_t ticks;        // expirations that were not read yet
  uint64_t left_ns;      // 0: not running
  uint64_t interval_ns;  // 0: once
  uint64_t wall_ns;      // CLOCK_REALTIME of the expiration where that was asked for, else 0
};
CR_ON_DISK(TimerfdState, 40);

struct SignalfdState {
  uint64_t mask;
};
CR_ON_DISK(SignalfdState, 8);

struct EpollEntry {
  int32_t fd;  // as it was added; open, and the same file
  uint32_t events;
  uint64_t data;
};
CR_ON_DISK(EpollEntry, 16);

inline constexpr uint32_t kWatchLink = 1;  // of a symbolic link itself

struct InotifyWatch {
  int32_t wd;
  uint32_t mask;
  StringRef path;
  uint32_t flags;  // kWatch...
  uint64_t dev, ino;
};
CR_ON_DISK(InotifyWatch, 32);

struct PidfdState {
  int32_t id;  // of the process itself, of a thread of its, or of another process of the tree; 0:
               // of a process that has ended and was waited for
  uint32_t reserved;
};
CR_ON_DISK(PidfdState, 8);

inline constexpr uint32_t kTerminalControlling = 1;  // the process's controlling terminal
inline constexpr uint32_t kTerminalForeground = 2;   // and its group is in the foreground

// A terminal's modes, as the kernel's struct termios2 has them, and its window. Of kFileTerminal it
// is the content, if there is any.
struct TerminalState {
  uint32_t input_modes, output_modes, control_modes, local_modes;
  uint8_t line;  // discipline
  uint8_t characters[19];
  uint32_t input_speed, output_speed;
  uint16_t rows, columns, x_pixels, y_pixels;
  uint32_t flags;  // kTerminal...
};
CR_ON_DISK(TerminalState, 56);

inline constexpr uint32_t kPtyLocked = 1;           // TIOCSPTLCK
inline constexpr uint32_t kPtyPacket = 2;           // TIOCPKT
inline constexpr uint32_t kPtyMasterExclusive = 4;  // TIOCEXCL
inline constexpr uint32_t kPtySlaveExclusive = 8;
inline constexpr uint32_t kPtyNeverOpened = 0x10;  // its slave
inline constexpr uint32_t kPtyStopped = 0x20;      // output, by the character VSTOP
inline constexpr uint32_t kPtyHeld = 0x40;         // output, by tcflow(3)
inline constexpr uint32_t kPtyControlling = 0x80;  // of the process, which leads its session

enum PtyLineEnd : uint32_t {
  kPtyLineOpen = 0,   // it is being edited; without canonical mode: bytes that can be read
  kPtyLineEnded = 1,  // its last byte ends it
  kPtyLineEof = 2,    // by the end-of-file character
};

struct PtyLine {
  uint32_t bytes;
  uint32_t end;  // PtyLineEnd
};
CR_ON_DISK(PtyLine, 8);

// A pseudoterminal of the program's own.
struct PtyState {
  TerminalState terminal;
  uint64_t dev;     // of the file system of /dev/pts/N
  uint32_t number;  // N
  uint32_t flags;   // kPty...
  BlobRef input;    // for the slave, not read yet
  BlobRef lines;    // PtyLine[], of input
  BlobRef output;   // for the master, not read yet
};
CR_ON_DISK(PtyState, 120);

struct FdRecord {
  int32_t fd;
  uint32_t file;  // index into Files
  uint32_t cloexec;
  uint32_t reserved;
};
CR_ON_DISK(FdRecord, 16);

enum LockKind : uint32_t {
  kLockFlock = 1,  // flock(2), of the open file
  kLockPosix = 2,  // F_SETLK, of the process
  kLockOfd = 3,    // F_OFD_SETLK, of the open file
  kLockLease = 4,  // F_SETLEASE
};

struct LockRecord {
  uint32_t file;  // index into Files
  uint32_t kind;  // LockKind
  uint32_t type;  // F_RDLCK or F_WRLCK
  uint32_t reserved;
  uint64_t start, bytes;  // bytes 0: to the end
};
CR_ON_DISK(LockRecord, 32);

// Whom the kernel signals about an open file.
struct OwnerRecord {
  uint32_t file;   // index into Files
  uint32_t type;   // F_OWNER_TID, _PID or _PGRP
  int32_t id;      // of the process or a thread of its; _PGRP: 0, the process's own
  int32_t signal;  // F_GETSIG
  uint32_t owned;  // 0: nobody
  uint32_t async;  // O_ASYNC
};
CR_ON_DISK(OwnerRecord, 24);

// The kernel's struct sigaction.
struct SigactionRecord {
  uint64_t handler;
  uint64_t flags;
  uint64_t restorer;
  uint64_t mask;
};
CR_ON_DISK(SigactionRecord, 32);

struct SiginfoRecord {
  int32_t tid;  // 0: pending for the process
  uint32_t reserved;
  uint8_t info[128];
};
CR_ON_DISK(SiginfoRecord, 136);

// timer_create(2).
struct PosixTimerRecord {
  int32_t id;
  int32_t clock;
  int32_t notify;  // SIGEV_...
  int32_t signal;
  int32_t tid;       // of SIGEV_THREAD_ID, else 0
  int32_t overrun;   // timer_getoverrun(2)
  uint64_t value;    // sigev_value
  uint64_t left_ns;  // 0: not running
  uint64_t interval_ns;
};
CR_ON_DISK(PosixTimerRecord, 48);

inline constexpr uint32_t kTreeZombie = 1;          // ended, not waited for by its parent yet
inline constexpr uint32_t kTreeEnded = 2;           // the first process: ended and waited for
inline constexpr uint32_t kTreeOutsideGroup = 4;    // in a process group of the outside
inline constexpr uint32_t kTreeOutsideSession = 8;  // in a session of the outside
inline constexpr uint32_t kTreeSubreaper = 16;      // PR_SET_CHILD_SUBREAPER
inline constexpr uint32_t kTreeNoImage = ~0u;

// A process of a tree. Ids are those that the processes see.
struct TreeRecord {
  int32_t pid;
  int32_t ppid;  // 0: its parent is outside
  int32_t pgid, sid;
  uint32_t flags;   // kTree...
  uint32_t member;  // its image is in members/<member>; 0: this one; kTreeNoImage: it has none
  int32_t status;   // as wait(2) gives it, of one that has ended
  uint32_t uid;
  char name[16];
  int32_t terminal;  // of the leader of a session: N of its terminal /dev/pts/N; -1: another, none
  int32_t foreground;  // the group in its foreground, 0: none
};
CR_ON_DISK(TreeRecord, 56);

// Bytes put over the restored memory before anything runs.
struct OverlayRecord {
  uint64_t addr;
  BlobRef bytes;
};
CR_ON_DISK(OverlayRecord, 24);

// What a thread has made of itself and what is not so from the start: `what` says which fields
// count. A thread without such a record has nothing of it.
inline constexpr uint32_t kTraitCredentials = 1;  // ids, groups, capabilities, securebits
inline constexpr uint32_t kTraitSeccompStrict = 2;
inline constexpr uint32_t kTraitSeccomp = 4;
inline constexpr uint32_t kTraitIoPriority = 8;
inline constexpr uint32_t kTraitSchedule = 0x10;
inline constexpr uint32_t kTraitTlsEntries = 0x20;
inline constexpr uint32_t kTraitMachineCheck = 0x40;
inline constexpr uint32_t kTraitTsc = 0x80;
inline constexpr uint32_t kTraitIoFlusher = 0x100;
inline constexpr uint32_t kTraitStoreBypass = 0x200;
inline constexpr uint32_t kTraitIndirectBranch = 0x400;
inline constexpr uint32_t kTraitCpuid = 0x800;
inline constexpr uint32_t kTraitPersonality = 0x1000;  // another one than ProcessRecord's

struct ThreadTraitsRecord {
  int32_t tid;
  uint32_t what;              // kTrait...
  uint32_t uids[4], gids[4];  // real, effective, saved, of files
  BlobRef groups;             // uint32_t[]
  uint64_t capabilities[5];   // inheritable, permitted, effective, bounding, ambient
  uint32_t securebits;
  int32_t io_priority;
  uint32_t machine_check, tsc, io_flusher, store_bypass, indirect_branch, cpuid;
  BlobRef tls_entries;  // struct user_desc[], set_thread_area(2)
  BlobRef schedule;     // struct sched_attr
  BlobRef filters;      // SeccompFilter and its instructions, the oldest first
  uint32_t personality;
  uint32_t reserved;
};
CR_ON_DISK(ThreadTraitsRecord, 184);

// The instructions follow, 8 bytes each.
struct SeccompFilter {
  uint32_t instructions;
  uint32_t flags;  // SECCOMP_FILTER_FLAG_LOG
};
CR_ON_DISK(SeccompFilter, 8);
inline constexpr uint32_t kMostFilterInstructions = 4096;

struct ProcessTraitsRecord {
  uint64_t monotonic_ns, boottime_ns;  // its clocks, as it saw them in the stop
  int32_t oom_score_adj;
  uint32_t membarrier;  // MEMBARRIER_CMD_GET_REGISTRATIONS
  uint32_t coredump_filter;
  uint32_t deny_exec_gain;  // PR_GET_MDWE
  uint32_t merge_memory;    // PR_GET_MEMORY_MERGE
  uint32_t reserved;
  BlobRef descriptor_table;  // uint64_t[], modify_ldt(2)
};
CR_ON_DISK(ProcessTraitsRecord, 56);

// A plug-in that was registered; the restored process calls restore(number), 0 or -errno.
struct PluginRecord {
  uint64_t restore;  // address
  uint32_t number;
  StringRef name;
};
CR_ON_DISK(PluginRecord, 16);

inline constexpr uint32_t kSemaphoresUsed = 1;  // there was a semop(2): sem_otime is not 0

// A set of System V semaphores that the process uses.
struct SemaphoreSetRecord {
  int32_t id, key;
  uint32_t uid, gid;
  uint32_t mode;   // permissions
  uint32_t flags;  // kSemaphoresUsed
  BlobRef values;  // uint16_t[]
  // int16_t[], what the kernel adds to each when the process ends (SEM_UNDO); empty: nothing.
  BlobRef adjustments;
};
CR_ON_DISK(SemaphoreSetRecord, 56);

}  // namespace cr::format
