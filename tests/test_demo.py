"""The main job end to end, on the real small model, as the README's first command runs it."""

import subprocess
import sys

from conftest import ROOT, read_jsonl, run_file


def test_the_demo_answers_every_problem_with_a_real_model(tmp_path):
    problems = read_jsonl(ROOT / "examples/problems.jsonl")
    demo = [sys.executable, str(ROOT / "examples/demo.py"), "--output-path", "out.jsonl"]
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
    assert "of 8 programs solve their problem" in done.stdout
