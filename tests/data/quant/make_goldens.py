"""Writes <type>.blocks (random blocks as a GGUF file holds them) and <type>.f32 (their values).

The values are those of PyPI gguf's numpy dequantizers, which match ggml bit for bit.
Run: pip install gguf==0.19.0 numpy && python make_goldens.py
"""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGML_QUANT_SIZES, quants

# Where each type keeps its f16 scales within a block: everything else may be any bytes.
SCALES = {
    Type.Q4_0: [0],
    Type.Q4_1: [0, 2],
    Type.Q5_0: [0],
    Type.Q5_1: [0, 2],
    Type.Q8_0: [0],
    Type.Q2_K: [80, 82],
    Type.Q3_K: [108],
    Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2],
    Type.Q6_K: [208],
}
WEIGHTS = 1024


def scale(rng: np.random.Generator, n: int) -> np.ndarray:
    """Scales of both signs over several magnitudes, denormal f16 among them."""
    value = rng.choice([-1.0, 1.0], n) * 10.0 ** rng.uniform(-6.5, 1.0, n)
    return value.astype(np.float16)


def blocks(rng: np.random.Generator, kind: Type) -> np.ndarray:
    elements, size = GGML_QUANT_SIZES[kind]
    n = WEIGHTS // elements
    data = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for at in SCALES[kind]:
        data[:, at : at + 2] = scale(rng, n).view(np.uint8).reshape(n, 2)
    return data


def floats(rng: np.random.Generator, kind: Type) -> np.ndarray:
    value = (rng.choice([-1.0, 1.0], WEIGHTS) * 10.0 ** rng.uniform(-7, 4, WEIGHTS)).astype(np.float32)
    return quants.quantize(value.reshape(1, -1), kind).view(np.uint8)


def main() -> None:
    here = Path(__file__).parent
    rng = np.random.default_rng(20261125)
    for kind in [Type.F32, Type.F16, Type.BF16, *SCALES]:
        data = blocks(rng, kind) if kind in SCALES else floats(rng, kind)
        values = quants.dequantize(data.reshape(1, -1) if kind != Type.F32 else data.view(np.float32), kind)
        name = kind.name.lower()
        (here / f"{name}.blocks").write_bytes(data.tobytes())
        (here / f"{name}.f32").write_bytes(values.astype("<f4").tobytes())


if __name__ == "__main__":
    main()
