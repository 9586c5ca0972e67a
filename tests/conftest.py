"""A folder of its own for each test, a scripted model on a free port, and the script to run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_llm import FakeLLM

import completions

ROOT = Path(completions.__file__).parent


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    """No key, address or proxy from outside; tests start in a folder of their own."""
    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_API_BASE")) or "PROXY" in name.upper():
            monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-local-0123456789")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def quick(monkeypatch):
    """Retries without the wait, where a test is not about waiting."""
    monkeypatch.setattr(completions, "pause", lambda attempt, failures: 0.01)


@pytest.fixture
def server():
    with FakeLLM() as server:
        yield server


@pytest.fixture
def command(server):
    """The options of a run on the scripted model; later options override earlier ones."""
    return lambda *more: [
        *("--model", "openai/scripted", "--benchmark", "problems.jsonl", "--lang", "Lua"),
        *("--output-path", "out.jsonl", "--param", f"api_base={server.url}/v1", *map(str, more)),
    ]


@pytest.fixture
def start(command):
    """Start the script in a process of its own."""
    processes = []

    def start(*more, **environment):
        argv = [sys.executable, str(ROOT / "completions.py"), *command(*more)]
        env = os.environ | environment
        processes.append(
            subprocess.Popen(
                argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def write_problems(count: int, path: str = "problems.jsonl") -> list[dict]:
    problems = [{"task_id": n, "prompt": f"Problem {n}.", "none": None} for n in range(count)]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in problems), encoding="utf-8")
    return problems


def read_jsonl(path: str = "out.jsonl") -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def run_file(path: str = "out.jsonl") -> dict:
    return json.loads(Path(f"{path}.run.json").read_text(encoding="utf-8"))
