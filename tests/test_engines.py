"""The script against real engines: examples/proxy.yaml before two llama.cpp servers.

uv brings the proxy in an environment of its own, as it would be on a machine of its own. Left out
of a plain `pytest`, for its start takes half a minute: `uv run pytest -m engines`.
"""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT, answered, jsonl, read_jsonl, run_file, wait_for, write_problems
from test_examples import bash, block

pytestmark = pytest.mark.engines

KEY = "sk-of-the-proxy-0123456789"
PAID = """\
  - model_name: paid
    litellm_params: {model: openai/one, api_base: "http://gpu1:8000/v1", api_key: none,
      input_cost_per_token: 1, output_cost_per_token: 1, max_budget: 1, budget_duration: 1d}
general_settings:
"""
SERVE = """\
import sys
from demo import serve_small_model
with serve_small_model(int(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()  # until the test ends, however it ends
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Engine:
    """A llama.cpp server on a port of its own, which can die and come back."""

    def __init__(self):
        self.port = free_port()

    def start(self):
        command = [sys.executable, "-c", SERVE, str(self.port)]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.process = subprocess.Popen(command, cwd=ROOT / "examples", **pipes)
        assert self.process.stdout.readline(), "it did not start"

    def die(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    """The port of the proxy, and the two engines behind it, which are not running yet.

    Started as examples/README.md says, with examples/proxy.yaml: only the addresses are others, and
    one more model has a budget.
    """
    engines = Engine(), Engine()
    folder, port = tmp_path_factory.mktemp("proxy"), str(free_port())
    config = (ROOT / "examples/proxy.yaml").read_text().replace("general_settings:\n", PAID)
    for host, engine in zip(("gpu1:8000", "gpu2:8000"), engines, strict=True):
        assert host in config
        config = config.replace(host, f"127.0.0.1:{engine.port}")
    (folder / "examples").mkdir()
    (folder / "examples/proxy.yaml").write_text(config)
    commands = block("litellm --config").replace("4000", f"{port} --host 127.0.0.1")
    commands = commands.replace("sk-$(openssl rand -hex 32)", KEY)
    env = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            ["bash", "-c", commands],
            **{"cwd": folder, "env": env, "stdout": log, "stderr": log, "start_new_session": True},
        )

    def is_up() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        with suppress(OSError):
            url = f"http://127.0.0.1:{port}/health/liveliness"
            return urllib.request.urlopen(url, timeout=5).status == 200
        return False

    try:
        wait_for(is_up, 300)
        yield port, engines
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


@pytest.fixture
def engines(proxy):
    """The two servers behind the proxy, started anew for each test that needs them."""
    for engine in proxy[1]:
        engine.start()
    yield proxy[1]
    for engine in proxy[1]:
        engine.die()


@pytest.fixture
def options(proxy, monkeypatch) -> list[str]:
    """The options of a run on the proxy."""
    monkeypatch.setenv("LITELLM_PROXY_API_KEY", KEY)
    api_base = f"api_base=http://127.0.0.1:{proxy[0]}/v1"
    return ["--model", "litellm_proxy/qwen", "--max-tokens", "20", "--param", api_base]


def test_the_commands_of_the_readme_have_every_problem_answered(engines, proxy):
    commands = block("--model litellm_proxy/qwen").replace("4000", proxy[0])
    commands = commands.replace("completions.py", f"{ROOT}/completions.py")
    bash(commands.rstrip() + " --max-tokens 20", LITELLM_MASTER_KEY=KEY)
    problems, records = read_jsonl(ROOT / "examples/problems.jsonl"), read_jsonl("qwen.jsonl")
    assert {row["task_id"] for row in records} == {row["task_id"] for row in problems}
    assert len(records) == len(problems) and all(record["response"] for record in records)
    assert run_file("qwen.jsonl")["totals"]["completion_tokens"] > 8


@pytest.mark.parametrize("dying", [1, 2])
def test_servers_that_die_on_the_way_cost_no_answer(dying, engines, start, options):
    run = start(*options, "--batch-size", 1, "--concurrent-batches", 4, problems=12)
    wait_for(lambda: Path("out.jsonl").exists() and answered(), 300)
    for engine in engines[:dying]:
        engine.die()
    if dying == 2:  # and come back
        for engine in engines:
            engine.start()
    code, told = run.end(300)
    assert code == 0, told
    assert sorted(answered()) == list(range(12))
    assert dying == 1 or run_file()["totals"]["requests"] > 12


WRONG = {"--param=api_key=sk-another-012345": "400", "--model=litellm_proxy/unknown": "unknown"}


@pytest.mark.parametrize("option", WRONG)
def test_a_wrong_key_or_model_ends_the_run_and_is_named(option, run, options):
    code, told = run(*options, option, problems=30)
    assert code == 1 and WRONG[option] in told and "sk-another" not in told, told
    assert run_file()["totals"]["requests"] <= 10 and answered() == []


def test_a_budget_that_is_used_up_ends_the_run_and_is_named(engines, run, options):
    each = ("--batch-size", 1, "--max-retries", 0, "--model", "litellm_proxy/paid")
    code, told = run(*options, *each, problems=30)
    assert code == 1 and "budget" in told, told
    assert answered(), "what was answered before is kept"
    assert run_file()["totals"]["requests"] < 30


def test_a_prompt_too_long_for_the_context_costs_only_itself(engines, run, options):
    problems = write_problems(4)
    problems[2]["prompt"] = "word " * 3000
    Path("problems.jsonl").write_text(jsonl(problems))
    code, told = run(*options)
    assert code == 1 and sorted(answered()) == [0, 1, 3] and "context" in told, told
    assert run_file()["totals"]["requests"] == 4


def test_an_answer_that_fills_the_context_is_told_as_truncated(engines, run, options):
    Path("problems.jsonl").write_text(jsonl([{"task_id": 0, "prompt": "word " * 940}]))
    more = ("--max-tokens", 5000, "--param", 'extra_body={"ignore_eos": true}')
    code, told = run(*options, *more)
    assert code == 0, told
    totals = run_file()["totals"]
    assert totals["truncated"] == 1 and totals["completion_tokens"] < 100
