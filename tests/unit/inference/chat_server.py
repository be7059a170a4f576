"""A real HTTP server on this machine that speaks OpenAI's chat format, and misbehaves as a test says."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

OK = object()
"""Answer as a good server does."""


def reply(text="fine", finish_reason="stop", prompt_tokens=5, completion_tokens=3, **message):
    return {
        "choices": [{"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens},
    }


class ChatServer:
    """`script(number, body)` gives the answer to the number-th request: `OK`, a JSON value, bytes, seconds of silence,
    or (status, headers, JSON value)."""

    def __init__(self, script: Callable[[int, dict], object] = lambda number, body: OK):
        self.script, self.bodies, self.headers, self.times, self.paths = script, [], [], [], []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self.url = ""


@contextmanager
def running(server: ChatServer) -> Iterator[ChatServer]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                number = len(server.bodies)
                server.bodies.append(body)
                server.headers.append(dict(self.headers))
                server.times.append(time.monotonic())
                server.paths.append(self.path)
                server.in_flight += 1
                server.most_in_flight = max(server.most_in_flight, server.in_flight)
            try:
                self._answer(server.script(number, body))
            finally:
                with server.lock:
                    server.in_flight -= 1

        def _answer(self, what):
            status, headers = 200, {}
            if isinstance(what, float):
                time.sleep(what)
                what = OK
            if isinstance(what, tuple):
                status, headers, what = what
            if what is OK:
                what = reply()
            content = what if isinstance(what, bytes) else json.dumps(what).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            if headers.get("Content-Length"):
                self.close_connection = True

        def log_message(self, format, *args):
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request, client_address):
            pass

    with Quiet(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}/v1"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
