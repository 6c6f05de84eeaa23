// SPDX-License-Identifier: MIT
// image_maker.cc - see image_maker.h. Invariant: as there. Context: N.
#include "node/image_maker.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "format/checksum.h"
#include "format/image_reader.h"
#include "node/disk_words.h"
#include "os/fault.h"
#include "os/fd.h"
#include "os/thread.h"
#include "store/buffer.h"
#include "store/file.h"

namespace cr::node {
namespace {

using namespace format;

constexpr uint64_t kNowhere = ~uint64_t{0};

// One image that is made.
struct ImageOut {
  std::string dir;
  std::unique_ptr<store::File> file;  // nullptr: it is only checked
  SuperBlock super{};
  std::vector<uint8_t> metadata;  // the volume's pages, the superblock first
  uint32_t volume = 0;            // of pages; METADATA is `metadata_volume`
  uint32_t metadata_volume = 0;
};

class ImageMaker {
 public:
  // dir "": nothing is written.
  ImageMaker(SlotSource& from, std::string dir, bool durable)
      : from_(from), view_(from.description()), dir_(std::move(dir)), durable_(durable) {}
  Result<uint64_t> make(const OnMakeProgress& progress, std::string* ret_text);
  bool has_made_directory() const { return made_directory_; }
  // What failed is the image that is made, not where it comes from.
  bool has_bad_target() const { return bad_target_; }

 private:
  template <typename T>
  Result<T> target(Result<T> result) {
    bad_target_ |= !result.has_value();
    return result;
  }
  Result<void> find_metadata(std::string* ret_text);
  Result<void> read_metadata(std::string* ret_text);
  Result<void> check_superblocks(std::string* ret_text);
  Result<void> open_images(std::string* ret_text);
  Result<void> place_pages();
  void forget_free_slots(ImageOut& image, uint8_t* file, const format::ImageView& view);
  // Pages as the source gave them, in memory of their own.
  struct Batch {
    std::vector<SlotPages> pages;
    std::vector<uint8_t> memory;
    Error error;
    std::string text;  // of the error
  };
  void get_batch(Batch* ret);
  Result<void> put_batch(const Batch& batch);
  Result<void> copy_pages(const OnMakeProgress& progress, std::string* ret_text);
  Result<void> put_pages(const SlotPages& pages);
  Result<void> mend();
  Result<void> check_all_placed() const;
  Result<void> commit(ImageOut& image);

  struct Place {
    uint32_t image;
    bool done;     // its page was put there
    uint64_t off;  // in its file, kNowhere: nowhere
    uint64_t sum;
  };
  bool fits(uint64_t slot, const uint8_t* page) const;

