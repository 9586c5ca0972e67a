"""How requests fail and what that costs. The status decides, so the texts here often lie."""

import os
import re
import socket
import struct
import time
from pathlib import Path

import pytest
from conftest import (
    ANTHROPIC,
    KEY,
    MODELS,
    OPENAI,
    VLLM,
    answered,
    asked,
    last_line,
    read_jsonl,
    write_problems,
)
from fake_llm import ANSWER, UNTRUSTED, FakeLLM, Reply, chat_completion
from forks import CLOSED

import completions

HTML = {"Content-Type": "text/html"}
PROGRAM = 'if balance == 0: raise BillingError("invalid api key, model not found, quota exceeded")'

# --- transient, rejected, or the end of the run ---

LIES = {
    **{408: "credits", 409: "an invalid model", 424: "billing", 425: "a model not found"},
    **{429: "You exceeded your current quota, check your plan and billing details."},
    **{498: "an invalid API key", 499: "your balance", 500: "The model does not exist"},
    **{502: PROGRAM, 503: "Insufficient Balance", 504: "a prompt that is too long"},
    **{520: "Payment required", 524: "Unauthorized", 529: "content policy", 999: "a robot?"},
}
DATE = {"Retry-After": "Fri, 31 Dec 2126 23:59:59 GMT"}
TRANSIENT = {
    **{f"{status} {text}": Reply(status=status, error=text) for status, text in LIES.items()},
    "503 in HTML": Reply(status=503, body="<h1>Payment required</h1>", headers=HTML),
    "Retry-After as a date": Reply(status=429, headers=DATE),
    "reset": Reply(reset=True),
    "half a body": Reply(body='{"choices": [{"message": {"content": "local balance = 0 -- billi'),
    "no gzip": Reply(headers={"Content-Encoding": "gzip"}),
    "200 with an empty body": Reply(body=""),
    "200 in HTML": Reply(body="<h1>Invalid API key</h1>", headers=HTML),
    "200 null": Reply(body="null"),
}
BROKEN_OFF = ("error", "Aborted", "cancelled", "failed", "insufficient_system_resource")
BESIDE = {**chat_completion("scripted", Reply("half an ans")), "error": {"message": "oops"}}
OF_CHATS = {
    "200 error beside an answer": Reply(body=BESIDE),
    "200 error as text": Reply(body={"error": "Invalid API key"}),
    "200 detail": Reply(body={"detail": "Insufficient balance"}),
    "200 error beside null": Reply(body={"error": {"message": "oops"}, "choices": None}),
    "200 no choices": Reply(body={"choices": []}),
    "200 a choice without a message": Reply(choice={"message": None}),
    "200 an error in a choice": Reply("half an ans", choice={"error": "gone"}),
    "200 content that is an object": Reply(message={"content": {"a": "b"}}),
    "200 content in parts that are not text": Reply([{"type": "image_url", "image_url": {}}]),
    "200 a refusal": Reply(None, message={"refusal": "I cannot help with that."}),
    **{f"finish_reason {reason}": Reply("```lua\nretu", finish=reason) for reason in BROKEN_OFF},
    "a finish_reason of a backend": Reply("x", choice={"native_finish_reason": "error"}),
    "content_filter": Reply("", finish="content_filter"),
    "content_filter in the middle": Reply("```lua\nretu", finish="content_filter"),
    "a content filter of another name": Reply("", finish="SAFETY"),
    # What litellm itself cannot read.
    "200 usage in words": Reply(usage={"prompt_tokens": "ten", "completion_tokens": [2]}),
    "200 a tool call without a function": Reply(message={"tool_calls": [{"id": 1}]}),
}
OF_ANTHROPIC = {
    "200 overloaded": Reply(body={"type": "error", "error": {"message": "Overloaded"}}),
    "a refusal": Reply("", finish="refusal"),
}


@pytest.mark.usefixtures("backoffs")
@pytest.mark.parametrize("model", MODELS)
def test_a_transient_failure_is_retried_and_then_answered(server, run, model):
    faults = TRANSIENT | (OF_ANTHROPIC if model == ANTHROPIC else OF_CHATS)
    replies = list(faults.values())
    server.replies = lambda request: replies[request.problem] if request.attempt == 1 else Reply()
    options = ("--batch-size", 4, "--concurrent-batches", 4)
    code, lines = run(*options, model=model, problems=len(faults))
    responses = {row["task_id"]: row["response"] for row in read_jsonl()}
    ends = [(asked(server)[number], responses.get(number)) for number in range(len(faults))]
    wrong = {name: end for name, end in zip(faults, ends, strict=True) if end != (2, ANSWER)}
    assert not wrong and code == 0, lines


