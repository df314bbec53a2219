// This library is preloaded into a process (LD_PRELOAD) and replaces posix_memalign. torch
// allocates every CPU tensor with it, and so operands, results, workspaces and packed weights. It
// also replaces operator new, which allocates the vectors and objects of C++.
//
// While it is on, each block lies between two protected pages and touches one of them. It ends
// where the page after it begins, or begins where the page before it ends. An access one byte too
// far is a SIGSEGV. A fresh block is full of 0xFF bytes, which are NaN in every floating-point
// format. Freed blocks are protected and never used again.
//
// A block that ends at a page has the alignment of its size, whatever was asked for. Objects need
// no more. torch asks for 64 bytes, but its ops and ours rely on less. In tensors, which may be
// views at any offset, they rely on the alignment of the element type. In workspaces, whose sizes
// are multiples of the kernel's vector, they rely on the alignment of that vector.
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

extern "C" {
// glibc's own functions, by their other names.
void __libc_free(void* block);
void* __libc_memalign(size_t alignment, size_t bytes);
}

namespace {

// The reserved address space, enough for 100,000 blocks of 20 MiB. Most of it is never backed by
// memory.
constexpr size_t kReserved = size_t{1} << 41;

enum Mode : int { off, end, begin };

std::atomic<int> mode{off};
std::atomic<int64_t> tensors{0};
std::atomic<size_t> shortened{0};
const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
char* first = nullptr;             // first reserved address
std::atomic<char*> next{nullptr};  // first address not yet used; the page before it is protected
uint32_t* pages_of = nullptr;      // pages of the block whose first page is first + index * page

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  std::abort();
}

void* map(void* at, size_t bytes, int access, int flags = 0) {
  void* pages = mmap(at, bytes, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
  if (pages == MAP_FAILED) fail("guard pages: mmap");
  return pages;
}

void reserve() {
  first = static_cast<char*>(map(nullptr, kReserved, PROT_NONE));
  next = first + page;
  pages_of = static_cast<uint32_t*>(
      map(nullptr, kReserved / page * sizeof(uint32_t), PROT_READ | PROT_WRITE));
}

void* guarded(size_t bytes) {
  if (bytes == shortened) bytes -= 64;
  const size_t pages = (bytes + page - 1) / page;
  char* data = next.fetch_add((pages + 1) * page);
  if (data + (pages + 1) * page > first + kReserved) fail("guard pages: no addresses left");
  if (mprotect(data, pages * page, PROT_READ | PROT_WRITE) != 0) fail("guard pages: mprotect");
  pages_of[(data - first) / page] = static_cast<uint32_t>(pages);
  std::memset(data, 0xFF, pages * page);
  return mode == end ? data + pages * page - bytes : data;
}

void protect(void* block) {
  const size_t index = (static_cast<char*>(block) - first) / page;
  // New pages replace the old ones, whose memory goes back to the system.
  map(first + index * page, pages_of[index] * page, PROT_NONE, MAP_FIXED);
}

}  // namespace

extern "C" {

// 0: new blocks are not guarded. 1: they end at a protected page. 2: they begin at one.
void set_guard_pages(int wanted) {
  if (first == nullptr) reserve();
  mode = wanted;
}

// Plants a fault: blocks of `bytes` bytes get 64 bytes less.
void shorten(size_t bytes) { shortened = bytes; }

// Returns how many blocks of posix_memalign have been guarded so far.
int64_t guarded_tensors() { return tensors; }

int posix_memalign(void** result, size_t alignment, size_t bytes) noexcept {
  const bool guard = mode != off && bytes > 0;
  void* block = guard ? guarded(bytes) : __libc_memalign(alignment, bytes);
  if (block == nullptr) return ENOMEM;
  if (guard) ++tensors;
  *result = block;
  return 0;
}

void free(void* block) noexcept {
  const auto at = reinterpret_cast<uintptr_t>(block), low = reinterpret_cast<uintptr_t>(first);
  if (first != nullptr && at >= low && at - low < kReserved) {
    protect(block);
  } else {
    __libc_free(block);
  }
}

}  // extern "C"

void* operator new(size_t bytes) {
  if (mode != off && bytes > 0) return guarded(bytes);
  void* block = std::malloc(bytes);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}
