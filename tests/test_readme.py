"""What README.md shows is run as it stands there, or by the test that is named for it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import KEY, ROOT, read_jsonl
from test_examples import bash

README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = README.splitlines()
COMMANDS, PRINTED, OWN_MODEL, RECORD, PYTHON = re.findall(r"(?ms)^```\w*\n(.*?)^```$", README)


@pytest.fixture
def api(server, monkeypatch):
    """The scripted model in place of api.openai.com."""
    monkeypatch.setenv("OPENAI_API_BASE", f"{server.url}/v1")
    return server


def test_the_first_screen_has_the_two_commands_and_what_they_print():
    assert max(map(len, LINES[:24])) <= 80
    assert COMMANDS + "```" in "\n".join(LINES[:24]) and PRINTED in "\n".join(LINES[:24])
    assert len(LINES) <= 160 and max(map(len, LINES)) <= 100


def test_ci_runs_the_two_commands():
    script = (ROOT / ".ci/run").read_text(encoding="utf-8").split("\n")
    assert [line for line in COMMANDS.splitlines() if line not in script] == []


def test_the_command_for_an_own_model_works_as_it_stands(api):
    commands = OWN_MODEL.replace("uv run completions.py", f"uv run {ROOT}/completions.py")
    bash(commands, OPENAI_API_BASE=os.environ["OPENAI_API_BASE"])
    (shown,) = re.findall(r"(?s)^\{.*\}$", RECORD)
    assert list(read_jsonl("nano.jsonl")[0]) == re.findall(r'"(\w+)": "', shown)
    assert len(api.requests) == 8 and Path("nano.jsonl.run.json").exists()


def test_the_call_from_python_works_as_it_stands(api):
    Path("examples").symlink_to(ROOT / "examples")
    env = os.environ | {"PYTHONPATH": str(ROOT), "OPENAI_API_KEY": KEY}
    subprocess.run([sys.executable, "-c", PYTHON], env=env, check=True, timeout=120)
    assert len(read_jsonl("nano.jsonl")) == 8


def test_commands_in_the_text_are_run_by_the_tests_of_examples():
    """Those blocks are run word for word: see test_examples.py."""
    examples = (ROOT / "examples/README.md").read_text(encoding="utf-8")
    commands = re.findall(r"`(uv run examples/[^`]*)`", README)
    assert len(commands) >= 3
    assert [command for command in commands if f"\n{command}\n" not in examples] == []


def test_statuses_are_those_of_the_script():
    from completions import FATAL, TRANSIENT

    transient = README[README.index("**Transient") : README.index("**Rejected")]
    listed = {int(status) for status in re.findall(r"\b[45]\d\d\b", transient)}
    assert listed == {s for s in TRANSIENT if isinstance(s, int) and 400 <= s < 500} | {500}
    fatal = README[README.index("ends early") : README.index("got no answer")]
    assert {int(status) for status in re.findall(r"\b4\d\d\b", fatal)} == {
        status for status in FATAL if isinstance(status, int) and status >= 400
    }