FIREWALL = "<title>Forbidden</title><p>Attack detected: balance"
REJECTED = [
    Reply(status=400, error="Incorrect API key provided: invalid api key"),
    Reply(status=403, body=FIREWALL, headers=HTML),
    Reply(status=422, error=f"Cannot tokenize {PROGRAM}"),
    Reply(status=400, error="Your credit balance is too low. Please go to Plans & Billing."),
    Reply(status=400, error="The model `x` does not exist"),
    Reply(status=400, error="Rate limit reached, try again", headers={"Retry-After": "1e9"}),
    Reply(status=400, error="maximum context length is 8192 tokens"),
    Reply(status=413, body="<h1>Request Entity Too Large</h1>", headers=HTML),
    Reply(status=403, error="Insufficient quota, unauthorized"),
    *(Reply(status=status, error="not found") for status in (405, 406, 410, 412, 415, 418, 451)),
]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("before", [0, 1])
def test_a_rejection_costs_one_problem_until_the_next_run(server, run, model, before):
    replies = REJECTED.copy()
    replies.insert(0 if before else 9, Reply())  # nine may come before the first answer
    server.replies = lambda request: replies[request.problem]
    write_problems(len(replies))
    assert not before or run("--limit", 1, model=model)[0] == 0
    code, lines = run("--batch-size", 3, model=model)
    assert code == 1 and len(server.requests) == len(replies) and len(answered()) == 1
    assert f"{len(REJECTED)} have no answer; all rejected" in last_line(lines)
    assert re.search("5 failed: 400 .*1 failed: 422 .*1 failed: 418 ", lines, re.S)
    server.replies = {}
    assert run(model=model)[0] == 0 and sorted(answered()) == list(range(len(replies)))
    assert len(server.requests) == 2 * len(replies) - 1


ELSEWHERE = Reply(headers={"Location": "https://login.example.com/sso"}, body="")
FATAL = {
    "401": (Reply(error="Rate limit; try again"), ["key"]),
    "402": (Reply(error="The model is overloaded"), ["balance", "overloaded"]),
    "404": (Reply(body="<p>Try again", headers=HTML), ["--model", "address"]),
    **dict.fromkeys(("301", "302", "303", "307", "308"), (ELSEWHERE, ["api_base", "/sso"])),
    "429": (Reply(headers={"Retry-After": "3700"}), ["1.0 hours"]),
    "503": (Reply(headers={"Retry-After": "1e30"}), ["hours"]),
    "529": (Reply(headers={"llm_provider-retry-after": "86400"}), ["24.0 hours"]),
}


@pytest.mark.parametrize("model", [OPENAI, VLLM, ANTHROPIC])
@pytest.mark.parametrize("status", FATAL)
def test_a_fatal_status_ends_the_run_and_the_next_goes_on(server, run, backoffs, status, model):
    reply, says = FATAL[status]
    reply.status = int(status)
    for fatal, expected in ((0, []), (2, [0, 1])):  # before the first answer, and after some
        server.replies = {fatal: reply}
        server.requests.clear()
        code, lines = run("--batch-size", 1, model=model, problems=5)
        end = last_line(lines)
        assert code == 1 and answered() == expected and len(server.requests) == fatal + 1
        assert end.startswith(f"completions.py: {status} at {server.url}/")
        assert [word for word in says if word not in end] == []
    assert backoffs == []
    server.replies = {}
    assert run(model=model)[0] == 0 and answered() == [0, 1, 2, 3, 4]


def test_what_is_in_flight_when_the_run_ends_is_kept_and_nothing_more_is_sent(server, run):
    server.replies = {n: Reply(seconds=0.7) for n in range(40)} | {3: Reply(status=401)}
    code, lines = run("--batch-size", 1, "--concurrent-batches", 4, problems=40)
    assert code == 1 and sorted(answered()) == [0, 1, 2] and len(server.requests) == 4
    assert "3 of 40 answered" in lines


# --- failures in a row ---


