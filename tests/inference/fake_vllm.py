"""Stub servers that remember adapters as vLLM does, for promotion on several replicas.

What a policy answers is taken from the canary in the folder it was loaded from; the
base answers with the canary's base log-probs. `refuse_loading`, `ignore_adapters`,
`numberless` and `shifted` are faults. The real vLLM is in test_real_vllm.py.
"""

import json
from pathlib import Path
from urllib.parse import urlsplit

from django.db import connections

from tests.factories import make_server
from tests.inference.small_files import CANARY
from tests.inference.stub_server import Stub, chat_answer, send


class FakeVLLM:
    def __init__(self, base):
        self.base = base
        self.adapters = {}
        self.refuse_loading = self.ignore_adapters = False
        self.numberless = False
        """Adapters come to log-probs that are no numbers."""
        self.shifted = 0.0
        """Added to every log-prob of an adapter."""
        self.before_loading = lambda: None
        self.texts = ["yes", "no"]
        self.stub = Stub()
        self.stub.answers = [self.answer]
        self.url = self.stub.url
        self.replica = make_server(base=base, url=self.url, is_managed=True)

    def asked(self, path):
        return [body for _m, p, body, _h in self.stub.requests if p == path]

    def answer(self, handler):
        _method, path, body, _headers = self.stub.requests[-1]
        chat = path == "/v1/chat/completions"
        name = "chat" if chat else urlsplit(path).path.rsplit("/", 1)[-1]
        send(handler, *getattr(self, f"on_{name}")(body))

    def on_health(self, body):
        return 200, ""

    def on_models(self, body):
        base = {"id": self.base.name, "root": self.base.base_model}
        loaded = [{"id": n, "root": path} for n, path in self.adapters.items()]
        return 200, {"data": [base, *loaded]}

    def on_load_lora_adapter(self, body):
        try:
            self.before_loading()
        finally:
            connections.close_all()  # this thread's
        if self.refuse_loading:
            return 500, {"error": {"message": "no slot"}}
        if body["lora_name"] in self.adapters:
            return 400, {"error": {"message": "has already been loaded"}}
        self.adapters[body["lora_name"]] = body["lora_path"]
        return 200, "Success"

    def on_unload_lora_adapter(self, body):
        if self.adapters.pop(body["lora_name"], None) is None:
            return 404, {"error": {"message": "not found"}}
        return 200, "Success"

    def on_completions(self, body):
        if (refusal := self._unknown(body)) is not None:
            return refusal
        ids = body["prompt"]
        is_base = body["model"] == self.base.name or self.ignore_adapters
        if self.numberless and not is_base:
            words = "Out of range float values are not JSON compliant"
            return 400, {"error": {"message": words}}
        canary = CANARY
        if body["model"] in self.adapters:
            folder = Path(self.adapters[body["model"]])
            canary = json.loads((folder / "canary.json").read_text())
        (prompt,) = [p for p in canary["prompts"] if p["token_ids"] == ids]
        values = prompt["base_logprobs" if is_base else "logprobs"]
        shift = 0.0 if is_base else self.shifted
        entries = [
            {str(i): {"logprob": v + shift}}
            for i, v in zip(ids[1:], values, strict=True)
        ]
        return 200, {"choices": [{"prompt_logprobs": [None, *entries]}]}

    def on_tokenize(self, body):
        return 200, {"tokens": [1, 2, 3]}

    def on_chat(self, body):
        return self._unknown(body) or (200, chat_answer(*self.texts[: body["n"]]))

    def _unknown(self, body):
        if body["model"] in (self.base.name, *self.adapters):
            return None
        return 404, {"error": {"message": f"The model {body['model']} does not exist"}}


class FakeFleet(list):
    """`count` servers, named in VLLM_URLS; `close()` when done."""

    def __init__(self, settings, base, count):
        super().__init__(FakeVLLM(base) for _ in range(count))
        settings.VLLM_URLS = [server.url for server in self]

    def close(self):
        for server in self:
            server.stub.close()
