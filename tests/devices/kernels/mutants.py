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

# File, what is there, what comes instead, tests that should notice.
MUTANTS = [
    ("prelude.h", "  barrier();\n  float s = 0.f;", "  float s = 0.f;", "norm"),
    ("prelude.h", "if (first + j * 256 < n) f(", "if (first + j * 256 <= n) f(", "rows"),
    ("norm.hip", "if (g >= n_groups) return;", "if (g > n_groups) return;", "norm"),
    ("norm.hip", "i < n; i += TEAMS * 32) {\n      float v", "i < n - 1; i += TEAMS * 32) {\n      float v", "norm"),
    ("norm.hip", "const f4 v = load4(x, i) - shift;", "const f4 v = load4(x, i);", "norm"),
    ("rope.hip", "rf_fma(frequency[1], position, rest)", "rest", "rope"),
    ("rope.hip", "pairs ? a + 1 : a + half", "pairs ? a + half : a + half", "rope"),
    ("rope.hip", "(q + 1) & 2", "q & 2", "rope"),
    ("store.hip", "(head * 32 + at) * dim + j", "(at * 32 + head) * dim + j", "store"),
    ("attention.hip", "    ((float*)p)[r * 32 + lane()] = weight;\n  }\n  team_sync();", "    ((float*)p)[r * 32 + lane()] = weight;\n  }", "attention"),
    ("attention.hip", "if (r < n && i == 0) to[D] = top, to[D + 1] = sum;\n    barrier();", "if (r < n && i == 0) to[D] = top, to[D + 1] = sum;", "attention"),
    ("attention.hip", "* shrink;\n    barrier();", "* shrink;", "attention"),
    ("attention.hip", "sums[team() * R + r] = sum;\n  }\n  barrier();", "sums[team() * R + r] = sum;\n  }", "attention"),
    ("attention.hip", "tid_x(), 128);\n  }\n  barrier();", "tid_x(), 128);\n  }", "attention"),
    ("attention.hip", "lane(), 32);\n  }\n  team_sync();", "lane(), 32);\n  }", "attention"),
    ("attention.hip", "(at < lo ? lo : at > hi ? hi : at)", "at", "attention"),
    ("paged.h", "position >= window ? position + 1 - window", "position >= window ? position - window", "attention"),
    ("attention.hip", "key > position ||", "key > position + 1 ||", "attention"),
    ("attention.hip", "top == -RF_INF ? 0.f : top;\n    const float shrink", "top;\n    const float shrink", "attention"),
    ("attention.hip", "rows.acc[r][j] *= shrink;", "rows.acc[r][j] *= 1.f;", "attention"),
    ("attention.hip", "step = 4 * n_split", "step = 4 * n_split + 1", "attention"),
    ("attention.hip", "if (first >= span.len) return;", "if (first > span.len) return;", "attention"),
    ("attention.hip", "first + (r < n ? r : n - 1)", "first + r", "attention"),
    ("attention_mma.hip", "tile_col(i)] = s[t][i];\n  wave_sync();", "tile_col(i)] = s[t][i];", "attention"),
    ("attention_mma.hip", "m.shrinks[row] = shrink;\n  wave_sync();", "m.shrinks[row] = shrink;", "attention"),
    ("attention_mma.hip", "c, hi, m.values);\n      wave_sync();", "c, hi, m.values);", "attention"),
    ("attention_mma.hip", "key < hi ?", "key <= hi ?", "attention"),
    ("attention_mma.hip", "key > position ||", "key > position + 1 ||", "attention"),
    ("attention_mma.hip", "a[i] *= k ? 1.f : shrinks[i];", "a[i] *= shrinks[i];", "attention"),
    ("attention_mma.hip", "sums[wave() * 16 + row] = sum;\n  barrier();", "sums[wave() * 16 + row] = sum;", "attention"),
    ("attention_mma.hip", "acc[t][i] * share[i];\n      barrier();", "acc[t][i] * share[i];", "attention"),
]


def survives(objects, mutant):
    file, old, new, tests = mutant
    with tempfile.TemporaryDirectory() as folder:
        tree = pathlib.Path(folder)
        shutil.copytree(ROOT / "kernels", tree / "kernels")
        shutil.copytree(ROOT / "tests/devices", tree / "tests/devices", ignore=shutil.ignore_patterns("target"))
        # Only what the tests need, so that a mutant is built in seconds.
        names = {"rows": ["rows", "activation"], "attention": ["attention", "attention_mma"]}.get(tests, [tests])
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
                   "--objects", objects, f"test_{tests}*.py"]
        return subprocess.run(command, capture_output=True).returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", required=True)
    parser.add_argument("file", nargs="?")
    args = parser.parse_args()
    chosen = [m for m in MUTANTS if args.file in (None, m[0])]
    survivors = [m for m in chosen if survives(str(pathlib.Path(args.objects).resolve()), m)]
    for file, old, new, _ in survivors:
        print(f"survives: {file}: {old!r} -> {new!r}")
    print(f"{len(chosen)} mutants, {len(survivors)} survive")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