@pytest.mark.parametrize(("problems", "size", "requests"), [(99, 4, 12), (99, 24, 24), (9, 4, 9)])
def test_rejections_before_any_answer_end_the_run_after_ten(server, run, problems, size, requests):
    server.replies = lambda request: Reply(status=400, error=f"Bad thing in {request.prompt}")
    code, lines = run("--batch-size", size, problems=problems)
    assert code == 1 and len(server.requests) == requests and "400 at" in lines
    assert (f"{max(10, size)} requests in a row" in last_line(lines)) == (problems > 10)


@pytest.mark.parametrize("dies", [True, False])
def test_ten_requests_in_a_row_end_the_run_each_after_its_retries(server, run, backoffs, dies):
    def replies(request):
        if dies and len(server.requests) == 12:
            server.stop()
        return Reply(status=200 if len(server.requests) <= 12 else 503)

    server.replies = replies
    code, lines = run("--batch-size", 2, "--max-retries", 1, problems=40)
    assert code == 1 and answered() == list(range(12)) and len(backoffs) == 5
    assert "10 requests in a row" in last_line(lines) and server.url in last_line(lines)
    assert len(server.requests) == 12 + (0 if dies else 2 * 10)


def test_failures_between_answers_do_not_end_a_run(server, run):
    server.replies = {n: Reply(status=500) for n in range(20) if n % 10}
    code, lines = run("--batch-size", 1, "--max-retries", 0, problems=20)
    assert code == 1 and answered() == [0, 10] and len(server.requests) == 20
    assert last_line(lines) == "18 have no answer; run the same command again to retry them"


@pytest.mark.parametrize("model", MODELS)
def test_no_connection_ends_a_run_that_has_no_answer_yet(server, run, backoffs, model):
    with FakeLLM() as gone:
        pass
    code, lines = run("--batch-size", 2, model=model, url=gone.url, problems=30)
    assert code == 1 and not backoffs and not re.search(r"\b50[03]\b", lines)
    assert gone.url in last_line(lines) and "is the server up" in last_line(lines)
    assert run("--limit", 1, model=model)[0] == 0
    code, lines = run("--limit", 3, "--max-retries", 2, model=model, url=gone.url)
    assert code == 1 and len(backoffs) == 2 and "2 failed: no connection" in lines


# --- when to retry ---


def test_backoff_grows_to_a_minute_with_jitter(server, run, backoffs):
    server.replies = {0: Reply(status=500)}
    assert run("--max-retries", 9, problems=1)[0] == 1 and len(server.requests) == 10
    longest = [2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert all(most / 2 <= s <= most for s, most in zip(backoffs, longest, strict=True))
    assert len(set(backoffs)) == 9


@pytest.mark.parametrize("name", ["Retry-After", "llm_provider-retry-after"])
@pytest.mark.parametrize("model", MODELS)
def test_no_retry_comes_sooner_than_a_server_asks(server, run, backoffs, name, model):
    headers = {"Retry-After": "nan", "llm_provider-retry-after": "soon", name: "100"}
    server.replies = {0: Reply(status=429, headers=headers), 1: Reply(status=500)}
    assert run("--max-retries", 4, model=model, problems=2)[0] == 1
    assert len(backoffs) == 4 and 100 <= min(backoffs) <= max(backoffs) < 101


def test_a_batch_in_backoff_waits_and_does_not_stop_the_others(server, run):
    slow_down = Reply(status=429, headers={"Retry-After": "2"})
    server.replies = lambda request: slow_down if len(server.requests) == 1 else Reply()
    assert run("--batch-size", 1, "--concurrent-batches", 2, problems=20)[0] == 0
    last = server.requests[-1]
    assert last.attempt == 2 and answered()[-1] == last.problem
    assert 2 <= last.arrived - server.requests[0].arrived < 8


# --- what is said of a failure ---


@pytest.mark.parametrize("model", [OPENAI, VLLM])
@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply(status=400, error="No `foo`."), ["400 at", "No `foo`", "--temperature none"]),
        (Reply(status=403, body="<h1>Attack</h1>", headers=HTML), ["403 at", "Attack"]),
        (Reply(status=413, error="Huge."), ["413 at", "Huge", "too long"]),
        (Reply(status=422, body={"detail": [{"msg": "No field"}]}), ["422 at", "No field"]),
        (Reply(status=429, error="Slow down."), ["429 at", "Slow down", "--concurrent-batches"]),
        (Reply(status=503, body="<style>p {}</style><p>Back at\nnoon"), ["503 at", "Back at noon"]),
        (Reply(body={"error": "The upstream is gone."}), ["200 at", "The upstream is gone"]),
        (Reply(None, message={"refusal": "I cannot."}), ["200 at", "I cannot"]),
        (Reply("x", finish="network_error"), ["200 at", "network_error"]),
        (Reply("", finish="content_filter"), ["200", "content_filter"]),
        (Reply(reset=True), ["no response at", "--timeout"]),
        (Reply(seconds=2), ["no response at", "--timeout"]),
        (Reply(status=400, error="Much. " + "x is not y " * 10**5), ["400 at", "Much. x is"]),
        (Reply(status=400, error="長" * 10**6), ["400 at", "長" * 300 + " [...]"]),
        (Reply(status=400, error="Much. " + "http://a," * 10**5), ["400 at", "Much."]),
        (Reply(status=502, body="<p>Gone" + "<style " * 10**5, headers=HTML), ["502 at", "Gone"]),
    ],
)
def test_a_failure_is_a_line_with_status_words_address_repair(server, run, reply, says, model):
    server.replies = {0: reply}
    began = time.process_time()
    code, lines = run("--max-retries", 0, "--timeout", 0.7, model=model, problems=1)
    (line,) = [line for line in lines.split("\n") if "1 failed: " in line]
    assert code == 1 and answered() == [] and time.process_time() - began < 12
    assert [words for words in says if words not in line] == [] and not re.search("[<>{}]", line)
    assert len(line) < 300 + 200  # the words of the server, and all else
    assert f"{server.url}/v1/chat/completions" in line


