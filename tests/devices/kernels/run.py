"""Runs the kernel tests on a device: run.py --library LIB --objects FOLDER [PATTERN].

On device host they run twice, with the order of teams and lanes forward and reversed.
"""

import argparse
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", required=True, help="a libamdhip64.so")
    parser.add_argument("--objects", required=True, help="folder of NAME.ARCH.hsaco")
    parser.add_argument("pattern", nargs="?", default="test_*.py")
    parser.add_argument("--only", help="part of a test's name", default="")
    args = parser.parse_args()
    # Allocations end as close to the guard page as vectors allow.
    env = dict(os.environ, ROCMFORGE_HIP_LIBRARY=os.path.abspath(args.library),
               ROCMFORGE_HSACO=os.path.abspath(args.objects), HOSTHIP_ALIGN="16", PYTHONDONTWRITEBYTECODE="1")
    with open(args.library, "rb") as library:
        orders = ["forward", "reverse"] if b"HOSTHIP_ORDER" in library.read() else ["forward"]
    command = [sys.executable, "-m", "unittest", "discover", "-s", str(HERE), "-t", str(HERE), "-p", args.pattern, "-k", args.only]
    for order in orders:
        print(f"order: {order}", flush=True)
        code = subprocess.run(command, env=dict(env, HOSTHIP_ORDER=order)).returncode
        if code:
            sys.exit(1)


if __name__ == "__main__":
    main()
