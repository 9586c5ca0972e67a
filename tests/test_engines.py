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

from completions import main

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


def options(port: str, *more, model: str = "qwen") -> list[str]:
    """The options of a run on the proxy; later ones override earlier ones."""
    return [
        *("--model", f"litellm_proxy/{model}", "--benchmark", "problems.jsonl", "--lang", "Python"),
        *("--output-path", "out.jsonl", "--max-tokens", "20"),
        *("--param", f"api_base=http://127.0.0.1:{port}/v1", *map(str, more)),
    ]


@pytest.fixture
def run(proxy, monkeypatch, capsys):
    """Run the script to its end; the exit code and what it told."""

    def run(*more, key: str = KEY, **how) -> tuple[int, str]:
        monkeypatch.setenv("LITELLM_PROXY_API_KEY", key)
        code = main(options(proxy[0], *more, **how))
        return code, capsys.readouterr().err

    return run


def test_the_commands_of_the_readme_have_every_problem_answered(engines, proxy):
    commands = block("--model litellm_proxy/qwen").replace("4000", proxy[0])
    commands = commands.replace("completions.py", f"{ROOT}/completions.py")
    bash(commands.rstrip() + " --max-tokens 20", LITELLM_MASTER_KEY=KEY)
    problems, records = read_jsonl(ROOT / "examples/problems.jsonl"), read_jsonl("qwen.jsonl")
    assert {row["task_id"] for row in records} == {row["task_id"] for row in problems}
    assert len(records) == len(problems) and all(record["response"] for record in records)
    assert run_file("qwen.jsonl")["totals"]["completion_tokens"] > 8


@pytest.mark.parametrize("dying", [1, 2])
def test_servers_that_die_on_the_way_cost_no_answer(dying, engines, proxy, start):
    write_problems(12)
    each = ("--batch-size", 1, "--concurrent-batches", 4)
    run = start(*options(proxy[0], *each), LITELLM_PROXY_API_KEY=KEY)
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


@pytest.mark.parametrize(
    ("how", "words"), [({"key": "sk-another-0123456789"}, "400"), ({"model": "unknown"}, "unknown")]
)
def test_a_wrong_key_or_model_ends_the_run_and_is_named(how, words, run):
    write_problems(30)
    code, told = run(**how)
    assert code == 1
    assert words in told and "sk-another" not in told, told
    assert run_file()["totals"]["requests"] <= 10
    assert answered() == []


def test_a_budget_that_is_used_up_ends_the_run_and_is_named(engines, run):
    write_problems(30)
    code, told = run("--batch-size", 1, "--max-retries", 0, model="paid")
    assert code == 1
    assert "budget" in told, told
    assert answered(), "what was answered before is kept"
    assert run_file()["totals"]["requests"] < 30


def test_a_prompt_too_long_for_the_context_costs_only_itself(engines, run):
    problems = write_problems(4)
    problems[2]["prompt"] = "word " * 3000
    Path("problems.jsonl").write_text(jsonl(problems))
    code, told = run()
    assert code == 1
    assert sorted(answered()) == [0, 1, 3]
    assert "context" in told, told
    assert run_file()["totals"]["requests"] == 4


def test_an_answer_that_fills_the_context_is_told_as_truncated(engines, run):
    problems = write_problems(1)
    problems[0]["prompt"] = "word " * 940
    Path("problems.jsonl").write_text(jsonl(problems))
    code, told = run("--max-tokens", 5000, "--param", 'extra_body={"ignore_eos": true}')
    assert code == 0, told
    totals = run_file()["totals"]
    assert totals["truncated"] == 1 and totals["completion_tokens"] < 100