@pytest.mark.parametrize("status", [400, 401, 500])
@pytest.mark.parametrize("model", MODELS)
def test_a_key_in_an_error_is_redacted_and_a_401_names_it(server, run, monkeypatch, status, model):
    variable = f"{model.split('/')[0].upper()}_API_KEY"
    monkeypatch.setenv(variable, KEY)
    server.replies = lambda request: Reply(
        status=status, error=f"Bad key {request.key} in {dict(request.headers)}."
    )
    code, lines = run("--max-retries", 0, model=model, problems=2)
    assert code == 1 and {request.key for request in server.requests} == {KEY}
    assert "Bad key ***" in lines and KEY not in lines + Path("out.jsonl.run.json").read_text()
    assert (variable in last_line(lines)) == (status == 401)


# --- what is an answer ---

PARTS = [{"type": "text", "text": ANSWER[:13]}, {"type": "text", "text": ANSWER[13:]}]
QUOTED = f'{ANSWER}\n{{"finish_reason": "error", "error": {{"code": 401}}}}'


@pytest.mark.parametrize("model", [OPENAI, VLLM, MODELS[2]])
def test_every_shape_of_an_answer_is_read_and_reasoning_goes_to_the_details(server, run, model):
    replies = [
        Reply(PARTS),
        Reply([{"type": "thinking", "thinking": PARTS[:1]}, *PARTS]),
        Reply(message={"reasoning": ANSWER[:13]}),
        Reply(message={"reasoning_content": ANSWER[:13], "refusal": ""}),
        Reply(usage=None, choice={"error": None}),
        Reply(headers={"Content-Type": "application/json; charset=x-unknown"}),
        Reply(headers={"Content-Type": "text/plain"}),
        *(Reply(finish=reason) for reason in ("eos", "end_turn", "stop_sequence", "", None)),
        Reply(QUOTED),
        Reply(None, message={"reasoning_content": ANSWER}),
    ]
    server.replies = dict(enumerate(replies))
    code, lines = run("--details", "--max-retries", 0, model=model, problems=len(replies))
    assert code == 0 and "1 empty, 1 without a program" in lines, lines
    assert [row["response"] for row in read_jsonl()] == [ANSWER] * 12 + [QUOTED, ""]
    reasoning = [row["details"]["reasoning"] for row in read_jsonl()]
    assert reasoning == [None, *[ANSWER[:13]] * 3, *[None] * 9, ANSWER]


# --- nothing could be sent ---


