"""A folder of its own for each test, a scripted model on a free port, and the script to run."""

import json
import logging
import os
import re
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from fake_llm import ANSWER, PROGRAM, FakeLLM
from forks import Run
from hypothesis import settings

import completions
from completions import main

settings.register_profile("here", max_examples=100, deadline=None, database=None)
settings.load_profile("here")

# Else each process compiles what it imports anew, which takes longer than all else it does.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # also where a test imports it

ROOT = Path(completions.__file__).parent
KEY = "sk-local-0123456789"
OUTSIDE = r"_API_(KEY|BASE)$|_BASE_URL$|PROXY|^SSL_|^HF_|^TQDM_|^(COLUMNS|REQUEST_TIMEOUT)$"


@pytest.fixture(autouse=True)
def plain_process(monkeypatch, tmp_path):
    """No key, address or proxy from outside, a folder of its own; what main() changes is undone."""
    for name in list(os.environ):
        if re.search(OUTSIDE, name, re.I):
            monkeypatch.delenv(name)
    for provider in ("OPENAI", "ANTHROPIC", "OPENROUTER"):
        monkeypatch.setenv(f"{provider}_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    logging.disable(logging.NOTSET)


@pytest.fixture
def backoffs(monkeypatch) -> list[float]:
    """The seconds that a run waits before its retries, which here take no time."""
    seconds, backoff = [], completions.backoff

    def note(attempt, retry_after):
        seconds.append(backoff(attempt, retry_after))
        return 0.01

    monkeypatch.setattr(completions, "backoff", note)
    return seconds


@pytest.fixture
def server():
    with FakeLLM() as server:
        yield server


# Models for which litellm sends requests in different ways.
OPENAI, VLLM, OPENROUTER = "openai/scripted", "hosted_vllm/scripted", "openrouter/scripted/x"
ANTHROPIC, PROXY = "anthropic/claude-3-haiku", "litellm_proxy/scripted"
MODELS = (OPENAI, VLLM, OPENROUTER, ANTHROPIC, PROXY)


@pytest.fixture
def command(server):
    """The options of a run on the scripted model; later ones override. May write its problems."""

    def command(*more, model=OPENAI, url: str | None = server.url, problems=0) -> list[str]:
        if problems:
            write_problems(problems)
        options = ["--benchmark", "problems.jsonl", "--lang", "Lua", "--output-path", "out.jsonl"]
        if url:
            options += ["--param", f"api_base={url}{'' if model == ANTHROPIC else '/v1'}"]
        return [*options, "--model", model, *map(str, more)]

    return command


@pytest.fixture
def run(command, capsys):
    """Run the command line in this process; return its exit code and stderr: no traceback there."""

    def run(*more, **where) -> tuple[int, str]:
        try:
            code = main(command(*more, **where))
        except SystemExit as usage:
            code = usage.code
        out, err = capsys.readouterr()
        assert out == "" and "Traceback" not in err, err
        return code, err

    return run


@pytest.fixture
def start(command):
    """Start the script in a process of its own, which may have a fresh interpreter."""
    runs = []

    def start(*more, fresh=False, stderr=None, limits=None, model=OPENAI, problems=0, **variables):
        argv = command(*more, model=model, problems=problems)
        runs.append(Run(argv, os.environ | variables, limits or {}, fresh, stderr))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()


def last_line(text: str) -> str:
    return text.strip().split("\n")[-1]


def jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_problems(count: int, path: str = "problems.jsonl") -> list[dict]:
    problems = [{"task_id": n, "prompt": f"Problem {n}.", "none": None} for n in range(count)]
    Path(path).write_text(jsonl(problems), encoding="utf-8")
    return problems


def read_jsonl(path: str = "out.jsonl") -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def records(problems: list[dict]) -> list[dict]:
    """What the output holds of problems that got the usual answer."""
    return [{**row, "response": ANSWER, "program": PROGRAM} for row in problems]


def answered(path: str = "out.jsonl") -> list[int]:
    """The numbers of the problems that have an answer, as they stand in the output."""
    return [row["task_id"] for row in read_jsonl(path)]


def run_file(path: str = "out.jsonl") -> dict:
    return json.loads(Path(f"{path}.run.json").read_text(encoding="utf-8"))


def asked(server: FakeLLM) -> Counter:
    """How often each problem was asked for, by its number."""
    return Counter(request.problem for request in server.requests)


def wait_for(condition, seconds: float = 60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
