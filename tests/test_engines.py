"""The script against real engines: a LiteLLM proxy in front of two llama.cpp servers.

uv brings the proxy in an environment of its own, as it would be on a machine of its own. Marked
`engines` and left out of a plain `pytest`: its start alone takes half a minute. Run them with

    uv run pytest -m engines
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT, answered, jsonl, read_jsonl, run_file, wait_for, write_problems

from completions import main

pytestmark = pytest.mark.engines

KEY = "sk-of-the-proxy-0123456789"
CONFIG = """\
model_list:
  - model_name: small
    litellm_params: {{model: openai/one, api_base: "{one}/v1", api_key: none}}
  - model_name: small
    litellm_params: {{model: openai/two, api_base: "{two}/v1", api_key: none}}
  - model_name: paid
    litellm_params:
      {{model: openai/one, api_base: "{one}/v1", api_key: none,
       input_cost_per_token: 1, output_cost_per_token: 1, max_budget: 1, budget_duration: 1d}}
general_settings: {{master_key: {key}}}
router_settings: {{num_retries: 0, allowed_fails: 0, cooldown_time: 2}}
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


def responds(url: str) -> bool:
    with suppress(OSError):
        return urllib.request.urlopen(url, timeout=5).status == 200
    return False


class Engine:
    """A llama.cpp server on a port of its own, which can die and come back."""

    def __init__(self):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [sys.executable, "-c", SERVE, str(self.port)]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.process = subprocess.Popen(command, cwd=ROOT / "examples", **pipes)
        assert self.process.stdout.readline(), "it did not start"

    def die(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def engines(proxy):
    """The two servers behind the proxy, started anew for each test that needs them."""
    _, engines = proxy
    for engine in engines:
        engine.start()
    yield engines
    for engine in engines:
        engine.die()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    """The address of the proxy, and the two engines behind it, which are not running yet."""
    engines = Engine(), Engine()
    folder, port = tmp_path_factory.mktemp("proxy"), free_port()
    one, two = (engine.url for engine in engines)
    (folder / "config.yaml").write_text(CONFIG.format(one=one, two=two, key=KEY))
    command = [os.environ.get("UV", "uv"), "tool", "run", "--python", sys.executable]
    command += ["--from", "litellm[proxy] >= 1.100, < 2", "litellm"]
    command += ["--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    env = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    env["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"

        def is_up() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            return responds(f"{url}/health/liveliness")

        wait_for(is_up, 300)
        yield url, engines
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def options(url: str, *more, model: str = "litellm_proxy/small") -> list[str]:
    """The options of a run on the proxy; later ones override earlier ones."""
    return [
        *("--model", model, "--benchmark", "problems.jsonl", "--lang", "Python"),
        *("--output-path", "out.jsonl", "--max-tokens", "20"),
        *("--param", f"api_base={url}/v1", *map(str, more)),
    ]


@pytest.fixture
def run(proxy, monkeypatch, capsys):
    """Run the script to its end; the exit code and what it told."""

    def run(*more, key: str = KEY, **how) -> tuple[int, str]:
        monkeypatch.setenv("LITELLM_PROXY_API_KEY", key)
        code = main(options(proxy[0], *more, **how))
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def begin(proxy, start):
    """Start the script in a process of its own, with four requests in flight."""

    def begin():
        each = ("--batch-size", 1, "--concurrent-batches", 4)
        run = start(*options(proxy[0], *each), LITELLM_PROXY_API_KEY=KEY)
        wait_for(lambda: Path("out.jsonl").exists() and answered(), 300)
        return run

    return begin


def requests() -> int:
    return run_file()["totals"]["requests"]


def test_a_proxy_before_two_servers_has_every_problem_answered(engines, run):
    write_problems(8)
    code, told = run()
    assert code == 0, told
    assert sorted(answered()) == list(range(8))
    assert all(record["response"] for record in read_jsonl())
    assert run_file()["totals"]["completion_tokens"] > 8


def test_a_server_that_dies_on_the_way_costs_no_answer(engines, begin):
    write_problems(12)
    run = begin()
    engines[1].die()
    code, told = run.end(300)
    assert code == 0, told
    assert sorted(answered()) == list(range(12))


def test_all_servers_dying_and_coming_back_costs_no_answer(engines, begin):
    write_problems(12)
    run = begin()
    for engine in engines:
        engine.die()
    for engine in engines:
        engine.start()
    code, told = run.end(300)
    assert code == 0, told
    assert sorted(answered()) == list(range(12))
    assert requests() > 12


def test_a_wrong_key_ends_the_run_and_names_the_key(run):
    write_problems(30)
    code, told = run(key="sk-another-0123456789")
    assert code == 1
    assert re.search(r"\bkey\b", told) and "sk-another" not in told, told
    assert requests() <= 10
    assert answered() == []


def test_a_model_that_the_proxy_does_not_have_ends_the_run_and_names_the_option(run):
    write_problems(30)
    code, told = run(model="litellm_proxy/unknown")
    assert code == 1
    assert "--model" in told and "unknown" in told, told
    assert requests() <= 10
    assert answered() == []


def test_a_budget_that_is_used_up_ends_the_run_and_is_named(engines, run):
    write_problems(30)
    once = ("--batch-size", 1, "--max-retries", 1)
    code, told = run(*once, model="litellm_proxy/paid")
    assert code == 1
    assert "budget" in told, told
    assert answered(), "what was answered before is kept"
    assert requests() < 15


def test_a_prompt_too_long_for_the_context_costs_only_itself(engines, run):
    problems = write_problems(4)
    problems[2]["prompt"] = "word " * 3000
    Path("problems.jsonl").write_text(jsonl(problems))
    code, told = run()
    assert code == 1
    assert sorted(answered()) == [0, 1, 3]
    assert "context" in told and "try increasing it" in told, told
    assert requests() == 4


def test_an_answer_that_fills_the_context_is_told_as_that(engines, run):
    problems = write_problems(1)
    problems[0]["prompt"] = "word " * 940
    Path("problems.jsonl").write_text(json.dumps(problems[0]) + "\n")
    more = ("--max-tokens", 5000, "--param", 'extra_body={"ignore_eos": true}')
    code, told = run(*more)
    assert code == 0
    totals = run_file()["totals"]
    assert totals["truncated"] == 1 and totals["completion_tokens"] < 100
    assert "context" in told, told