@pytest.mark.parametrize("provider", ["litellm_proxy", "custom_openai", "deepseek"])
def test_no_other_server_is_sent_the_key_of_openai(server, run, monkeypatch, provider):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai-123456")
    monkeypatch.delenv(f"{provider.upper()}_API_KEY", raising=False)
    run(model=f"{provider}/any", problems=1)
    assert "sk-of-openai-123456" not in server.requests[0].key


@pytest.mark.parametrize("provider", ["hosted_vllm", "litellm_proxy", "lm_studio", "custom_openai"])
def test_without_its_address_nothing_is_sent_elsewhere(server, run, monkeypatch, provider):
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")  # in place of api.openai.com
    monkeypatch.setenv(f"{provider.upper()}_API_BAES", "http://127.0.0.1:9")  # misspelt
    code, lines = run(model=f"{provider}/any", url=None, problems=3)
    assert code == 1 and server.requests == []
    assert f"{provider.upper()}_API_BASE" in last_line(lines) and "api_base=" in last_line(lines)


NOT_SENT = {
    "--model nonsense": "nonsense",
    "--model nonsense/gpt": "nonsense/gpt",
    "--model openai/gpt-5": "--temperature none, --top-p none",
    "--model openai/gpt-4.1-nano": "OPENAI_API_KEY",
    "--model azure/gpt-4.1": "not sent",
    "--model anthropic/claude-3-haiku": "ANTHROPIC_API_KEY",
    "--model vllm/any": "vllm",
    "--param extra_body=[1]": "not sent",
    "--param extra_headers=abc": "not sent",
    "--param api_base=127.0.0.1:8000/v1": "127.0.0.1:8000",
    "--param api_base=localhost/v1 --model hosted_vllm/any": "localhost/v1",
    f"--param extra_body=[1] --model {VLLM}": "not sent",
}


@pytest.mark.parametrize("options", NOT_SENT)
def test_what_cannot_be_sent_ends_the_run_and_is_named(server, run, backoffs, monkeypatch, options):
    monkeypatch.setenv("AZURE_API_BASE", "http://127.0.0.1:9")
    if "--param" not in options:
        monkeypatch.delenv("OPENAI_API_KEY")
        monkeypatch.delenv("ANTHROPIC_API_KEY")
    where = {} if "--param" in options else {"url": None}
    code, lines = run(*options.split(), "--batch-size", 2, problems=30, **where)
    end = last_line(lines)
    assert code == 1 and NOT_SENT[options] in end and not re.search("500|server up|in a row", end)
    assert server.requests == [] and backoffs == []


@pytest.mark.parametrize("model", [OPENAI, VLLM, ANTHROPIC])
def test_an_untrusted_certificate_ends_the_run_until_named(run, backoffs, monkeypatch, model):
    with FakeLLM(tls=True) as server:
        code, lines = run(model=model, url=server.url, problems=3)
        assert code == 1 and server.requests == [] and backoffs == []
        assert "CERTIFICATE_VERIFY_FAILED" in lines and "SSL_CERT_FILE" in last_line(lines)
        monkeypatch.setenv("SSL_CERT_FILE", str(UNTRUSTED))
        assert run(model=model, url=server.url)[0] == 0 and answered() == [0, 1, 2]
        monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
        code, lines = run("--output-path", "other.jsonl", model=model, url=server.url)
        assert code == 1 and last_line(lines).startswith("completions.py: ")


def test_https_to_a_server_without_it_and_a_handshake_that_hangs_are_told(server, run, backoffs):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        silent_url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for url, says in ((server.url, "http or https"), (silent_url, "no response")):
            url = url.replace("http:", "https:")
            code, lines = run("--timeout", 0.3, "--max-retries", 1, url=url, problems=3)
            assert code == 1 and url in lines and says in lines
    assert server.requests == [] and len(backoffs) == 1


# --- environments ---


def test_a_soft_limit_of_open_files_is_raised_and_a_hard_one_is_told(server, start):
    pytest.importorskip("resource")
    server.replies = lambda request: Reply(seconds=0.5)
    options = ("--batch-size", 1, "--max-retries", 0, "--concurrent-batches")
    code, lines = start(*options, 64, limits={"RLIMIT_NOFILE": [64, 900]}, problems=70).end()
    assert code == 0 and len(answered()) == 70 and server.peak > 20, lines
    limits = {"RLIMIT_NOFILE": [256, 256]}
    code, lines = start(*options, 300, "--output-path", "b.jsonl", limits=limits).end()
    assert "--concurrent-batches" in lines and "256" in lines
    assert (code, len(server.requests)) in ((1, 70), (0, 140))


