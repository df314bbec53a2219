// Compiles a region of a translation unit for an instruction set above the baseline:
//
//   CONVKERN_BEGIN_TARGET("avx2,fma")   after all other includes
//   #include ".../x-inl.h"              whose functions all live in anonymous namespaces
//   CONVKERN_END_TARGET
//
// A region is used rather than a compiler flag for the whole file. Under a flag, an inline function
// that other files share may be compiled for the instruction set. The linker may then keep that
// copy, and callers would crash on processors without the instruction set.
#pragma once

#define CONVKERN_PRAGMA(text) _Pragma(#text)

#if defined(__clang__)
#define CONVKERN_BEGIN_TARGET(isa) \
  CONVKERN_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define CONVKERN_END_TARGET CONVKERN_PRAGMA(clang attribute pop)
#else
#define CONVKERN_BEGIN_TARGET(isa) \
  CONVKERN_PRAGMA(GCC push_options) CONVKERN_PRAGMA(GCC target(isa))
#define CONVKERN_END_TARGET CONVKERN_PRAGMA(GCC pop_options)
#endif

#define CONVKERN_INLINE inline __attribute__((always_inline))
#define CONVKERN_INLINE_LAMBDA __attribute__((always_inline))
#define CONVKERN_NOINLINE __attribute__((noinline))
