// SPDX-License-Identifier: MIT
// traits.h - what a program can make of itself beside its memory and descriptors: credentials,
// seccomp filters, namespaces, segment descriptors, scheduling beyond sched_setscheduler, and the
// like. Saved where the kernel tells it, refused by name elsewhere.
// Invariant: a thread that is as the program was started costs no record; the control thread,
// which nothing of this reaches, is what "as it was started" means.
// Context: N (agent). Doc: docs/ARCHITECTURE.md, "Traits".
#pragma once

#include <string>
#include <vector>

#include "agent/recipe.h"
#include "agent/world.h"
#include "format/image_reader.h"
#include "store/model.h"

namespace cr::agent {

// Before the control thread is asked for anything: a filter that reaches it (TSYNC) might kill the
// program.
Trouble check_control_filters(pid_t pid, pid_t control_tid);

// The kind of a namespace that this process has entered, "" if it is in those of process `home`.
// Where each process of the session has been started, and where a restore would bring it.
std::string entered_namespace(pid_t pid, pid_t tid, pid_t home);

// Of the stopped threads, before they are made to report: a record for each that has changed, and
// what cannot be saved. Filters are suspended until the threads are let go. control: the control
// thread's status.
Trouble describe_thread_traits(World& world, pid_t pid, pid_t control_tid,
                               const std::string& control,
                               std::vector<format::ThreadTraitsRecord>* ret, store::Model& model);
// What the threads and the process have said of themselves meanwhile.
Trouble complete_traits(World& world, pid_t pid, const format::Process& process,
                        std::vector<format::ThreadTraitsRecord> records, store::Model& model);

// Why restore() in place cannot put back what differs, or "".
std::string traits_changed(World& world, pid_t pid, pid_t control_tid,
                           const format::Process& process, const format::ImageView& image);

// nullptr: the thread has none.
const format::ThreadTraitsRecord* traits_of(const format::ImageView& image, int32_t tid);
// What a thread does to itself when it needs no privilege any more, and what it does last of all.
struct ThreadRecipes {
  Recipe traits, filters;
};
void adopt_traits(const format::ImageView& image, const format::ThreadRecord& thread,
                  ThreadRecipes& recipes);
// In a thread that is rolled back in place: what no comparison has seen, and takes no pointers.
std::vector<format::Call> settle_traits(const format::ImageView& image, int32_t tid);
// What any thread can do for the process.
void adopt_process_traits(const format::ImageView& image, Recipes& recipes);
// Why they cannot be had here, or "". live: in a process that begins anew by exec.
std::string why_not_adopted(const format::ImageView& image, pid_t live);
// What comes back otherwise than it was, a line each.
std::vector<std::string> traits_that_differ(const format::ImageView& image);

}  // namespace cr::agent