def test_a_run_goes_on_where_stderr_cannot_be_written_to(server, start):
    write_problems(20)
    rejected = Reply(status=400)
    server.replies = lambda r: rejected if (r.problem, r.body["top_p"]) == (7, 1) else Reply()
    ours, left = os.pipe()
    os.close(ours)
    with open("/dev/full", "wb") as full:
        stderr = {"closed": (CLOSED, 0), "pipe": (left, 0), "full": (full.fileno(), 1)}
        runs = [
            start("--output-path", f"{name}.jsonl", "--top-p", fails, stderr=file)
            for name, (file, fails) in stderr.items()
        ]
        assert [run.end() for run in runs] == [(0, ""), (0, ""), (1, "")]
    os.close(left)
    assert [len(read_jsonl(f"{name}.jsonl")) for name in stderr] == [20, 20, 19]


PROXIES = [
    *("ALL_PROXY=socks5://127.0.0.1:9", "all_proxy=socks5h://127.0.0.1:9", "NO_PROXY=[::1"),
    *("HTTP_PROXY=nonsense", "HTTP_PROXY=http://127.0.0.1:9", "HTTPS_PROXY=ftp://127.0.0.1:9"),
]


@pytest.mark.usefixtures("backoffs")
@pytest.mark.parametrize("model", [OPENAI, VLLM])
@pytest.mark.parametrize("setting", PROXIES)
def test_a_proxy_of_no_use_ends_the_run_in_one_line(server, run, monkeypatch, model, setting):
    name, value = setting.split("=")
    monkeypatch.setenv(name, value)
    code, lines = run(model=model, problems=3)
    assert code == 1 and last_line(lines).startswith("completions.py: ")
    assert server.requests == [] and answered() == []
    if value == "http://127.0.0.1:9":
        monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
        assert run(model=model)[0] == 0 and len(answered()) == 3


@pytest.mark.parametrize("name", ["TQDM_MININTERVAL", "REQUEST_TIMEOUT", "LITELLM_LOG"])
def test_a_variable_read_by_an_import_leads_to_no_traceback(run, start, name):
    write_problems(3)
    # For tqdm there is no need of litellm, whose import takes seconds.
    assert name != "TQDM_MININTERVAL" or run()[0] == 0
    code, lines = start(fresh=True, **{name: "/no/sense"}).end()
    assert last_line(lines).startswith("completions.py: ") if code == 1 else code == 0, lines


def test_the_bar_fits_the_terminal_also_after_it_was_resized(server, start):
    pty = pytest.importorskip("pty")
    import fcntl
    import termios

    server.replies = {n: Reply(seconds=0.05, status=400 if n == 1 else 200) for n in range(40)}
    ours, theirs = pty.openpty()
    shown = {80: b"", 50: b""}
    for columns, until in ((80, rb"1\d/40"), (50, rb"have no answer")):
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, columns, 0, 0))
        if columns == 80:
            model = "openai/gpt-4.1-nano"
            run = start("--batch-size", 1, model=model, stderr=theirs, problems=40)
        while not re.search(until, shown[columns]):
            shown[columns] += os.read(ours, 10_000)
    assert run.end(10) == (1, "")
    os.close(theirs)
    os.close(ours)
    for columns, text in shown.items():
        bar = text.decode().split("39 of 40 answered")[0]
        states = [line for line in re.split(r"[\r\n]+", bar) if "/40 [" in line]
        assert max(map(len, states[3:])) <= columns and bar.count("\n") <= 3
        assert columns == 50 or re.search(r"\d+/40 .*1 failed, \$0\.\d+", states[-1])


@pytest.mark.parametrize("terminal", [True, False])
def test_without_a_terminal_s_width_a_line_a_minute_is_told(server, run, monkeypatch, terminal):
    if terminal:
        size = os.terminal_size((0, 0))
        monkeypatch.setattr(os, "get_terminal_size", lambda fd: size)
    monkeypatch.setattr(completions, "LINE_EVERY", 0.2)  # a short minute
    server.replies = {2: Reply(seconds=1.5)}
    code, lines = run("--batch-size", 2, problems=4)
    assert code == 0 and "2 of 4 answered in" in lines
    assert "\r" not in lines and lines.count("\n") < 15
