# /// script
# requires-python = ">=3.11"
# dependencies = ["datasets >= 4.4, < 6"]
# ///
"""Make a benchmark whose prompt consists of several fields of a dataset; write JSONL to stdout.

    uv run examples/make_benchmark.py mbpp > mbpp.jsonl

mbpp      google-research-datasets/mbpp: the task and the tests that the program should pass; also
          for evalplus/mbppplus: uv run examples/make_benchmark.py mbpp evalplus/mbppplus
odex      neulab/odex: the intent and the head of the function (--config es, ja, ru: others than en)
cruxeval  cruxeval-org/cruxeval: the function and an assertion on its output, to be completed
messages  a dataset, or a JSONL file, whose prompt is a list of chat messages: their texts, without
          the roles, as in: uv run examples/make_benchmark.py messages chats.jsonl

All fields of a row are kept. `prompt` becomes the text for the model; where the row had a field of
that name, it is kept as `original_prompt`.
"""

import argparse
import json
import os
import sys
from pathlib import Path


def mbpp(row: dict) -> str:
    text = row["text"] if "text" in row else row["prompt"]
    return "\n".join([text, "Your code should pass these tests:", *row["test_list"]])


def odex(row: dict) -> str:
    return f"{row['intent']}\n\nComplete this function:\n\n{row['prompt']}"


def cruxeval(row: dict) -> str:
    assertion = f"assert f({row['input']}) == ..."
    task = "Replace the three dots by a literal, so that this assertion holds; answer with it:"
    return f"{row['code']}\n\n{task}\n\n{assertion}"


def messages(row: dict) -> str:
    """
    >>> messages({"prompt": [{"role": "system", "content": "Be brief."}, {"content": "Add."}]})
    'Be brief.\\n\\nAdd.'
    """
    return "\n\n".join(message["content"] for message in row["prompt"])


BENCHMARKS = {
    "mbpp": (mbpp, "google-research-datasets/mbpp"),
    "odex": (odex, "neulab/odex"),
    "cruxeval": (cruxeval, "cruxeval-org/cruxeval"),
    "messages": (messages, None),
}


def load(name: str, config: str | None, split: str) -> list[dict]:
    """Load a JSONL file or a dataset of the Hugging Face Hub."""
    if Path(name).is_file():
        with open(name, encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
    import datasets  # takes seconds

    return datasets.load_dataset(name, config, split=split).to_list()


def with_prompt(row: dict, prompt: str) -> dict:
    kept = {"original_prompt": row["prompt"]} if "prompt" in row else {}
    return row | {"prompt": prompt} | kept


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("dataset", nargs="?", help="another dataset or JSONL file of this shape")
    parser.add_argument("--config", help="configuration of the dataset (default: the dataset's)")
    parser.add_argument("--split", default="test", help="(default: %(default)s)")
    args = parser.parse_args(argv)
    make_prompt, dataset = BENCHMARKS[args.benchmark]
    dataset = args.dataset or dataset
    if not dataset:
        parser.error("messages needs a dataset or a JSONL file")
    try:
        rows = [
            with_prompt(row, make_prompt(row)) for row in load(dataset, args.config, args.split)
        ]
        text = "".join(json.dumps(row, default=str) + "\n" for row in rows)
    except (KeyError, TypeError) as error:
        kind = type(error).__name__
        print(f"{dataset}: not of the shape of {args.benchmark}: {kind}: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError, RuntimeError) as error:
        print(f"{dataset}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:  # as in: ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
