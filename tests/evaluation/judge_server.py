"""A server on this machine that stands in for a judge model: what it answers is up to each test."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# (prompt, number of the request from 1) -> the reply's text, or (status, body, headers)
Answer = Callable[[str, int], "str | tuple[int, str, dict[str, str]]"]


class JudgeServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.paths: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.bearers: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def prompts(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.bodies]


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer

    def do_POST(self) -> None:
        self.server.paths.append(self.path)
        self.server.bearers.append(self.headers["Authorization"])
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        said = self.server.answer(body["messages"][0]["content"], len(self.server.bodies))
        if isinstance(said, str):
            said = 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}), {}
        status, text, headers = said
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())
        except OSError:
            pass  # the client was killed meanwhile

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.send_error(405)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(answer: Answer) -> Iterator[JudgeServer]:
    with JudgeServer(answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
