// SPDX-License-Identifier: MIT
// word_index.cc - a hash index of the words of a file that lives in a heap of its own: it is built,
// killed at any moment, opened again by a new process, and goes on where its last commit was.
//
//   word_index IMAGE.dir add FILE [LINES]   index the rest of FILE, a commit after so many lines
//   word_index IMAGE.dir check              verify it all; print "words N distinct D bytes B"
//   word_index IMAGE.dir count WORD...      how often each of them was seen
//   word_index IMAGE.dir list               all of them: "COUNT WORD"
//
// Invariant: in every committed state the index holds exactly the words of the first `done_bytes`
// bytes of the file: the sum of all counts is `words`. All of it hangs on the root "word index".
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint_restore.h"

namespace {

constexpr char kRoot[] = "word index";

struct Word {
  Word* next;
  unsigned long count;
  size_t length;
  char text[];
};

struct Index {
  Word** buckets;
  size_t bucket_count;
  unsigned long words, distinct;
  long done_bytes;  // of the file
};

unsigned long hash_of(const char* text, size_t length) {
  unsigned long h = 1469598103934665603ul;  // FNV-1a, 64 bits
  for (size_t i = 0; i < length; i++)
    h = (h ^ static_cast<unsigned char>(text[i])) * 1099511628211ul;
  return h;
}

[[noreturn]] void fail(const char* what) {
  fprintf(stderr, "word_index: %s: %s\n", what, crerror());
  exit(1);
}

template <typename T>
T* allocate(size_t count, size_t extra = 0) {
  auto* p = static_cast<T*>(crcalloc(1, count * sizeof(T) + extra));
  if (p == nullptr) {
    perror("word_index: crcalloc");
    exit(1);
  }
  return p;
}

Index* open_index(const char* dir, unsigned flags) {
  if (crheap_open(dir, flags) != 0) fail(dir);
  auto* index = static_cast<Index*>(crroot_get(kRoot));
  if (index != nullptr) return index;
  index = allocate<Index>(1);
  index->bucket_count = 1024;
  index->buckets = allocate<Word*>(index->bucket_count);
  if (crroot_set(kRoot, index) != 0) fail(kRoot);
  return index;
}

void grow(Index& index) {
  const size_t count = index.bucket_count * 2;
  Word** buckets = allocate<Word*>(count);
  for (size_t i = 0; i < index.bucket_count; i++) {
    for (Word *w = index.buckets[i], *next; w != nullptr; w = next) {
      next = w->next;
      Word*& head = buckets[hash_of(w->text, w->length) % count];
      w->next = head;
      head = w;
    }
  }
  crfree(index.buckets);
  index.buckets = buckets;
  index.bucket_count = count;
}

Word* find(const Index& index, const char* text, size_t length) {
  Word* w = index.buckets[hash_of(text, length) % index.bucket_count];
  while (w != nullptr && (w->length != length || memcmp(w->text, text, length) != 0)) w = w->next;
  return w;
}

void add(Index& index, const char* text, size_t length) {
  Word* w = find(index, text, length);
  if (w == nullptr) {
    if (index.distinct >= index.bucket_count) grow(index);
    w = allocate<Word>(1, length);
    memcpy(w->text, text, length);
    w->length = length;
    Word*& head = index.buckets[hash_of(text, length) % index.bucket_count];
    w->next = head;
    head = w;
    index.distinct++;
  }
  w->count++;
  index.words++;
}

void add_file(Index& index, const char* path, long lines_each) {
  FILE* file = fopen(path, "r");
  if (file == nullptr || fseek(file, index.done_bytes, SEEK_SET) != 0) {
    perror(path);
    exit(1);
  }
  char* line = nullptr;
  size_t room = 0;
  long lines = 0;
  for (ssize_t n; (n = getline(&line, &room, file)) > 0;) {
    for (char* at = line; at < line + n;) {
      const size_t length = strcspn(at, " \t\n");
      if (length != 0) add(index, at, length);
      at += length + 1;
    }
    index.done_bytes += n;
    if (++lines % lines_each == 0 && crheap_commit() != 0) fail("commit");
  }
  free(line);
  fclose(file);
  if (crheap_commit() != 0) fail("commit");
  printf("indexed %ld more lines\n", lines);
}

int check(const Index& index) {
  unsigned long words = 0, distinct = 0;
  for (size_t i = 0; i < index.bucket_count; i++) {
    for (const Word* w = index.buckets[i]; w != nullptr; w = w->next) {
      if (hash_of(w->text, w->length) % index.bucket_count != i || w->count == 0) {
        printf("INCONSISTENT: a word in the wrong bucket\n");
        return 1;
      }
      words += w->count;
      distinct++;
    }
  }
  if (words != index.words || distinct != index.distinct) {
    printf("INCONSISTENT: %lu words and %lu distinct ones, %lu and %lu by the counters\n", words,
           distinct, index.words, index.distinct);
    return 1;
  }
  printf("words %lu distinct %lu bytes %ld\n", words, distinct, index.done_bytes);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    fprintf(stderr,
            "usage: word_index IMAGE.dir add FILE [LINES] | check | count WORD... | list\n");
    return 2;
  }
  const bool adding = strcmp(argv[2], "add") == 0;
  Index& index = *open_index(argv[1], adding ? CR_HEAP_CREATE : CR_HEAP_READ_ONLY);
  if (adding && argc > 3) {
    const long lines = argc > 4 ? atol(argv[4]) : 1000;
    add_file(index, argv[3], lines > 0 ? lines : 1000);
  } else if (strcmp(argv[2], "check") == 0) {
    return check(index);
  } else if (strcmp(argv[2], "count") == 0) {
    for (int i = 3; i < argc; i++) {
      const Word* w = find(index, argv[i], strlen(argv[i]));
      printf("%lu %s\n", w == nullptr ? 0 : w->count, argv[i]);
    }
  } else if (strcmp(argv[2], "list") == 0) {
    for (size_t i = 0; i < index.bucket_count; i++) {
      for (const Word* w = index.buckets[i]; w != nullptr; w = w->next) {
        printf("%lu %.*s\n", w->count, static_cast<int>(w->length), w->text);
      }
    }
  } else {
    fprintf(stderr, "word_index: %s: no such command\n", argv[2]);
    return 2;
  }
  return 0;
}
