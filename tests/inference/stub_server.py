"""A local HTTP server that answers as a test tells it: the wire format, without vLLM.

`stub.answers` is a list of replies, used up in order; when it is empty the last one is
repeated. A reply is (status, body) or a function of the handler. `stub.requests` holds
what came in.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Stub:
    def __init__(self):
        self.requests = []
        self.answers = []
        self.released = threading.Event()
        """Set at the end, so that a handler that hangs ends too."""
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.answer(None)

            def do_POST(self):
                length = int(self.headers.get("Content-Length", 0))
                self.answer(json.loads(self.rfile.read(length)))

            def answer(self, body):
                stub.requests.append((self.command, self.path, body, self.headers))
                reply = (
                    stub.answers.pop(0) if len(stub.answers) > 1 else stub.answers[0]
                )
                if callable(reply):
                    reply(self)
                else:
                    send(self, *reply)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self):
        """May be called again."""
        if self.released.is_set():
            return
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def send(handler, status, body):
    """Any body but text is sent as JSON."""
    data = body if isinstance(body, str) else json.dumps(body)
    encoded = data.encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(encoded)))
    handler.end_headers()
    handler.wfile.write(encoded)


def break_off(handler):
    """Close the connection without an answer."""
    handler.close_connection = True
    handler.connection.close()


def chat_answer(*texts, reasons=None, prompt_token_ids=(1, 2, 3)):
    """vLLM's answer to a chat request: each text has two tokens, of -0.5 and -0.25."""
    reasons = reasons or ["stop"] * len(texts)
    return {
        "choices": [
            {
                "index": i,
                "message": {"role": "assistant", "content": text},
                "finish_reason": reason,
                "token_ids": [10 + i, 2],
                "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -0.25}]},
            }
            for i, (text, reason) in enumerate(zip(texts, reasons, strict=True))
        ],
        "prompt_token_ids": list(prompt_token_ids),
    }


@pytest.fixture
def stub():
    stub = Stub()
    yield stub
    stub.close()
