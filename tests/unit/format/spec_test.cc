// SPDX-License-Identifier: MIT
// spec_test.cc - docs/format/image.md says what src/format/image.h has: every struct with every
// field at its offset, every constant, and an example whose bytes are right.
#include <criterion/criterion.h>

#include <map>
#include <regex>
#include <string>
#include <vector>

#include "format/image.h"
#include "format/sockets.h"
#include "tests/unit/format/spec_document.h"
#include "tests/unit/format/synthetic_image.h"

namespace {

using namespace cr::format;

using cr_test::check_constants;
using cr_test::check_example;
using cr_test::check_structs;
using cr_test::Document;
using cr_test::read_document;
using cr_test::Structs;

#define F CR_SPEC_FIELD
Structs memory_and_frame_of_the_code() {
  Structs s;
  s["SuperBlock"] = {sizeof(SuperBlock),
                     {F(SuperBlock, magic),
                      F(SuperBlock, format_version),
                      F(SuperBlock, header_bytes),
                      F(SuperBlock, machine),
                      F(SuperBlock, page_bytes),
                      F(SuperBlock, feature_compat),
                      F(SuperBlock, feature_ro_compat),
                      F(SuperBlock, feature_incompat),
                      F(SuperBlock, write_lock),
                      F(SuperBlock, epoch),
                      F(SuperBlock, sequence),
                      F(SuperBlock, attempt),
                      F(SuperBlock, realtime_ns),
                      F(SuperBlock, monotonic_ns),
                      F(SuperBlock, payload_off),
                      F(SuperBlock, payload_slots),
                      F(SuperBlock, metadata_off),
                      F(SuperBlock, metadata_bytes),
                      F(SuperBlock, metadata_xxh3),
                      F(SuperBlock, pause_ns),
                      F(SuperBlock, memory_bytes),
                      F(SuperBlock, session_id),
                      F(SuperBlock, tracker),
                      F(SuperBlock, interval_mode),
                      F(SuperBlock, overhead_ppm),
                      F(SuperBlock, min_interval_ms),
                      F(SuperBlock, max_interval_ms),
                      F(SuperBlock, reserved0),
                      F(SuperBlock, mtbf_ms),
                      F(SuperBlock, files_generation),
                      F(SuperBlock, files_limit_bytes),
                      F(SuperBlock, files_policy),
                      F(SuperBlock, reserved1),
                      F(SuperBlock, reserved),
                      F(SuperBlock, checksum)}};
  s["MetadataHeader"] = {
      sizeof(MetadataHeader),
      {F(MetadataHeader, magic), F(MetadataHeader, section_count), F(MetadataHeader, reserved)}};
  s["SectionHeader"] = {sizeof(SectionHeader),
                        {F(SectionHeader, kind), F(SectionHeader, element_bytes),
                         F(SectionHeader, count), F(SectionHeader, off)}};
  s["BlobRef"] = {sizeof(BlobRef), {F(BlobRef, off), F(BlobRef, bytes)}};
  s["SegmentRecord"] = {sizeof(SegmentRecord),
                        {F(SegmentRecord, start), F(SegmentRecord, end), F(SegmentRecord, kind),
                         F(SegmentRecord, prot), F(SegmentRecord, flags), F(SegmentRecord, file),
                         F(SegmentRecord, file_off), F(SegmentRecord, dev), F(SegmentRecord, ino),
                         F(SegmentRecord, file_bytes), F(SegmentRecord, file_mtime_ns)}};
  s["ExtentRecord"] = {sizeof(ExtentRecord),
                       {F(ExtentRecord, addr), F(ExtentRecord, pages), F(ExtentRecord, slot)}};
  s["ObjectRecord"] = {
      sizeof(ObjectRecord),
      {F(ObjectRecord, kind), F(ObjectRecord, flags), F(ObjectRecord, mode), F(ObjectRecord, seals),
       F(ObjectRecord, dev), F(ObjectRecord, ino), F(ObjectRecord, bytes), F(ObjectRecord, addr),
       F(ObjectRecord, changed_s), F(ObjectRecord, name), F(ObjectRecord, key),
       F(ObjectRecord, uid), F(ObjectRecord, gid)}};
  s["OverlayRecord"] = {sizeof(OverlayRecord), {F(OverlayRecord, addr), F(OverlayRecord, bytes)}};
  return s;
}

void add_process_of_the_code(Structs& s) {
  s["ProcessRecord"] = {sizeof(ProcessRecord),
                        {F(ProcessRecord, pid),
                         F(ProcessRecord, ppid),
                         F(ProcessRecord, pgid),
                         F(ProcessRecord, sid),
                         F(ProcessRecord, uid),
                         F(ProcessRecord, gid),
                         F(ProcessRecord, umask),
                         F(ProcessRecord, personality),
                         F(ProcessRecord, flags),
                         F(ProcessRecord, dumpable),
                         F(ProcessRecord, reserved0),
                         F(ProcessRecord, control_tid),
                         F(ProcessRecord, program),
                         F(ProcessRecord, exe_name),
                         F(ProcessRecord, cwd),
                         F(ProcessRecord, hostname),
                         F(ProcessRecord, cmdline),
                         F(ProcessRecord, environ),
                         F(ProcessRecord, auxv),
                         F(ProcessRecord, mm),
                         F(ProcessRecord, cpu),
                         F(ProcessRecord, itimers),
                         F(ProcessRecord, rlimits),
                         F(ProcessRecord, control_entry),
                         F(ProcessRecord, control_stack_top),
                         F(ProcessRecord, control_state),
                         F(ProcessRecord, control_state_bytes),
                         F(ProcessRecord, vdso_start),
                         F(ProcessRecord, vdso_bytes),
                         F(ProcessRecord, vvar_start),
                         F(ProcessRecord, vvar_bytes),
                         F(ProcessRecord, kernel_release),
                         F(ProcessRecord, interval_ms)}};
  s["MmRecord"] = {
      sizeof(MmRecord),
      {F(MmRecord, start_code), F(MmRecord, end_code), F(MmRecord, start_data),
       F(MmRecord, end_data), F(MmRecord, start_brk), F(MmRecord, brk), F(MmRecord, start_stack),
       F(MmRecord, arg_start), F(MmRecord, arg_end), F(MmRecord, env_start), F(MmRecord, env_end)}};
  s["CpuRecord"] = {sizeof(CpuRecord),
                    {F(CpuRecord, leaf1_ecx), F(CpuRecord, leaf1_edx), F(CpuRecord, leaf7_ebx),
                     F(CpuRecord, leaf7_ecx), F(CpuRecord, leaf7_edx), F(CpuRecord, leaf7_1_eax),
                     F(CpuRecord, ext1_ecx), F(CpuRecord, ext1_edx), F(CpuRecord, xcr0),
                     F(CpuRecord, xstate_bytes)}};
  s["TimerRecord"] = {sizeof(TimerRecord), {F(TimerRecord, interval_us), F(TimerRecord, value_us)}};
  s["RlimitRecord"] = {sizeof(RlimitRecord), {F(RlimitRecord, soft), F(RlimitRecord, hard)}};
}

void add_threads_and_files_of_the_code(Structs& s) {
  s["ThreadRecord"] = {
      sizeof(ThreadRecord),
      {F(ThreadRecord, tid), F(ThreadRecord, flags), F(ThreadRecord, fs_base),
       F(ThreadRecord, gs_base), F(ThreadRecord, clear_child_tid), F(ThreadRecord, robust_list),
       F(ThreadRecord, robust_list_bytes), F(ThreadRecord, rseq_addr), F(ThreadRecord, rseq_bytes),
       F(ThreadRecord, rseq_signature), F(ThreadRecord, timer_slack_ns), F(ThreadRecord, frame),
       F(ThreadRecord, syscall_nr), F(ThreadRecord, name), F(ThreadRecord, sched_policy),
       F(ThreadRecord, sched_priority), F(ThreadRecord, nice), F(ThreadRecord, pdeathsig),
       F(ThreadRecord, affinity)}};
  s["FileRecord"] = {
      sizeof(FileRecord),
      {F(FileRecord, kind), F(FileRecord, open_flags), F(FileRecord, position), F(FileRecord, dev),
       F(FileRecord, ino), F(FileRecord, file_bytes), F(FileRecord, path), F(FileRecord, mode),
       F(FileRecord, pair), F(FileRecord, std_fd), F(FileRecord, pipe_bytes),
       F(FileRecord, content), F(FileRecord, owner_pid), F(FileRecord, owner_signal)}};
  s["FdRecord"] = {
      sizeof(FdRecord),
      {F(FdRecord, fd), F(FdRecord, file), F(FdRecord, cloexec), F(FdRecord, reserved)}};
  s["TerminalState"] = {
      sizeof(TerminalState),
      {F(TerminalState, input_modes), F(TerminalState, output_modes),
       F(TerminalState, control_modes), F(TerminalState, local_modes), F(TerminalState, line),
       F(TerminalState, characters), F(TerminalState, input_speed), F(TerminalState, output_speed),
       F(TerminalState, rows), F(TerminalState, columns), F(TerminalState, x_pixels),
       F(TerminalState, y_pixels), F(TerminalState, flags)}};
  s["PtyState"] = {
      sizeof(PtyState),
      {F(PtyState, terminal), F(PtyState, dev), F(PtyState, number), F(PtyState, flags),
       F(PtyState, input), F(PtyState, lines), F(PtyState, output)}};
  s["PtyLine"] = {sizeof(PtyLine), {F(PtyLine, bytes), F(PtyLine, end)}};
  s["EventfdState"] = {
      sizeof(EventfdState),
      {F(EventfdState, count), F(EventfdState, semaphore), F(EventfdState, reserved)}};
  s["TimerfdState"] = {
      sizeof(TimerfdState),
      {F(TimerfdState, clock), F(TimerfdState, flags), F(TimerfdState, ticks),
       F(TimerfdState, left_ns), F(TimerfdState, interval_ns), F(TimerfdState, wall_ns)}};
  s["SignalfdState"] = {sizeof(SignalfdState), {F(SignalfdState, mask)}};
  s["EpollEntry"] = {sizeof(EpollEntry),
                     {F(EpollEntry, fd), F(EpollEntry, events), F(EpollEntry, data)}};
  s["InotifyWatch"] = {sizeof(InotifyWatch),
                       {F(InotifyWatch, wd), F(InotifyWatch, mask), F(InotifyWatch, path),
                        F(InotifyWatch, flags), F(InotifyWatch, dev), F(InotifyWatch, ino)}};
  s["PidfdState"] = {sizeof(PidfdState), {F(PidfdState, id), F(PidfdState, reserved)}};
  s["SocketState"] = {sizeof(SocketState),
                      {F(SocketState, family), F(SocketState, type), F(SocketState, protocol),
                       F(SocketState, phase), F(SocketState, flags), F(SocketState, shutdown),
                       F(SocketState, backlog), F(SocketState, mode), F(SocketState, uid),
                       F(SocketState, gid), F(SocketState, order), F(SocketState, reserved),
                       F(SocketState, peer_ino), F(SocketState, local), F(SocketState, remote),
                       F(SocketState, options), F(SocketState, queue)}};
  s["SocketOption"] = {sizeof(SocketOption),
                       {F(SocketOption, level), F(SocketOption, name), F(SocketOption, value)}};
  s["SocketMessage"] = {sizeof(SocketMessage),
                        {F(SocketMessage, bytes), F(SocketMessage, from), F(SocketMessage, files),
                         F(SocketMessage, sender_ino), F(SocketMessage, flags),
                         F(SocketMessage, pid), F(SocketMessage, uid), F(SocketMessage, gid)}};
  s["LockRecord"] = {sizeof(LockRecord),
                     {F(LockRecord, file), F(LockRecord, kind), F(LockRecord, type),
                      F(LockRecord, reserved), F(LockRecord, start), F(LockRecord, bytes)}};
  s["OwnerRecord"] = {sizeof(OwnerRecord),
                      {F(OwnerRecord, file), F(OwnerRecord, type), F(OwnerRecord, id),
                       F(OwnerRecord, signal), F(OwnerRecord, owned), F(OwnerRecord, async)}};
  s["TreeRecord"] = {
      sizeof(TreeRecord),
      {F(TreeRecord, pid), F(TreeRecord, ppid), F(TreeRecord, pgid), F(TreeRecord, sid),
       F(TreeRecord, flags), F(TreeRecord, member), F(TreeRecord, status), F(TreeRecord, uid),
       F(TreeRecord, name), F(TreeRecord, terminal), F(TreeRecord, foreground)}};
  s["PosixTimerRecord"] = {
      sizeof(PosixTimerRecord),
      {F(PosixTimerRecord, id), F(PosixTimerRecord, clock), F(PosixTimerRecord, notify),
       F(PosixTimerRecord, signal), F(PosixTimerRecord, tid), F(PosixTimerRecord, overrun),
       F(PosixTimerRecord, value), F(PosixTimerRecord, left_ns), F(PosixTimerRecord, interval_ns)}};
  s["ThreadTraitsRecord"] = {
      sizeof(ThreadTraitsRecord),
      {F(ThreadTraitsRecord, tid), F(ThreadTraitsRecord, what), F(ThreadTraitsRecord, uids),
       F(ThreadTraitsRecord, gids), F(ThreadTraitsRecord, groups),
       F(ThreadTraitsRecord, capabilities), F(ThreadTraitsRecord, securebits),
       F(ThreadTraitsRecord, io_priority), F(ThreadTraitsRecord, machine_check),
       F(ThreadTraitsRecord, tsc), F(ThreadTraitsRecord, io_flusher),
       F(ThreadTraitsRecord, store_bypass), F(ThreadTraitsRecord, indirect_branch),
       F(ThreadTraitsRecord, cpuid), F(ThreadTraitsRecord, tls_entries),
       F(ThreadTraitsRecord, schedule), F(ThreadTraitsRecord, filters),
       F(ThreadTraitsRecord, personality), F(ThreadTraitsRecord, reserved)}};
  s["PluginRecord"] = {sizeof(PluginRecord),
                       {F(PluginRecord, restore), F(PluginRecord, number), F(PluginRecord, name)}};
  s["SemaphoreSetRecord"] = {
      sizeof(SemaphoreSetRecord),
      {F(SemaphoreSetRecord, id), F(SemaphoreSetRecord, key), F(SemaphoreSetRecord, uid),
       F(SemaphoreSetRecord, gid), F(SemaphoreSetRecord, mode), F(SemaphoreSetRecord, flags),
       F(SemaphoreSetRecord, values), F(SemaphoreSetRecord, adjustments)}};
  s["SeccompFilter"] = {sizeof(SeccompFilter),
                        {F(SeccompFilter, instructions), F(SeccompFilter, flags)}};
  s["ProcessTraitsRecord"] = {
      sizeof(ProcessTraitsRecord),
      {F(ProcessTraitsRecord, monotonic_ns), F(ProcessTraitsRecord, boottime_ns),
       F(ProcessTraitsRecord, oom_score_adj), F(ProcessTraitsRecord, membarrier),
       F(ProcessTraitsRecord, coredump_filter), F(ProcessTraitsRecord, deny_exec_gain),
       F(ProcessTraitsRecord, merge_memory), F(ProcessTraitsRecord, reserved),
       F(ProcessTraitsRecord, descriptor_table)}};
  s["SigactionRecord"] = {sizeof(SigactionRecord),
                          {F(SigactionRecord, handler), F(SigactionRecord, flags),
                           F(SigactionRecord, restorer), F(SigactionRecord, mask)}};
  s["SiginfoRecord"] = {
      sizeof(SiginfoRecord),
      {F(SiginfoRecord, tid), F(SiginfoRecord, reserved), F(SiginfoRecord, info)}};
}

Structs structs_of_the_code() {
  Structs s = memory_and_frame_of_the_code();
  add_process_of_the_code(s);
  add_threads_and_files_of_the_code(s);
  return s;
}

#define V(name) \
  { #name, name }
std::map<std::string, uint64_t> constants_of_the_code() {
  return {V(kSectionProcess),
          V(kSectionStrings),
          V(kSectionSegments),
          V(kSectionExtents),
          V(kSectionChecksums),
          V(kSectionThreads),
          V(kSectionBlobs),
          V(kSectionFds),
          V(kSectionFiles),
          V(kSectionSigactions),
          V(kSectionSiginfos),
          V(kSectionOverlays),
          V(kProcessLeaderGone),
          V(kProcessThpDisabled),
          V(kProcessChildSubreaper),
          V(kProcessHeapOnly),
          V(kSegmentAnon),
          V(kSegmentFile),
          V(kSegmentFileShared),
          V(kSegmentAnonShared),
          V(kSegmentStack),
          V(kSegmentVdso),
          V(kSegmentVvar),
          V(kSegmentEmbedded),
          V(kSegmentDeleted),
          V(kSegmentHeap),
          V(kSegmentDontFork),
          V(kSegmentWipeOnFork),
          V(kSegmentDontDump),
          V(kSegmentHuge),
          V(kSegmentNoHuge),
          V(kSegmentLocked),
          V(kSegmentNoReserve),
          V(kSegmentSequential),
          V(kSegmentRandom),
          V(kSegmentMergeable),
          V(kThreadLeader),
          V(kThreadNoNewPrivs),
          V(kThreadKeepCaps),
          V(kFileRegular),
          V(kFileDeleted),
          V(kFileDirectory),
          V(kFileDevice),
          V(kFileTerminal),
          V(kFileStdPipe),
          V(kFilePipe),
          V(kFileOpath),
          V(kFileProc),
          V(kTrackerUnknown),
          V(kTrackerEverything),
          V(kTrackerUserfaultfd),
          V(kTrackerSoftDirty),
          V(kTrackerHash),
          V(kIntervalFixed),
          V(kIntervalAutomatic),
          V(kIncompatObjects),
          V(kSectionObjects),
          V(kSegmentObject),
          V(kSegmentOfObject),
          V(kSegmentMayWrite),
          V(kObjectNamed),
          V(kObjectUnnamed),
          V(kObjectMemfd),
          V(kObjectSysv),
          V(kObjectWhole),
          V(kObjectRemoved),
          V(kFileObject),
          V(kObjectAnon),
          V(kFileShared),
          V(kSectionTree),
          V(kProcessEnded),
          V(kTreeZombie),
          V(kTreeEnded),
          V(kTreeOutsideGroup),
          V(kTreeOutsideSession),
          V(kTreeSubreaper),
          V(kIncompatTree),
          V(kIncompatKinds),
          V(kIncompatSockets),
          V(kFileSocket),
          V(kSocketUnconnected),
          V(kSocketListening),
          V(kSocketConnected),
          V(kSocketWaiting),
          V(kSocketPeerGone),
          V(kSocketReset),
          V(kSocketConnecting),
          V(kSocketAddressed),
          V(kSocketPathGone),
          V(kSocketPeerEnded),
          V(kSocketErrorSeen),
          V(kSocketPeerFailed),
          V(kSocketShutRead),
          V(kSocketShutWrite),
          V(kMessageCredentials),
          V(kFileEventfd),
          V(kFileTimerfd),
          V(kFileSignalfd),
          V(kFileEpoll),
          V(kFileInotify),
          V(kFilePidfd),
          V(kFileFifo),
          V(kFifoInside),
          V(kFifoAlone),
          V(kFifoReaderOutside),
          V(kFifoWriterOutside),
          V(kWatchLink),
          V(kTerminalControlling),
          V(kTerminalForeground),
          V(kFilePtyMaster),
          V(kFilePtySlave),
          V(kPtyLocked),
          V(kPtyPacket),
          V(kPtyMasterExclusive),
          V(kPtySlaveExclusive),
          V(kPtyNeverOpened),
          V(kPtyStopped),
          V(kPtyHeld),
          V(kPtyControlling),
          V(kPtyLineOpen),
          V(kPtyLineEnded),
          V(kPtyLineEof),
          V(kSectionPosixTimers),
          V(kSectionLocks),
          V(kSectionOwners),
          V(kTraitCredentials),
          V(kTraitSeccompStrict),
          V(kTraitSeccomp),
          V(kTraitIoPriority),
          V(kTraitSchedule),
          V(kTraitTlsEntries),
          V(kTraitMachineCheck),
          V(kTraitTsc),
          V(kTraitIoFlusher),
          V(kTraitStoreBypass),
          V(kTraitIndirectBranch),
          V(kTraitCpuid),
          V(kTraitPersonality),
          V(kIncompatTraits),
          V(kSectionThreadTraits),
          V(kSectionProcessTraits),
          V(kIncompatPlugins),
          V(kSectionPlugins),
          V(kIncompatSemaphores),
          V(kSectionSemaphores),
          V(kSemaphoresUsed),
          V(kFilePlugin),
          V(kLockFlock),
          V(kLockPosix),
          V(kLockOfd),
          V(kLockLease)};
}

constexpr char kDocument[] = "docs/format/image.md";

}  // namespace

Test(spec, structs_are_as_documented) {
  check_structs(structs_of_the_code(), Document(kDocument).structs);
}

// A struct that has a size assert in the headers must be in this test, and with it in the document.
Test(spec, no_struct_of_the_header_is_forgotten) {
  const Structs code = structs_of_the_code();
  static const std::regex kAssert(R"(CR_ON_DISK\((\w+), \d+\);)");
  size_t found = 0;
  for (const char* header : {"src/format/image.h", "src/format/sockets.h"}) {
    for (const std::string& line : read_document(header)) {
      std::smatch m;
      if (!std::regex_match(line, m, kAssert)) continue;
      found++;
      cr_expect(code.contains(m[1]), "%s", m[1].str().c_str());
    }
  }
  cr_expect(found == code.size(), "%zu structs in the headers, %zu here", found, code.size());
}

Test(spec, constants_are_as_documented) {
  const Document doc(kDocument);
  check_constants(constants_of_the_code(), doc.constants);
  cr_expect(kSectionKinds == 28, "a kind of section is in neither");
  cr_expect(
      kIncompatKnown == (kIncompatObjects | kIncompatKinds | kIncompatSockets | kIncompatTraits |
                         kIncompatPlugins | kIncompatSemaphores | kIncompatTree) &&
          kRoCompatKnown == 0,
      "a feature is not documented");
  cr_expect(kImageVersion == 1);
}

Test(spec, example_is_right) {
  const Document doc(kDocument);
  const std::vector<uint8_t> file = cr_test::SyntheticImage().bytes();
  cr_assert(doc.dump.size() > 20);
  check_example(doc, file);
}
