#!/usr/bin/env python3
"""Writes the goldens of src/tokenizer/tests.rs: ids and texts by llama.cpp (PyPI llama-cpp-python) on real vocabularies.

    make_goldens.py                      all of tests/data/tokenizer/*.json
    make_goldens.py --fuzz N [--seed S] DIR     N random texts a vocabulary, same format, into DIR;
                                         check with ROCMFORGE_TEST_TOKENIZER_GOLDENS=DIR cargo test tokenizer::tests::golden

A result of at most 12 ids is kept as it is; a longer one as "count:fnv1a64 of the ids as little-endian u32".
"""

import argparse
import ctypes
import json
import os
import random
import struct
import sys
import tempfile
from pathlib import Path

import llama_cpp as ll

HERE = Path(__file__).parent
BASE = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
MODELS = Path(os.environ.get("ROCMFORGE_TEST_MODELS") or Path(BASE) / "rocmforge" / "test-models")

# Real vocabularies of the kinds that are supported.
VOCABULARIES = [
    "aquila", "baichuan", "command-r", "deepseek-coder", "deepseek-llm", "falcon", "gemma-4", "gpt-2", "gpt-neox",
    "llama-bpe", "llama-spm", "mpt", "phi-3", "qwen2", "qwen35", "refact", "starcoder",
]  # fmt: skip
REAL = {"gemma-3": "gemma-3-270m-Q4_K_M.gguf", "qwen2.5-coder": "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M.gguf"}
# One name of every other family of pre-tokenizers, tried on the tokens of gpt-2.
FAMILIES = [
    "afmoe", "bailingmoe", "bloom", "chameleon", "deepseek-v3", "exaone-moe", "gpt-4o", "granite-embed-multi-97m",
    "jais-2", "kimi-k2", "laguna", "minicpm5", "seed-coder", "spark2_5", "superbpe", "tekken", "tiny_aya", "ufakzeka",
    "viking", "youtu", "chatglm-bpe", "dbrx", "glm4",
]  # fmt: skip

