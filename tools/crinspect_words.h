// SPDX-License-Identifier: MIT
// crinspect_words.h - numbers of an image as words for people.
// Invariant: a bit or number without a word is shown as a number, never left out; text that came
// from the image cannot control a terminal.
// Context: N.
#pragma once

#include <stdint.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "format/image_reader.h"

namespace cr::tools {

// printf into a string.
std::string text_of(const char* format, ...) __attribute__((format(printf, 1, 2)));
// "0x7f0012345000"
std::string hex(uint64_t v);
// Control characters as \x1b.
std::string printable(std::string_view text);

// "rw-p"
std::string protection_words(uint32_t prot, bool shared);
const char* segment_kind_word(uint32_t kind);
std::string segment_flag_words(uint32_t flags);
const char* file_kind_word(uint32_t kind);
// A timer of timer_create, "3 (CLOCK_MONOTONIC, SIGALRM to thread 7) 1.500000 s left".
std::string posix_timer_words(const format::PosixTimerRecord& timer);
// "flock to write", "record lock to read from 10, 20 bytes".
std::string lock_words(const format::LockRecord& lock);
// What a descriptor of a kind that is made anew holds, "count 5, semaphore"; "" for other kinds.
std::string object_words(const format::ImageView& image, const format::FileRecord& file);
// What a thread has made of itself, lines that begin with a line feed; "" nothing.
std::string thread_trait_words(const format::ImageView& image, int32_t tid);
std::vector<std::pair<const char*, std::string>> process_trait_words(
    const format::ImageView& image);
// "O_RDWR|O_APPEND"
std::string open_flag_words(uint32_t flags);
// "SIGUSR1"
std::string signal_word(int number);
// "SIGHUP SIGINT", "none"
std::string signal_set_words(uint64_t mask);
std::string sigaction_flag_words(uint64_t flags);
std::string thread_flag_words(uint32_t flags);
std::string eflags_words(uint64_t eflags);
// "2025-01-31 12:00:00 +0100"
std::string local_time(uint64_t realtime_ns);
// "3 min ago"
std::string age(uint64_t realtime_ns);

}  // namespace cr::tools
