"""A server on this machine that speaks OpenAI's chat API, for tests: real HTTP, answers as each test has them."""

import base64
import io
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image


def completion(text, top=None, **choice):
    """A completion in the form of vLLM; `top` are its first token's likeliest ones."""
    told = None
    if top is not None:
        ranked = [{"token": t, "logprob": lp, "bytes": [*t.encode()]} for t, lp in top]
        told = {"content": [{**ranked[0], "top_logprobs": ranked}]}
    message = {"role": "assistant", "content": text}
    whole = {"index": 0, "message": message, "logprobs": told, "finish_reason": "stop", "stop_reason": None, **choice}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [whole]}


class Request:
    """What was asked, as the server saw it."""

    def __init__(self, path, headers, body):
        self.path, self.headers, self.body = path, headers, body
        parts = body["messages"][0]["content"]
        self.text = "".join(part["text"] for part in parts if part["type"] == "text")
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        assert all(url.startswith("data:image/png;base64,") for url in urls)
        files = [io.BytesIO(base64.b64decode(url.partition(",")[2])) for url in urls]
        self.pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files]


class Chat:
    """A running server.

    Attributes:
        url: the base_url of judges.
        answer: `Request -> reply`: a completion, or (status, headers, text).
        seen: the requests so far.
        most: the most that were in flight at once.
    """

    def __init__(self, answer):
        self.answer, self.seen, self.most = answer, [], 0
        self._now, self._lock, chat = 0, threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                request = Request(self.path, dict(self.headers), body)
                with chat._lock:
                    chat.seen.append(request)
                    chat._now += 1
                    chat.most = max(chat.most, chat._now)
                try:
                    reply = chat.answer(request)
                finally:
                    with chat._lock:
                        chat._now -= 1
                status, headers, text = reply if isinstance(reply, tuple) else (200, {}, json.dumps(reply))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(text.encode())), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@contextmanager
def chat(answer):
    """A server for the time of a test."""
    running = Chat(answer)
    thread = threading.Thread(target=running.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield running
    finally:
        running.server.shutdown()
        running.server.server_close()
        thread.join()


def in_turn(*answers):
    """An answer of a server that gives these one after another, and then the last again."""
    left = list(answers)

    def answer(request):
        given = left.pop(0) if len(left) > 1 else left[0]
        return given(request) if callable(given) else given

    return answer


def slowly(seconds, answer):
    """The same answer, later."""

    def late(request):
        time.sleep(seconds)
        return answer(request) if callable(answer) else answer

    return late