TEXTS = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\n\n\n", "\r\n", "\r\n\r\n", " \n", "\n ", "\t\n\t", "  \n  \n  ",
    "Hello", " Hello", "Hello ", "  Hello", "Hello World", " Hello World!", "Hello, y'all! How are you?",
    "The quick brown fox jumps over the lazy dog.", "I'm sure you'll say we've they'd he's can't", "I'M SURE YOU'LL WE'VE",
    "don't 'tis ''' 's 't 're 've 'm 'll 'd 'S 'LL", "'ſ 'K", "it’s “quoted” – dash — ellipsis…",
    "0 1 12 123 1234 12345 123456 1234567 12345678", "3.14159265 -1e10 0xFF 1,000,000.50 50%", "x1y22z333", "٠١٢٣ ①② ½ Ⅷ 一二三",
    "a  b   c    d     e", "tab\tseparated\tvalues\t\tend", "line\nline\r\nline\rline\n\n\nend\n", "trailing   ", "trailing\n\n  \n",
    "a\u00a0b\u00a0\u00a0c\u3000d\u3000\u3000e", "a\u2003\u2009b\u2028c\u2029d\u0085e", "   \u3000\u3000\u3000", " \u2003\u3001\u3000x\u1680", "zero\u200bwidth\u200d\ufeffjoin\u2060er",
    "lone\x00controls\x01\x07\x08\x0b\x0c\x1b\x7f end", "\x1c\x1d\x1e\x1f", "é e\u0301 ñ n\u0303 ü ö ß ø å", "Ünïcödé Ŧëxt ẞ",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘", "\u0301start", " \u0301", "\u0301\u0302",
    "😀 😃👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇮🇹🇯🇵 ☺️ ❤️‍🔥 1️⃣", "🦙.cpp 🚀(normal) 😶‍🌫️(multiple)", "汉字漢字 日本語テキスト かなカナ 한국어 텍스트", "我想在apple工作1314151天～",
    "你好，世界！这是一个测试。", "東京タワーは333メートルです。", "안녕하세요 세계", "مرحبا بالعالم كيف حالك؟ ١٢٣", "नमस्ते दुनिया क्या हाल है", "สวัสดีชาวโลก", "ကြည့်ရှု ဘာသာစကား",
    "Привет, мир! Как дела?", "Γειά σου Κόσμε", "שלום עולם", "Xin chào thế giới", "ქართული ენა", "ꦲꦏ꧀ꦱꦫ", "𐐷𐐲𐑌 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒳",
    "𠀀𠀁 㐀 豈 ﹏ ！＂＃ ～ ﾊﾝｶｸ ＡＢＣ１２３", "ㄅㄆㄇ 、。〃 ︰", "\u2ebf0\U0002ebf0\U0002ee5d\u0897\ua7cb\U00011f00\U0001fae9",
    "def f(x):\n    return x**2 + 1  # square\n\n\nclass A:\n\tpass\n",
    "fn main() {\n    let v: Vec<u32> = (0..10).map(|i| i * 2).collect();\n    println!(\"{:?}\", v);\n}\n",
    "#include <stdio.h>\nint main(void) {\n\tprintf(\"hi\\n\");\n\treturn 0;\n}\n", "for (let i=0;i<10;++i){console.log(`${i}`)} // js\n/* c */",
    "<div class=\"a\"><b>x</b><br/></div>\n<td></td>", "SELECT * FROM t WHERE a >= 1 AND b != 'x';", "a+b==c&&d||!e?f:g->h::i<<2>>=3",
    "https://example.com/path?q=1&r=%20#frag user@host.org C:\\Windows\\x", "{\"a\": [1, 2.5, null, true], \"b\": {\"c\": \"d\"}}", "$x = $y_z['k'] => @w; \\n \\t",
    "CamelCaseWord snake_case_word kebab-case-word SCREAMING_CASE HTTPServer2", "ǅ ǈ ʰʱ ªº", "АБВгд éÉ ΑΒΓ αβγ",
    "<s>", "</s>", "<unk>", "<s> Hello </s>", "<|endoftext|>", "a<|endoftext|>b", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou<|eot_id|>", "<start_of_turn>user\nHi<end_of_turn>\n<bos><eos><pad>",
    "<|user|>\nHello<|end|>\n<|assistant|>  \n x", "<|system|>   \n\n y<|end|>   z", "<fim_prefix>a<fim_suffix>b<fim_middle>", "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>",
    "<|im_start", "|im_end|>", "<<|im_end|>>", "<|im_end|><|im_end|>", " <|im_end|> ", "<0x0A><0xFF>", "[INST] x [/INST]", "▁▁a▁b ▁ c", "<unused0><unused12>", "<h1><mask>[multimodal]",
    "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi<|END_OF_TURN_TOKEN|>", "<｜begin▁of▁sentence｜>x<｜end▁of▁sentence｜>", "<|turn>user<turn|><|tool_response>", "<tool_call>{}</tool_call><think>",
    "\n" * 40, " " * 100, "\t" * 33, " \n" * 50, "a" * 300, "ab" * 300, "7" * 100, "!" * 200, "é" * 150, "漢" * 200, "😀" * 60, "=" * 129, "\u3000" * 20,
    " a" * 100, "\r\n" * 30, "x\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\ny", "a" + " " * 31 + "b", "the " * 50, "-" * 64 + "\n" + "-" * 64,
    "\n =\n  ==\n\n\n\n🚀 (normal) 😶‍🌫️ (multiple emojis concatenated) ✅ 🦙🦙 3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ ------======= нещо на Български ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL",
]  # fmt: skip


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def kept(ids, most=12):
    return list(ids) if len(ids) <= most else f"{len(ids)}:{fnv(struct.pack(f'<{len(ids)}I', *ids))}"


@ll.llama_log_callback
def quiet(level, text, data):
    pass


class Vocabulary:
    def __init__(self, path):
        params = ll.llama_model_default_params()
        params.vocab_only = True
        self.model = ll.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            sys.exit(f"{path}: llama.cpp does not load it")
        self.vocab = ll.llama_model_get_vocab(self.model)
        self.n = ll.llama_vocab_n_tokens(self.vocab)

    def close(self):
        ll.llama_model_free(self.model)

    def ids(self, text, add, parse):
        data = text.encode()
        buffer = (ll.llama_token * (len(data) * 2 + 16))()
        n = ll.llama_tokenize(self.vocab, data, len(data), buffer, len(buffer), add, parse)
        assert n >= 0
        return list(buffer[:n])

    def piece(self, token, special=True):
        buffer = ctypes.create_string_buffer(1024)
        n = ll.llama_token_to_piece(self.vocab, token, buffer, 1024, 0, special)
        assert n >= 0
        return buffer.raw[:n]

    def text(self, ids, special):
        # llama_detokenize also "cleans up" spaces where a vocabulary asks for it, which loses text: only
        # SentencePiece's leading space is wanted of it.
        if ll.llama_vocab_type(self.vocab) != ll.LLAMA_VOCAB_TYPE_SPM:
            return b"".join(self.piece(t, special) for t in ids)
        array = (ll.llama_token * len(ids))(*ids)
        buffer = ctypes.create_string_buffer(1 << 16)
        n = ll.llama_detokenize(self.vocab, array, len(ids), buffer, 1 << 16, False, special)
        assert n >= 0
        return buffer.raw[:n]


