"""A scripted language model behind the OpenAI and Anthropic APIs, on 127.0.0.1.

    with FakeLLM() as server:
        server.replies = lambda request: Reply("```lua\\nreturn 1\\n```")

`replies` gives a Reply to each Request, or is a dict of replies by the number of the problem; all
others get the usual answer. `requests` holds all that came, in order. With tls=True the server has
the certificate of UNTRUSTED.
"""

import json
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PROGRAM = "function add(a, b)\n    return a + b\nend"
UNTRUSTED = Path(__file__).with_name("untrusted.pem")
ANSWER = f"Here it is.\n\n```lua\n{PROGRAM}\n```\n\nIt adds."


@dataclass
class Request:
    prompt: str
    attempt: int  # 1 for the first request with this prompt
    body: dict
    headers: Message  # finds a name in any case, as HTTP does
    arrived: float

    @property
    def problem(self) -> int:
        """The number of the problem, of those that write_problems writes."""
        return int(self.prompt.split(".")[0].split()[-1])

    @property
    def key(self) -> str:
        return self.headers.get("x-api-key") or self.headers["Authorization"].split()[-1]


@dataclass
class Reply:
    text: str | list | None = ANSWER
    status: int = 200
    error: str = "The server had an error."
    headers: dict = field(default_factory=dict)
    seconds: float = 0.0
    finish: str = "stop"
    message: dict = field(default_factory=dict)  # more fields of the message, or others
    choice: dict = field(default_factory=dict)  # more fields of the choice
    usage: dict | None = field(
        default_factory=lambda: {
            **{"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30},
            "completion_tokens_details": {"reasoning_tokens": 5},
        }
    )
    body: object = None  # the whole body in place of all that: text as it is, else as JSON
    reset: bool = False  # the connection is reset with no response


class FakeLLM:
    def __init__(self, *, port: int = 0, tls: bool = False):
        self.replies: dict[int, Reply] | Callable[[Request], Reply] = {}
        self.requests: list[Request] = []
        self.attempts: Counter = Counter()
        self.in_flight = self.peak = 0
        self.gone = False
        self.connections: set = set()
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"llm": self})
        self.http = _Server(("127.0.0.1", port), handler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(UNTRUSTED)
            self.http.socket = context.wrap_socket(
                self.http.socket, server_side=True, do_handshake_on_connect=False
            )
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.http.server_port}"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.002,), daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.stop()

    def stop(self):
        """Be gone: connections are refused from now on, and those that are open are reset."""
        self.gone = True
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
        if callable(self.replies):
            return request, self.replies(request)
        return request, self.replies.get(request.problem, Reply()) if self.replies else Reply()


class _Server(ThreadingHTTPServer):
    request_queue_size = 512

    def handle_error(self, request, client_address):
        pass  # a client that was killed in the middle of a response, or trusts no certificate


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    llm: FakeLLM

    def log_message(self, *args):
        pass

    def do_GET(self):  # by which a script asks whether the server is up
        self.send_response(204)
        self.end_headers()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.llm.gone:
            return self.reset()
        request, reply = self.llm.took(body, self.headers, self.client_address)
        try:
            time.sleep(reply.seconds)
            self.send(request, reply)
        finally:
            with self.llm.lock:
                self.llm.in_flight -= 1

    def reset(self):
        linger = b"\1\0\0\0\0\0\0\0"  # on, 0 seconds: close() resets
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.close()

    def send(self, request: Request, reply: Reply):
        if reply.reset:
            return self.reset()
        if reply.body is not None:
            content = reply.body
        elif reply.status != 200:
            content = {"error": {"message": reply.error, "type": "error", "code": None}}
        elif self.path.endswith("/messages"):
            content = anthropic_message(request.body["model"], reply)
        else:
            content = chat_completion(request.body["model"], reply)
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(reply.status)
        headers = {"Content-Type": "application/json", "Content-Length": len(data)}
        for name, value in (headers | reply.headers).items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)


def chat_completion(model: str, reply: Reply) -> dict:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": reply.text, **reply.message},
        "finish_reason": reply.finish,
        **reply.choice,
    }
    return {
        **{"id": "chat-1", "object": "chat.completion", "created": 0, "model": model},
        "choices": [choice],
        **({"usage": reply.usage} if reply.usage else {}),
    }


def anthropic_message(model: str, reply: Reply) -> dict:
    return {
        **{"id": "msg_1", "type": "message", "role": "assistant", "model": model},
        "content": [{"type": "text", "text": reply.text}],
        "stop_reason": {"length": "max_tokens", "stop": "end_turn"}.get(reply.finish, reply.finish),
        "usage": {"input_tokens": 10, "output_tokens": 20},
    }
