#!/usr/bin/env python3
"""Writes src/tokenizer/unicode.rs: general categories of Unicode 15.1, the version llama.cpp's own tables have.

    pip install unicodedata2==15.1.0 && make_classes.py > src/tokenizer/unicode.rs
"""

import unicodedata2

BITS = {"L": 1, "N": 2, "M": 4, "P": 8, "S": 16}

if unicodedata2.unidata_version != "15.1.0":
    raise SystemExit(f"unicodedata2 has Unicode {unicodedata2.unidata_version}, 15.1.0 is wanted")
ranges, last = [], None
for point in range(0x110000):
    bits = BITS.get(unicodedata2.category(chr(point))[0], 0)
    if bits != last:
        ranges.append(f"0x{point << 8 | bits:X}")
        last = bits
print("//! General categories of Unicode 15.1, written by tests/data/tokenizer/make_classes.py: data, not code.\n")
print("/// Where each run of equal category starts: code point in the upper 24 bits; below them 1 letter, 2 number,")
print("/// 4 mark, 8 punctuation, 16 symbol, 0 anything else.")
print("#[rustfmt::skip]")
print(f"pub(super) static RUNS: [u32; {len(ranges)}] = [")
for i in range(0, len(ranges), 10):
    print("    " + ", ".join(ranges[i : i + 10]) + ",")
print("];")