def with_pre(path, pre, target):
    """A copy of a vocabulary-only file that names another pre-tokenizer."""
    data = path.read_bytes()
    key = b"tokenizer.ggml.pre"
    at = data.index(struct.pack("<Q", len(key)) + key) + 8 + len(key) + 4
    (old,) = struct.unpack_from("<Q", data, at)
    name = pre.encode()
    target.write_bytes(data[:at] + struct.pack("<Q", len(name)) + name + data[at + 8 + old :])
    return target


def golden(path, name, texts, pre=None, most=12):
    vocabulary = Vocabulary(path)
    bos = eos = None
    raw, special = [], []
    for text in texts:
        plain = vocabulary.ids(text, False, False)
        parsed = vocabulary.ids(text, False, True)
        for ids, parse in ((plain, False), (parsed, True)):
            added = vocabulary.ids(text, True, parse)
            if bos is None:  # the first text is empty
                bos, eos = added, []
                if len(added) > 1:
                    bos, eos = added[:1], added[1:]
            assert added == bos + ids + eos, (name, text)
        raw.append(kept(plain, most))
        special.append(None if parsed == plain else kept(parsed, most))
    out = {"vocabulary": name, "bos": bos, "eos": eos, "raw": raw, "special": special}
    if pre:
        out["pre"] = pre
    out["eog"] = [t for t in range(vocabulary.n) if ll.llama_vocab_is_eog(vocabulary.vocab, t)]
    if not pre:
        rng = random.Random(7)
        pieces = {}
        for _ in range(12):
            ids = [rng.randrange(vocabulary.n) for _ in range(rng.randrange(1, 9))]
            # llama.cpp spells some tokens of command-r as an error message; we give their text.
            ids = [t for t in ids if b"UNK_BYTE" not in vocabulary.piece(t)]
            pieces[" ".join(map(str, ids))] = [vocabulary.text(ids, s).hex() for s in (True, False)]
        out["detokenized"] = pieces
        every = b"".join(p for t in range(vocabulary.n) if b"UNK_BYTE" not in (p := vocabulary.piece(t)))
        out["pieces"] = fnv(every)
    vocabulary.close()
    return out


def random_texts(n, seed):
    rng = random.Random(seed)
    some = [t for t in TEXTS if t]
    blocks = [(0x20, 0x7E)] * 6 + [(0, 0x2FF), (0x300, 0x36F), (0x370, 0x5FF), (0x600, 0x6FF), (0x900, 0xDFF), (0xE00, 0xFFF), (0x1000, 0x1FFF), (0x2000, 0x2BFF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFFEF), (0x10000, 0x1FFFF), (0x1F300, 0x1FAFF), (0x20000, 0x323AF)]  # fmt: skip
    joins = ["", "", " ", "  ", "\n", "\t", "'s", "'LL", "1", "123", "\u00a0", "▁", "\r\n", "<|im_end|>", "</s>", "<s>", ".", "é"]
    for _ in range(n):
        parts = []
        for _ in range(rng.randrange(1, 7)):
            way = rng.randrange(4)
            if way == 0:
                text = rng.choice(some)
                start = rng.randrange(len(text))
                parts.append(text[start : start + rng.randrange(1, 20)])
            elif way == 1:
                low, high = rng.choice(blocks)
                points = (rng.randint(low, high) for _ in range(rng.randrange(1, 8)))
                parts.append("".join(chr(p) for p in points if not 0xD800 <= p < 0xE000))
            elif way == 2:
                parts.append(rng.choice(joins) * rng.randrange(1, 5))
            else:
                parts.append("".join(rng.choice("aAbB1 2'\n\t.é漢.-_😀\u0301\u200d") for _ in range(rng.randrange(1, 12))))
        yield "".join(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fuzz", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("into", nargs="?", type=Path, default=HERE)
    args = parser.parse_args()
    ll.llama_log_set(quiet, None)
    texts = ["", *random_texts(args.fuzz, args.seed)] if args.fuzz else TEXTS
    folder = MODELS / "vocabularies"
    args.into.mkdir(parents=True, exist_ok=True)

    def write(name, value):
        lines = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        (args.into / f"{name}.json").write_text(lines + "\n")
        print(name, flush=True)

    write("texts", texts)
    for name in VOCABULARIES:
        write(name, golden(folder / f"ggml-vocab-{name}.gguf", f"vocabularies/ggml-vocab-{name}.gguf", texts))
    for name, file in REAL.items():
        write(name, golden(MODELS / file, file, texts))
    with tempfile.TemporaryDirectory() as tmp:
        base = "vocabularies/ggml-vocab-gpt-2.gguf"
        for pre in FAMILIES:
            path = with_pre(MODELS / base, pre, Path(tmp) / f"{pre}.gguf")
            write(f"pre-{pre}", golden(path, base, texts, pre, most=0 if not args.fuzz else 12))


if __name__ == "__main__":
    main()
