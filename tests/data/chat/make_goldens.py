#!/usr/bin/env python3
"""Writes the goldens of src/chat/tests.rs: renderings of real chat templates by jinja2, set up as transformers does.

    make_goldens.py          writes conversations.json and renderings.json here

The templates are those that tests/models/fetch.py puts with the vocabularies. A rendering is kept as
"bytes:fnv1a64", that of the templates in FULL as text; a refusal as "raised: message", another error as "failed".
"""

import datetime
import json
import os
import re
from pathlib import Path

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = Path(__file__).parent
BASE = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
MODELS = Path(os.environ.get("ROCMFORGE_TEST_MODELS") or Path(BASE) / "rocmforge" / "test-models")
NOW = datetime.datetime(2026, 10, 5, 12, 30, 7)
FULL = ["Qwen-Qwen2.5-7B-Instruct", "google-gemma-2-2b-it", "meta-llama-Llama-3.1-8B-Instruct", "LFM2-8B-A1B"]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city — in °C & <words>",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name, e.g. 'Roma'"},
                "days": {"type": "integer", "default": 1, "minimum": 0},
                "unit": {"type": "string", "enum": ["c", "f"]},
                "near": {"type": "object", "properties": {"km": {"type": "number", "default": 2.5}}, "required": []},
                "tags": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["city"],
        },
    },
}
NOTHING = {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}}}


def call(name, arguments, id="call00001"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


SYSTEM = {"role": "system", "content": "You are terse.\nAnswer in  Italian. "}
CONVERSATIONS = {
    "user": {"messages": [user("What is the capital of Italy?")]},
    "system": {"messages": [SYSTEM, user(" Ciao! \n")]},
    "turns": {"messages": [SYSTEM, user("Hi"), assistant("Hello 😀\n\nCiao 'x' \"y\" <b>&amp;</b>"), user("1+1?"), assistant("2"), user("汉字?\n")]},
    "ends": {"messages": [user("Hi"), assistant("Hello")], "add_generation_prompt": False},
    "late_system": {"messages": [user("Hi"), assistant("Hello"), SYSTEM, user("again")]},
    "two_users": {"messages": [user("a"), user("b")]},
    "tools": {"messages": [user("Weather in Rome?")], "tools": [WEATHER, NOTHING]},
    "tool_turns": {
        "messages": [
            SYSTEM,
            user("Weather in Rome?"),
            assistant("", tool_calls=[call("get_weather", {"city": "Roma", "days": 2, "near": {"km": 1.0}, "tags": ["è", None, True]})]),
            {"role": "tool", "tool_call_id": "call00001", "name": "get_weather", "content": '{"temp": 21.5, "sky": "sereno"}'},
            assistant("21.5 °C"),
            user("And now?"),
        ],
        "tools": [WEATHER, NOTHING],
    },
    "two_calls": {
        "messages": [
            user("Both"),
            assistant(None, tool_calls=[call("now", {}), call("get_weather", {"city": "Bari"}, "call00002")]),
            {"role": "tool", "tool_call_id": "call00001", "name": "now", "content": "12:30"},
            {"role": "tool", "tool_call_id": "call00002", "name": "get_weather", "content": "rain"},
        ],
        "tools": [WEATHER, NOTHING],
    },
    "reasoning": {"messages": [user("2+2"), assistant("4", reasoning_content="Easy.\nFour."), user("3+3")]},
    "inline_reasoning": {"messages": [user("2+2"), assistant("<think>\nEasy\n</think>\n\n4"), user("3+3")], "extra": {"enable_thinking": False}},
    "thinking": {"messages": [SYSTEM, user("2+2")], "extra": {"enable_thinking": True, "reasoning_effort": "high", "thinking": True}},
}  # fmt: skip


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller):
        return caller()


class Raised(Exception):
    pass


def environment():
    def raise_exception(message):
        raise Raised(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.filters["from_json"] = json.loads
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: NOW.strftime(form)
    return env


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def render(template, conversation, full):
    context = {
        "messages": conversation["messages"],
        "tools": conversation.get("tools"),
        "add_generation_prompt": conversation.get("add_generation_prompt", True),
        "bos_token": "<s>",
        "eos_token": "</s>",
        **conversation.get("extra", {}),
    }
    try:
        text = template.render(**context)
    except Raised as e:
        return f"raised: {e}"
    except Exception:  # whatever Python throws: the template fails
        return "failed"
    data = text.encode()
    return text if full else f"{len(data)}:{fnv(data)}"


def main():
    (HERE / "conversations.json").write_text(json.dumps(CONVERSATIONS, ensure_ascii=False, indent=1) + "\n")
    env, out = environment(), {}
    for path in sorted((MODELS / "vocabularies" / "templates").glob("*.jinja")):
        source = path.read_text()
        try:
            template = env.from_string(source)
        except jinja2.TemplateSyntaxError:
            out[path.stem] = None
            continue
        out[path.stem] = {name: render(template, c, path.stem in FULL) for name, c in CONVERSATIONS.items()}
    text = json.dumps(out, ensure_ascii=False, indent=0)
    (HERE / "renderings.json").write_text(re.sub(r"\n(?=[}\]])", "", text) + "\n")


if __name__ == "__main__":
    main()
