"""The official `openai` client against a daemon: its own (daemon.py says which), or a running one.

    python3 -m venv .venv && .venv/bin/pip install -r tests/requirements.txt
    .venv/bin/python -m unittest discover -s tests/client -v
    ROCMFORGE_TEST_URL=http://127.0.0.1:11535/v1 ROCMFORGE_TEST_MODEL=<id> \
        .venv/bin/python -m unittest discover -s tests/client -v

The model is an instruction-tuned one that knows some capitals (the tests' own is
Qwen2.5-Coder-1.5B-Instruct-Q4_K_M). Nothing is retried: an error is seen as it is.
"""

import concurrent.futures
import json
import os
import shutil
import tempfile
import time
import unittest
import urllib.error
import urllib.request

import openai

from daemon import Daemon, test_models

URL = os.environ.get("ROCMFORGE_TEST_URL")
MODEL = os.environ.get("ROCMFORGE_TEST_MODEL", "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M")
CAPITALS = {
    "Italy": "Rome",
    "France": "Paris",
    "Spain": "Madrid",
    "Germany": "Berlin",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Russia": "Moscow",
    "Greece": "Athens",
}


def setUpModule():
    """Without a running daemon, one for this module's tests; the last of them over, it must end well."""
    global URL
    if URL:
        return
    # The model alone: nothing else that the folder holds may turn up.
    folder = tempfile.mkdtemp(prefix="rocmforge-models-")
    unittest.addModuleCleanup(shutil.rmtree, folder)
    os.symlink(test_models() / f"{MODEL}.gguf", os.path.join(folder, f"{MODEL}.gguf"))
    daemon = Daemon(models=[folder])
    unittest.addModuleCleanup(daemon.remove)
    daemon.start()
    unittest.addModuleCleanup(daemon.stop)
    URL = daemon.base + "/v1"


def client():
    return openai.OpenAI(base_url=URL, api_key="none", max_retries=0, timeout=300)


def question(country):
    return [{"role": "user", "content": f"What is the capital of {country}? Answer with its name only."}]


def get(path):
    """Status and JSON body of a path beside /v1."""
    try:
        with urllib.request.urlopen(URL.removesuffix("/v1") + path, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as e:
        return e.code, json.load(e)


class Chat(unittest.TestCase):
    def setUp(self):
        self.client = client()

    def test_whole(self):
        answer = self.client.chat.completions.create(
            model=MODEL, messages=question("Italy"), temperature=0, max_tokens=16
        )
        self.assertEqual(answer.object, "chat.completion")
        self.assertIn("Rome", answer.choices[0].message.content)
        self.assertEqual(answer.choices[0].message.role, "assistant")
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        usage = answer.usage
        self.assertGreater(usage.prompt_tokens, 5)
        self.assertGreater(usage.completion_tokens, 0)
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
        self.assertLessEqual(usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens)
        self.assertGreater(answer.timings["predicted_n"], 0)

    def test_stream_is_the_whole(self):
        fields = dict(model=MODEL, messages=question("France"), temperature=0, max_tokens=24)
        whole = self.client.chat.completions.create(**fields)
        chunks = list(
            self.client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True})
        )
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)
        self.assertTrue(all(chunk.usage is None for chunk in chunks[:-1]))
        self.assertEqual({chunk.id for chunk in chunks}, {chunks[0].id})
        choices = [choice for chunk in chunks for choice in chunk.choices]
        text = "".join(choice.delta.content or "" for choice in choices)
        self.assertEqual(text, whole.choices[0].message.content)
        reasons = [choice.finish_reason for choice in choices if choice.finish_reason]
        self.assertEqual(reasons, [whole.choices[0].finish_reason])

    def test_second_time_comes_from_the_cache(self):
        fields = dict(model=MODEL, temperature=0, max_tokens=4)
        messages = [{"role": "user", "content": "Repeat: " + "one two three four " * 40}]
        self.client.chat.completions.create(messages=messages, **fields)
        again = self.client.chat.completions.create(messages=messages, **fields)
        cached = again.usage.prompt_tokens_details.cached_tokens
        self.assertGreater(cached, again.usage.prompt_tokens // 2)

    def test_length_stop_and_seed(self):
        create = self.client.chat.completions.create
        fields = dict(model=MODEL, messages=[{"role": "user", "content": "Count from 1 to 50."}])
        cut = create(**fields, temperature=0, max_completion_tokens=5)
        self.assertEqual((cut.choices[0].finish_reason, cut.usage.completion_tokens), ("length", 5))
        stopped = create(**fields, temperature=0, stop=["7"], max_tokens=100)
        self.assertEqual(stopped.choices[0].finish_reason, "stop")
        self.assertNotIn("7", stopped.choices[0].message.content)
        seeded = [create(**fields, temperature=1.2, seed=42, max_tokens=12) for _ in range(2)]
        self.assertEqual(*(answer.choices[0].message.content for answer in seeded))

    def test_choices(self):
        answer = self.client.chat.completions.create(
            model=MODEL, messages=question("Spain"), n=3, temperature=0, max_tokens=8
        )
        self.assertEqual([choice.index for choice in answer.choices], [0, 1, 2])
        for choice in answer.choices:
            self.assertIn("Madrid", choice.message.content)

    def test_logprobs(self):
        answer = self.client.chat.completions.create(
            model=MODEL, messages=question("Japan"), temperature=0, logprobs=True, top_logprobs=3, max_tokens=8
        )
        content = answer.choices[0].logprobs.content
        self.assertEqual(b"".join(bytes(t.bytes) for t in content).decode(), answer.choices[0].message.content)
        for token in content:
            self.assertLessEqual(token.logprob, 0)
            self.assertEqual(len(token.top_logprobs), 3)
            # Greedy: the chosen token is the likeliest.
            self.assertEqual(token.token, token.top_logprobs[0].token)

    def test_a_client_that_leaves_a_stream_leaves_no_request_behind(self):
        stream = self.client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Write a very long story."}], stream=True
        )
        next(iter(stream))
        stream.close()
        began = time.monotonic()
        self.client.chat.completions.create(model=MODEL, messages=question("Italy"), max_tokens=4)
        self.assertLess(time.monotonic() - began, 120)


