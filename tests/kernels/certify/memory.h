// Memory of an exact size, between guard numbers that no kernel may read or change.
#pragma once

#include <algorithm>
#include <vector>

#include "mod.h"

namespace convkern {

class Memory {
 public:
  // The numbers begin `shift` numbers beyond an address that is aligned for every vector.
  Memory(int64_t size, int64_t shift)
      : size_(size), storage_(size + shift + 2 * kGuard + kAligned) {
    const auto address = reinterpret_cast<uintptr_t>(storage_.data() + kGuard) / sizeof(Mod);
    first_ = kGuard + (kAligned - address % kAligned) % kAligned + shift;
    clear();
  }
  Mod* data() { return storage_.data() + first_; }
  int64_t size() const { return size_; }
  // Marks all numbers as never written.
  void clear() { std::fill(storage_.begin(), storage_.end(), unwritten()); }
  bool is_kept() const {  // whether the guard numbers are unchanged
    auto kept = [](Mod number) { return number == unwritten(); };
    return std::all_of(storage_.begin(), storage_.begin() + first_, kept) &&
           std::all_of(storage_.begin() + first_ + size_, storage_.end(), kept);
  }

 private:
  static constexpr int64_t kGuard = 64, kAligned = 16;  // numbers

  static Mod unwritten() {
    Mod number;
    number.value = UINT64_MAX;
    return number;
  }

  int64_t size_, first_;
  std::vector<Mod> storage_;
};

}  // namespace convkern
