"""Plants mistakes in the kernels and checks that the tests find each: mutants.py --objects FOLDER [FILE].

Each mutant is a copy of the tree's kernels with one change, built for device host. A mutant that
survives means that a test is missing. With FILE (attention.hip) only mutants of that file run.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[2]

# File, what is there, what comes instead, tests that should notice; for matrix products, of which format.
MUTANTS = [
    ("prelude.h", "  barrier();\n  float s = 0.f;", "  float s = 0.f;", "norm"),
    ("prelude.h", "if (first + j * 256 < n) f(", "if (first + j * 256 <= n) f(", "rows"),
    ("norm.hip", "if (g >= n_groups) return;", "if (g > n_groups) return;", "norm"),
    ("norm.hip", "i < n; i += TEAMS * 32) {\n      float v", "i < n - 1; i += TEAMS * 32) {\n      float v", "norm"),
    ("norm.hip", "const f4 v = load4(x, i) - shift;", "const f4 v = load4(x, i);", "norm"),
    ("rotary.h", "rf_fma(frequency[1], position, rest)", "rest", "rope"),
    ("rotary.h", "pairs ? a + 1 : a + n_rot / 2", "a + n_rot / 2", "rope"),
    ("rotary.h", "(q + 1) & 2", "q & 2", "rope"),
    ("rope.hip", "head * 32 + at) * head_dim;", "head * 32) * head_dim;", "rope"),
    ("rope.hip", "for (u32 i = n_rot + tid_x()", "for (u32 i = n_rot + 1 + tid_x()", "rope"),
    ("rope.hip", "head -= n_head_kv;", "", "rope"),
    ("store.hip", "(head * 32 + at) * dim + j", "(at * 32 + head) * dim + j", "store"),
    ("kv_q8_0.h", "[j + at]", "[j]", "store"),
    ("store.hip", "at, i - head * dim)", "at, i % 32)", "store"),
    ("rope.hip", "return e == a ?", "return e < half ?", "rope"),
    ("rope.hip", "e < half ? e : e - half", "e % 32", "rope"),
    ("kv_q8_0.h", "+ j / 32 * 32;", "+ 0 * j;", "attention"),
    ("attention.hip", "at > values.hi ? 0.f", "at > values.hi + 32 ? 0.f", "attention"),
    ("attention.hip", "own < dim ? own : 0", "own", "attention"),
    ("kv_q8_0.h", "next_d = scales[next / 32 * 32]", "next_d = scales[0]", "attention"),
    ("attention_mma.hip", "+ at / 32 * 32;", "+ 0 * at;", "attention"),
    ("attention_mma.hip", "from, m.values);\n      wave_sync();", "from, m.values);", "attention"),
    ("attention.hip", "    ((float*)p)[r * 32 + lane()] = weight;\n  }\n  team_sync();", "    ((float*)p)[r * 32 + lane()] = weight;\n  }", "attention"),
    ("attention.hip", "to[D + 1] = sum;\n      }\n    }\n    barrier();", "to[D + 1] = sum;\n      }\n    }", "attention"),
    ("attention.hip", "rows.acc[start + r][j];\n    barrier();", "rows.acc[start + r][j];", "attention"),
    ("attention.hip", "(t * TOGETHER + r) * (D / 2) + i / 2", "(t * R + r) * (D / 2) + i / 2", "attention"),
    ("attention.hip", "  barrier();\n  if (own", "  if (own", "attention"),
    ("attention.hip", "rows.sum[r] = lane() == 0 ? 1.f : 0.f", "rows.sum[r] = 1.f", "attention"),
    ("attention.hip", "if (window) layer.window--;", "", "attention"),
    ("attention.hip", "position == 0 || window == 1 ? 0", "position == 0 ? 0", "attention"),
    ("attention.hip", "if (block) to_v[i] = (T)value[j];", "if (block) to_v[i] = (T)value[0];", "attention"),
    ("attention.hip", "i = n_rot + tid_x() % 64; i < dim", "i = n_rot + tid_x() % 64; i < dim - 1", "attention"),
    ("attention.hip", "to[r * D + i] = x * a.scale;", "to[r * D + i] = x;", "attention"),
    ("attention.hip", "stored ? nullptr : k", "stored ? k : k", "attention"),
    ("attention.hip", "numbers ? out : nullptr", "numbers ? out : out", "attention"),
    ("attention.hip", "bid_x() * n_head_kv * chunks + bid_y()", "bid_y()", "attention"),
    ("attention.hip", "both == -RF_INF ? 0.f : both", "both", "attention"),
    ("attention.hip", "acc = acc * shrink +", "acc = acc +", "attention"),
    ("attention.hip", "if (n_split == 1) {", "if (n_split <= 2) {", "attention"),
    ("attention.hip", "lane(), 32);\n  }\n  team_sync();", "lane(), 32);\n  }", "attention"),
    ("attention.hip", "seen = at < lo ? lo : at > hi ? hi : at", "seen = at + 0 * (lo + hi)", "attention"),
    ("attention.hip", "if (i % 32 == 0) to.xd", "if (i == 0) to.xd", "attention"),
    ("paged.h", "position >= window ? position + 1 - window", "position >= window ? position - window", "attention"),
    ("attention.hip", "key > position ||", "key > position + 1 ||", "attention"),
    ("attention.hip", "top == -RF_INF ? 0.f : top;\n    const float shrink", "top;\n    const float shrink", "attention"),
    ("attention.hip", "rows.acc[r][j] *= shrink;", "rows.acc[r][j] *= 1.f;", "attention"),
    ("attention.hip", "step = 4 * n_split", "step = 4 * n_split + 1", "attention"),
    ("attention.hip", "if (first >= span.len) return;", "if (first > span.len) return;", "attention"),
    ("attention.hip", "a.q + (r < n ? r : n - 1) * dim", "a.q + (r < n ? r : n) * dim", "attention"),
    ("attention_mma.hip", "tile_col(i)] = s[t][i];\n  wave_sync();", "tile_col(i)] = s[t][i];", "attention"),
    ("attention_mma.hip", "m.shrinks[row] = shrink;\n  wave_sync();", "m.shrinks[row] = shrink;", "attention"),
    ("attention_mma.hip", "c, hi, m.values);\n      wave_sync();", "c, hi, m.values);", "attention"),
    ("attention_mma.hip", "key < hi ?", "key <= hi ?", "attention"),
    ("attention_mma.hip", "key > position ||", "key > position + 1 ||", "attention"),
    ("attention_mma.hip", "a[i] *= k ? 1.f : shrinks[i];", "a[i] *= shrinks[i];", "attention"),
    ("attention_mma.hip", "sums[wave() * 16 + row] = sum;\n  barrier();", "sums[wave() * 16 + row] = sum;", "attention"),
    ("attention_mma.hip", "acc[t][i] * share[i];\n      barrier();", "acc[t][i] * share[i];", "attention"),
    ("gemv.h", "if (row >= n) return;", "if (row > n) return;", "gemv", "q4_0"),
    ("gemv.h", "row -= a.n0;", "row -= a.n0 - 1;", "gemv", "q4_0"),
    ("gemv.h", "  barrier();\n  const u32 c = tid_x();", "  const u32 c = tid_x();", "gemv", "q4_0"),
    ("gemv.h", "if (t.first && residual)", "if (residual)", "gemv", "q4_0"),
    ("gemv.h", "c == 0 || c < n_cols ? c", "c <= n_cols ? c", "gemv", "q4_0"),
    ("gemv.h", "row + r < n ? row + r : n - 1", "row + r < n ? row + r : n", "gemv", "q4_0"),
    ("gemv.h", "p + (DEPTH - 1) * STEP < n", "p + (DEPTH - 1) * STEP <= n", "gemv", "q4_0"),
    ("gemv.h", "i = n * F::PIECE + first; i < k", "i = n * F::PIECE + first; i < k - 1", "gemv", "f16"),
    ("gemv.h", "others = K4 ? n : (n + 3) / 4", "others = K4 ? n : (n + 2) / 4", "gemv", "two_q4_k_q6_k"),
    ("gemv.h", "gemv<G, C>(last, block - others)", "gemv<F, C>(last, block - others)", "gemv", "two_q4_k_q6_k"),
    ("gemv.h", "act ? rf_gelu(g)", "!act ? rf_gelu(g)", "gemv", "q4_0"),
    ("quant/coded.h", "MINS == Mins::Half && (p & 1)", "MINS == Mins::Half && (p & 2)", "gemv", "q4_k"),
    ("quant/coded.h", "0x01010101u * OFFSET) ^", "0x01010101u * (OFFSET - 1)) ^", "gemv", "q6_k"),
    ("quant/coded.h", "(0x100u - OFFSET)", "(0x101u - OFFSET)", "gemv", "q6_k"),
    ("quant/q4_k.h", "(a >> up & 0x3030)", "(a & 0x3030)", "gemv", "q4_k"),
    ("quant/q5_k.h", "high >> 1 & 0x01010101", "high & 0x01010101", "gemv", "q5_k"),
    ("quant/q5_0.h", "w.q.v[0] >> (16 + 4 * z)", "w.q.v[0] >> (4 * z)", "gemv", "q5_0"),
    ("quant/q6_k.h", "const u32 shift = p & 2;", "const u32 shift = (p & 1) * 2;", "gemv", "q6_k"),
    ("quant/q3_k.h", "top >> (g / 2 * 2)", "top", "gemv", "q3_k"),
    ("quant/q2_k.h", "h[g / 2] >> 4 & 0x0f0f0f0f", "h[g / 2] & 0x0f0f0f0f", "gemv", "q2_k"),
    ("gemm.h", "    barrier();\n#pragma unroll\n    for (u32 i = 0; i < 4; i++)", "#pragma unroll\n    for (u32 i = 0; i < 4; i++)", "gemm", "q4_0"),
    ("gemm.h", "    barrier();\n#pragma unroll\n    for (u32 b = 0; b < TILES; b++)\n#pragma unroll\n      for (u32 i = 0", "#pragma unroll\n    for (u32 b = 0; b < TILES; b++)\n#pragma unroll\n      for (u32 i = 0", "gemm", "q4_0"),
    ("gemm.h", "c < n_cols ? c : n_cols - 1", "c", "gemm", "q4_0"),
    ("gemm.h", "row0 + mine < n ? row0 + mine : n - 1", "row0 + mine", "gemm", "q4_0"),
    ("gemm.h", "if (r[i] < n && c[i] < n_cols)", "if (r[i] < n)", "gemm", "q4_0"),
    ("gemm.h", "|| top * factor > 32768.f", "", "gemm", "bf16"),
    ("gemm.h", "if (r != 1.f) acc", "if (false) acc", "gemm", "bf16"),
    ("quant/coded.h", "if (at < k) return words<16, 4>", "if (at <= k) return words<16, 4>", "gemm", "q4_0"),
    ("quant/coded.h", "p < k / 32 ? p : k / 32 - 1", "p < k / 32 + 1 ? p : k / 32 - 1", "gemm", "q4_0"),
    ("quant/float.h", "(at + i < k ? v : 0)", "v", "gemm", "f16"),
    ("quant/float.h", "((const T*)row)[at < k ? at : k - 1]", "((const T*)row)[at <= k ? at : k - 1]", "gemm", "f16"),
    ("quantize.hip", "top_of(weighted(v, w, i, k), top)", "top_of(v, top)", "quantize"),
    ("quantize.hip", "if (i >= k) return;", "if (i > k) return;", "quantize"),
    ("quantize.hip", "if (i % 32 == 0) xd", "if (i % 64 == 0) xd", "quantize"),
    ("embed.hip", "tokens[i] * F::row_bytes", "(tokens[i] + 1) * F::row_bytes", "embed"),
]


def survives(objects, mutant):
    file, old, new, tests, *fmt = mutant
    with tempfile.TemporaryDirectory() as folder:
        tree = pathlib.Path(folder)
        shutil.copytree(ROOT / "kernels", tree / "kernels")
        shutil.copytree(ROOT / "tests/devices", tree / "tests/devices", ignore=shutil.ignore_patterns("target"))
        # Only what the tests need, so that a mutant is built in seconds.
        names = {"rows": ["rows", "activation"], "attention": ["attention", "attention_mma", "quantize"]}
        names = names.get(tests, ["_".join([tests, *fmt]).replace("gemv_two_", "gemv_")])
        for source in (tree / "kernels").glob("*.hip"):
            if source.stem not in names:
                source.unlink()
        path = tree / "kernels" / file
        text = path.read_text()
        if old not in text:
            sys.exit(f"{file}: {old!r} is not there any more")
        path.write_text(text.replace(old, new))
        build = subprocess.run([tree / "tests/devices/host/build.sh", tree / "out"])
        if build.returncode:
            sys.exit(f"{file}: the mutant does not compile")
        command = [sys.executable, tree / "tests/devices/kernels/run.py", "--library", tree / "out/libamdhip64.so",
                   "--objects", objects, f"test_{tests}*.py", "--only", f"test_{fmt[0]}" if fmt else ""]
        return subprocess.run(command, capture_output=True).returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", required=True)
    parser.add_argument("file", nargs="?")
    args = parser.parse_args()
    chosen = [m for m in MUTANTS if args.file in (None, m[0])]
    survivors = [m for m in chosen if survives(str(pathlib.Path(args.objects).resolve()), m)]
    for file, old, new, *_ in survivors:
        print(f"survives: {file}: {old!r} -> {new!r}")
    print(f"{len(chosen)} mutants, {len(survivors)} survive")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
