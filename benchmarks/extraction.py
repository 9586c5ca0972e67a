"""Score extract_code_from_markdown on responses whose program is known, beside plainer rules.

    python benchmarks/extraction.py labelled.jsonl.gz

Each line of the file (JSONL, or JSONL compressed by gzip) is an object with "response", "lang",
"expected" (the program, or null) and, if other programs count as right too, "also". A line may have
a "weight"; with one, the percentages are of the weights. A program is right when it is the expected
one to the letter, but for white space around it.
"""

import argparse
import gzip
import json

from bcb_multipl_util import Block, extract_code_from_markdown, fenced_blocks


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("responses", nargs="+", help="files of labelled responses")
    for path in parser.parse_args().responses:
        rows = read_rows(path)
        print(f"{path}: {len(rows)} responses")
        for name, rule in RULES.items():
            print(f"  {name:30}{percent_right(rows, rule):6.1f} %")


def read_rows(path: str) -> list[dict]:
    open_text = gzip.open if path.endswith(".gz") else open
    with open_text(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def percent_right(rows: list[dict], rule) -> float:
    right = sum(row.get("weight", 1) for row in rows if is_right(row, rule(row)))
    return 100 * right / sum(row.get("weight", 1) for row in rows)


def is_right(row: dict, program: str | None) -> bool:
    return stripped(program) in map(stripped, [row["expected"], *row.get("also", [])])


def stripped(program: str | None) -> str:
    return (program or "").replace("\r\n", "\n").strip()


def blocks(row: dict) -> list[Block]:
    return fenced_blocks(row["response"].replace("\r\n", "\n")) or [Block("", "")]


RULES = {
    "extract_code_from_markdown": lambda row: extract_code_from_markdown(
        row["response"], row["lang"]
    ),
    "the first block": lambda row: blocks(row)[0].text,
    "the last block": lambda row: blocks(row)[-1].text,
    "the longest block": lambda row: max(blocks(row), key=lambda block: len(block.text)).text,
}


if __name__ == "__main__":
    main()