class Completions(unittest.TestCase):
    def setUp(self):
        self.client = client()

    def test_prompts_of_every_form(self):
        create = self.client.completions.create
        fields = dict(model=MODEL, temperature=0, max_tokens=4)
        prompt = "The capital of Italy is"
        one = create(prompt=prompt, **fields)
        self.assertEqual(one.object, "text_completion")
        several = create(prompt=[prompt, prompt], **fields)
        self.assertEqual([choice.text for choice in several.choices], [one.choices[0].text] * 2)
        echoed = create(prompt=prompt, echo=True, **fields)
        self.assertEqual(echoed.choices[0].text, prompt + one.choices[0].text)

    def test_stream_and_logprobs(self):
        create = self.client.completions.create
        fields = dict(model=MODEL, prompt="The capital of France is", temperature=0, max_tokens=6)
        whole = create(**fields, logprobs=2)
        streamed = "".join(chunk.choices[0].text for chunk in create(**fields, stream=True))
        self.assertEqual(streamed, whole.choices[0].text)
        logprobs = whole.choices[0].logprobs
        self.assertEqual("".join(logprobs.tokens), whole.choices[0].text)
        self.assertEqual(logprobs.text_offset[0], 0)
        self.assertTrue(all(len(top) in (2, 3) for top in logprobs.top_logprobs))


class Models(unittest.TestCase):
    def test_list_and_one(self):
        models = {model.id: model for model in client().models.list()}
        self.assertIn(MODEL, models)
        model = client().models.retrieve(MODEL)
        self.assertEqual(model.owned_by, "rocmforge")
        self.assertGreater(model.created, 1_500_000_000)
        self.assertGreater(model.meta["size"], 0)
        self.assertIn(model.state, ["absent", "queued", "loading", "ready"])


class Errors(unittest.TestCase):
    def setUp(self):
        self.client = client()

    def refused(self, kind, **fields):
        defaults = dict(model=MODEL, messages=[{"role": "user", "content": "x"}], max_tokens=1)
        with self.assertRaises(kind) as caught:
            self.client.chat.completions.create(**{**defaults, **fields})
        return caught.exception

    def test_unknown_model(self):
        error = self.refused(openai.NotFoundError, model=MODEL + "x")
        self.assertEqual((error.code, error.param), ("model_not_found", "model"))
        self.assertIn(MODEL, error.message)
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("no-such-model")

    def test_wrong_values_name_the_field(self):
        for field, value in [("temperature", 3), ("top_p", "x"), ("n", 0), ("max_tokens", 0), ("messages", [])]:
            error = self.refused(openai.BadRequestError, **{field: value})
            self.assertEqual((error.param, error.type), (field, "invalid_request_error"))

    def test_what_is_not_built_has_a_code(self):
        error = self.refused(openai.BadRequestError, tool_choice="required")
        self.assertEqual((error.code, error.param), ("unsupported_value", "tool_choice"))
        error = self.refused(openai.BadRequestError, response_format={"type": "json_object"})
        self.assertEqual((error.code, error.param), ("unsupported_value", "response_format"))
        picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
        error = self.refused(openai.BadRequestError, messages=[{"role": "user", "content": picture}])
        self.assertEqual(error.code, "unsupported_value")
        self.assertTrue(error.param.startswith("messages[0]"), error.param)

    def test_an_overlong_prompt_is_refused_with_both_numbers(self):
        # Far beyond any context of the test models, and below http.max_body.
        error = self.refused(openai.BadRequestError, messages=[{"role": "user", "content": "many words " * 300_000}])
        self.assertEqual((error.code, error.param), ("context_length_exceeded", "messages"))
        self.assertIn(str(error.body["n_prompt_tokens"]), error.message)
        self.assertIn(str(error.body["n_ctx"]), error.message)

    def test_a_stream_is_refused_with_a_status(self):
        error = self.refused(openai.NotFoundError, model="no-such-model", stream=True)
        self.assertEqual(error.status_code, 404)


class Together(unittest.TestCase):
    def test_eight_clients_get_right_answers(self):
        def ask(item):
            country, capital = item
            stream = client().chat.completions.create(
                model=MODEL, messages=question(country), temperature=0, max_tokens=16, stream=True
            )
            text = "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)
            return capital, text

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for capital, text in pool.map(ask, CAPITALS.items()):
                self.assertIn(capital, text)


class Probes(unittest.TestCase):
    def test_health_and_liveness(self):
        status, body = get("/health")
        self.assertEqual((status, body["status"], body["devices"][-1]["id"]), (200, "ok", "cpu"))
        self.assertEqual(get("/live")[0], 200)
        status, body = get("/nothing")
        self.assertEqual((status, body["error"]["code"]), (404, "unknown_url"))


if __name__ == "__main__":
    unittest.main()
