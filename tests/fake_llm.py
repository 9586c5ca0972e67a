"""A scripted language model behind the OpenAI and Anthropic APIs, on 127.0.0.1 and a free port.

    with FakeLLM() as server:
        server.replies = lambda request: Reply("```lua\\nreturn 1\\n```")

`replies` gets a Request and gives a Reply for each; `requests` holds all that came, in order.
"""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROGRAM = "function add(a, b)\n    return a + b\nend"
ANSWER = f"Here it is.\n\n```lua\n{PROGRAM}\n```\n\nIt adds."


@dataclass
class Request:
    prompt: str
    attempt: int  # 1 for the first request with this prompt
    body: dict
    headers: Message  # finds a name in any case, as HTTP does
    arrived: float


@dataclass
class Reply:
    text: str | None = ANSWER
    status: int = 200
    error: str = "The server had an error."
    headers: dict = field(default_factory=dict)
    seconds: float = 0.0
    finish: str = "stop"
    choices: bool = True
    broken: bool = False  # half of the body
    reset: bool = False  # the connection is reset with no response


class FakeLLM:
    def __init__(self, replies: Callable[[Request], Reply] = lambda request: Reply()):
        self.replies, self.requests = replies, []
        self.attempts: Counter = Counter()
        self.in_flight = self.peak = 0
        self.connections: set = set()
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"llm": self})
        self.http = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.http.shutdown()
        self.http.server_close()

    def took(self, body: dict, headers: Message, peer) -> tuple[Request, Reply]:
        prompt = body["messages"][0]["content"]
        prompt = prompt if isinstance(prompt, str) else prompt[0]["text"]
        with self.lock:
            self.attempts[prompt] += 1
            request = Request(prompt, self.attempts[prompt], body, headers, time.time())
            self.requests.append(request)
            self.connections.add(peer)
            self.in_flight += 1
            self.peak = max(self.peak, self.in_flight)
        return request, self.replies(request)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request, client_address):
        pass  # a client that was killed in the middle of a response


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    llm: FakeLLM

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request, reply = self.llm.took(body, self.headers, self.client_address)
        try:
            time.sleep(reply.seconds)
            self.send(request, reply)
        finally:
            with self.llm.lock:
                self.llm.in_flight -= 1

    def send(self, request: Request, reply: Reply):
        if reply.reset:
            linger = b"\1\0\0\0\0\0\0\0"  # on, 0 seconds: close() resets
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            self.connection.close()
            return
        if reply.status != 200:
            content = {"error": {"message": reply.error, "type": "error", "code": None}}
        elif self.path.endswith("/messages"):
            content = anthropic_message(request, reply)
        else:
            content = chat_completion(request, reply)
        data = json.dumps(content).encode()
        data = data[: len(data) // 2] if reply.broken else data
        self.send_response(reply.status)
        headers = {"Content-Type": "application/json", "Content-Length": len(data)}
        for name, value in (headers | reply.headers).items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)


def chat_completion(request: Request, reply: Reply) -> dict:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": reply.text},
        "finish_reason": reply.finish,
    }
    return {
        "id": "chat-1",
        "object": "chat.completion",
        "created": 0,
        "model": request.body["model"],
        "choices": [choice] if reply.choices else [],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 20,
            "total_tokens": 30,
            "completion_tokens_details": {"reasoning_tokens": 5},
        },
    }


def anthropic_message(request: Request, reply: Reply) -> dict:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": request.body["model"],
        "content": [{"type": "text", "text": reply.text}],
        "stop_reason": "max_tokens" if reply.finish == "length" else "end_turn",
        "usage": {"input_tokens": 10, "output_tokens": 20},
    }