  SlotSource& from_;
  const DescriptionView& view_;
  const std::string dir_;
  const bool durable_;
  bool made_directory_ = false, bad_target_ = false;
  std::vector<ImageOut> images_;
  std::vector<Place> places_;    // by slot
  std::vector<uint64_t> wrong_;  // slots whose page is not what METADATA says
  uint64_t written_ = 0;
};

// METADATA says where in the image each page is, so it is read first.
Result<void> ImageMaker::find_metadata(std::string* ret_text) {
  Error first;
  for (unsigned way = 0; from_.take_way(way); way++) {
    std::string text;
    images_.clear();
    auto read = read_metadata(&text);
    if (read) read = check_superblocks(&text);
    if (read) return {};
    if (way == 0) {
      first = read.error();
      *ret_text = text;
    }
    if (first.code != Errc::kDamaged) break;
  }
  return first;
}

Result<void> ImageMaker::read_metadata(std::string* ret_text) {
  for (uint32_t v = 0; v < view_.volumes.size(); v++) {
    if (view_.volumes[v].kind != kVolumeMetadata) continue;
    if (view_.volumes[v].bytes / kPageSize > from_.slots()) {
      *ret_text = "METADATA has more pages than there are slots";
      return Error{Errc::kDamaged, 0, "a description is damaged"};
    }
    ImageOut image;
    image.dir = view_.volumes[v].member;
    image.metadata_volume = v;
    image.metadata.resize(view_.volumes[v].bytes);
    for (uint32_t p = 0; p < view_.volumes.size(); p++) {
      const bool same = strcmp(view_.volumes[p].member, view_.volumes[v].member) == 0;
      if (same && view_.volumes[p].kind == kVolumePages) image.volume = p;
    }
    images_.push_back(std::move(image));
  }
  for (const VolumeExtent& e : view_.extents) {
    const auto image = std::ranges::find(images_, e.volume, &ImageOut::metadata_volume);
    if (image == images_.end()) continue;
    if ((e.page + e.pages) * kPageSize > image->metadata.size()) {
      *ret_text = "the description is longer than METADATA";
      return Error{Errc::kDamaged, 0, "a description is damaged"};
    }
    for (uint64_t k = 0; k < e.pages; k++) {
      CR_TRYV(from_.read(e.slot + k, image->metadata.data() + (e.page + k) * kPageSize, ret_text));
    }
  }
  if (images_.empty() || !images_[0].dir.empty()) {
    *ret_text = "there is no image of a first process in it";
    return Error{Errc::kDamaged, 0, "a description is damaged"};
  }
  return {};
}

Result<void> ImageMaker::check_superblocks(std::string* ret_text) {
  for (ImageOut& image : images_) {
    if (image.metadata.size() < kPageSize) return Error{Errc::kDamaged, 0, "METADATA is missing"};
    memcpy(&image.super, image.metadata.data(), sizeof(image.super));
    const SuperBlock& s = image.super;
    const bool is_good = s.checksum == superblock_checksum(s) && s.write_lock == 1;
    if (!is_good || s.metadata_bytes > image.metadata.size() - kPageSize ||
        s.payload_off != kPageSize || s.payload_slots > kMostPartRows ||
        s.metadata_off / kPageSize > 2 * kMostPartRows ||
        s.metadata_off < s.payload_off + s.payload_slots * kPageSize) {
      *ret_text = "the superblock in it is damaged";
      return Error{Errc::kDamaged, 0, "a superblock is damaged"};
    }
    if (checksum(image.metadata.data() + kPageSize, s.metadata_bytes) != s.metadata_xxh3) {
      *ret_text = "METADATA in it is damaged";
      return Error{Errc::kDamaged, 0, "METADATA is damaged"};
    }
  }
  return {};
}

Result<void> ImageMaker::open_images(std::string* ret_text) {
  if (mkdir(dir_.c_str(), 0700) != 0) {
    const int e = errno;
    *ret_text = dir_ + ": " + strerror(e) + "; " +
                (e == EEXIST ? "name another directory, or remove that one" : next_step(e));
    return Error{Errc::kSystem, e, "making the image directory"};
  }
  made_directory_ = true;
  if (images_.size() > 1) CR_TRYV(store::make_directory(dir_ + "/members"));
  for (ImageOut& image : images_) {
    const SuperBlock& s = image.super;
    std::string dir = dir_;
    if (!image.dir.empty()) {
      dir += "/" + image.dir;
      CR_TRYV(store::make_directory(dir));
    }
    CR_TRY(image.file, store::File::open(store::buffer_path(dir, 0), store::File::Mode::kEmpty));
    SuperBlock locked = s;
    locked.write_lock = 0;
    locked.checksum = superblock_checksum(locked);
    CR_TRYV(image.file->write(&locked, sizeof(locked), 0));
    CR_TRYV(image.file->drain());
    CR_TRYV(image.file->truncate(s.metadata_off + s.metadata_bytes));
  }
  return {};
}

// What a slot holds that no page has was not kept: it is zeros here, and METADATA has to say so.
void ImageMaker::forget_free_slots(ImageOut& image, uint8_t* file, const format::ImageView& view) {
  std::vector<bool> used(view.checksums.size());
  for (const ExtentRecord& x : view.extents) {
    if (x.slot == kSlotZero) continue;
    std::fill_n(used.begin() + static_cast<ptrdiff_t>(x.slot), x.pages, true);
  }
  SuperBlock& s = image.super;
  uint8_t* const metadata = file + s.metadata_off;
  uint8_t* sums = const_cast<uint8_t*>(reinterpret_cast<const uint8_t*>(view.checksums.data()));
  for (size_t slot = 0; slot < used.size(); slot++, sums += sizeof(uint64_t)) {
    if (!used[slot]) memcpy(sums, &kZeroPageSum, sizeof(kZeroPageSum));
  }
  memcpy(image.metadata.data() + kPageSize, metadata, s.metadata_bytes);
  s.metadata_xxh3 = checksum(metadata, s.metadata_bytes);
  s.checksum = superblock_checksum(s);
}

Result<void> ImageMaker::place_pages() {
  places_.assign(from_.slots(), {0, false, kNowhere, 0});
  for (uint32_t i = 0; i < images_.size(); i++) {
    ImageOut& image = images_[i];
    const SuperBlock& s = image.super;
    // The reader wants the whole file, of which it reads superblock and METADATA.
    const uint64_t bytes = s.metadata_off + s.metadata_bytes;
    CR_TRY(auto shadow, os::Mapping::map(-1, bytes, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE));
    memcpy(shadow.data(), &s, sizeof(s));
    memcpy(shadow.data() + s.metadata_off, image.metadata.data() + kPageSize, s.metadata_bytes);
    CR_TRY(const ImageView view, read_image(shadow.data(), bytes));
    auto at = std::ranges::lower_bound(view_.extents, image.volume, {}, &VolumeExtent::volume);
    for (const ExtentRecord& x : view.extents) {
      if (x.slot == kSlotZero) continue;
      for (uint64_t k = 0; k < x.pages; k++) {
        const uint64_t page = x.addr / kPageSize + k;
        while (at != view_.extents.end() && at->volume == image.volume &&
               at->page + at->pages <= page) {
          ++at;
        }
        if (at == view_.extents.end() || at->volume != image.volume || at->page > page) {
          return Error{Errc::kDamaged, 0, "a page of the image is missing"};
        }
        places_[at->slot + (page - at->page)] = {i, false, s.payload_off + (x.slot + k) * kPageSize,
                                                 view.checksums[x.slot + k]};
      }
    }
    forget_free_slots(image, shadow.data(), view);
  }
  return {};
}

bool ImageMaker::fits(uint64_t slot, const uint8_t* page) const {
  return checksum(page, kPageSize) == places_[slot].sum;
}

// Pages that lie side by side in the file as well go out together.
Result<void> ImageMaker::put_pages(const SlotPages& pages) {
  if (pages.slot > places_.size() || pages.pages > places_.size() - pages.slot) {
    return Error{Errc::kDamaged, 0, "there is a page of no slot"};
  }
  for (uint64_t k = 0; k < pages.pages;) {
    Place* const place = &places_[pages.slot + k];
    if (place->off == kNowhere) {
      k++;
      continue;
    }
    const uint8_t* data = pages.data + k * kPageSize;
    uint64_t count = 0;
    while (k + count < pages.pages && place[count].image == place->image &&
           place[count].off == place->off + count * kPageSize) {
      if (!fits(pages.slot + k + count, data + count * kPageSize)) {
        wrong_.push_back(pages.slot + k + count);
      }
      place[count].done = true;
      count++;
    }
    const auto& file = images_[place->image].file;
    if (file) CR_TRYV(target(file->write(data, count * kPageSize, place->off)));
    written_ += count * kPageSize;
    k += count;
  }
  return {};
}

// Whoever keeps these pages found nothing wrong with them; another copy may be right, or what
// parity gives.
Result<void> ImageMaker::mend() {
  alignas(kPageSize) uint8_t page[kPageSize];
  for (unsigned way = 0; !wrong_.empty() && from_.take_way(way); way++) {
    std::vector<uint64_t> left;
    std::string text;
    for (const uint64_t slot : wrong_) {
      if (!from_.read(slot, page, &text) || !fits(slot, page)) {
        left.push_back(slot);
        continue;
      }
      const auto& file = images_[places_[slot].image].file;
      if (file) CR_TRYV(target(file->write(page, kPageSize, places_[slot].off)));
      if (file) CR_TRYV(target(file->drain()));
    }
    wrong_ = std::move(left);
  }
  if (wrong_.empty()) return {};
  return Error{Errc::kDamaged, 0, "a page is not what METADATA says"};
}

// In a thread beside the one that writes what came before.
void ImageMaker::get_batch(Batch* ret) {
  ret->text.clear();
  ret->error = Error{};
  ret->pages.clear();
  auto got = from_.next(&ret->text);
  if (!got) {
    ret->error = got.error();
    return;
  }
  ret->pages = std::move(*got);
  uint64_t bytes = 0;
  for (const SlotPages& p : ret->pages) bytes += p.pages * kPageSize;
  if (ret->memory.size() < bytes) ret->memory.resize(bytes);
  uint8_t* at = ret->memory.data();
  for (SlotPages& p : ret->pages) {
    memcpy(at, p.data, p.pages * kPageSize);
    p.data = at;
    at += p.pages * kPageSize;
  }
}

Result<void> ImageMaker::put_batch(const Batch& batch) {
  for (const SlotPages& pages : batch.pages) CR_TRYV(put_pages(pages));
  for (ImageOut& image : images_) {
    if (image.file) CR_TRYV(target(image.file->drain()));
  }
  return {};
}

// While one batch is compared and written, the next one is read, fetched and decoded.
Result<void> ImageMaker::copy_pages(const OnMakeProgress& progress, std::string* ret_text) {
  const uint64_t total = from_.slots() * kPageSize;
  Batch batches[2];
  get_batch(&batches[0]);
  uint64_t done = 0;
  for (unsigned i = 0;; i = 1 - i) {
    const Batch& now = batches[i];
    if (now.error.code != Errc::kOk) {
      *ret_text = now.text;
      return now.error;
    }
    if (now.pages.empty()) break;
    auto ahead = os::Thread::start([this, next = &batches[1 - i]] { get_batch(next); });
    const auto put = put_batch(now);
    if (ahead) {
      ahead->join();
    } else {
      get_batch(&batches[1 - i]);
    }
    if (!put) return put.error();
    if (!wrong_.empty()) CR_TRYV(mend());
    for (const SlotPages& pages : now.pages) done += pages.pages * kPageSize;
    if (progress) progress({std::min(done, total), total});
  }
  if (progress) progress({total, total});
  return {};
}

// The files were empty, so a page that did not come reads as zeros.
Result<void> ImageMaker::check_all_placed() const {
  for (const Place& p : places_) {
    if (p.off != kNowhere && !p.done && p.sum != kZeroPageSum) {
      return Error{Errc::kDamaged, 0, "a page of the image is missing"};
    }
  }
  return {};
}

Result<void> ImageMaker::commit(ImageOut& image) {
  CR_TRYV(image.file->write(image.metadata.data() + kPageSize, image.super.metadata_bytes,
                            image.super.metadata_off));
  written_ += image.super.metadata_bytes;
  CR_TRYV(image.file->barrier(durable_));
  os::fault_point(os::FaultPoint::kImageMade);
  CR_TRYV(image.file->write(&image.super, sizeof(image.super), 0));  // COMMIT POINT rebuilt_image
  CR_TRYV(image.file->barrier(durable_));
  const std::string dir = image.dir.empty() ? dir_ : dir_ + "/" + image.dir;
  return durable_ ? store::sync_directory(dir) : Result<void>();
}

Result<uint64_t> ImageMaker::make(const OnMakeProgress& progress, std::string* ret_text) {
  CR_TRYV(find_metadata(ret_text));
  if (!dir_.empty()) CR_TRYV(target(open_images(ret_text)));
  CR_TRYV(place_pages());
  CR_TRYV(copy_pages(progress, ret_text));
  CR_TRYV(check_all_placed());
  if (dir_.empty()) return written_;
  // The first process's image counts for all: it is the last.
  for (size_t i = images_.size(); i-- > 0;) CR_TRYV(target(commit(images_[i])));
  if (durable_ && images_.size() > 1) CR_TRYV(store::sync_directory(dir_ + "/members"));
  if (durable_) CR_TRYV(store::sync_parent(dir_));
  return written_;
}

}  // namespace

void remove_image(const std::string& dir) {
  for (const char* name : {"/image.0", "/image.1"}) unlink((dir + name).c_str());
  for (unsigned i = 0; i < 4096; i++) {
    const std::string member = dir + "/members/" + std::to_string(i);
    unlink((member + "/image.0").c_str());
    rmdir(member.c_str());
  }
  rmdir((dir + "/members").c_str());
  rmdir(dir.c_str());
}

Result<uint64_t> make_image_of(SlotSource& from, const std::string& dir, bool durable,
                               const OnMakeProgress& progress, std::string* ret_text) {
  ImageMaker maker(from, dir, durable);
  ret_text->clear();
  auto made = maker.make(progress, ret_text);
  if (made) return made;
  if (ret_text->empty()) {
    *ret_text = maker.has_bad_target() ? disk_words(dir, made.error()) : words_of(made.error());
  }
  if (maker.has_made_directory()) remove_image(dir);
  return made;
}

Result<void> check_image_of(SlotSource& from, const OnMakeProgress& progress,
                            std::string* ret_text) {
  ImageMaker maker(from, "", false);
  ret_text->clear();
  auto made = maker.make(progress, ret_text);
  if (made) return {};
  if (ret_text->empty()) *ret_text = words_of(made.error());
  return made.error();
}

}  // namespace cr::node
