// Random numbers that are the same on every machine.
#pragma once

#include "mod.h"

namespace convkern {

class Random {
 public:
  // Begins the i-th sequence of a seed.
  Random(uint64_t seed, uint64_t i) : state_(seed) {
    state_ = next() ^ i;
    state_ = next();
  }

  int64_t below(int64_t n) {
    return static_cast<int64_t>(static_cast<unsigned __int128>(next()) * n >> 64);
  }
  Mod operand() {  // uniform
    Mod number;
    do number.value = next() >> 3;
    while (number.value >= Mod::kPrime);
    return number;
  }

 private:
  uint64_t next() {  // SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }

  uint64_t state_;
};

}  // namespace convkern
