"""Benchmarks reach the run as they are; a mistake in one is told before any request."""

import bz2
import gzip
import json
import lzma
import os
import re
import socket
import subprocess
import sys
import threading
import time
import zipfile
from datetime import UTC, date, datetime
from datetime import time as clock_time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pandas
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from conftest import ROOT, jsonl, read_jsonl, records, run_file, write_problems
from fake_hub import TOKEN, FakeHub
from hypothesis import given, settings
from hypothesis import strategies as st

from completions import CompletionsError, load_benchmark, main


def load(content: str | bytes, name: str = "bench.jsonl", **options) -> list[dict]:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_benchmark(name, **options)


def refusal(content: str | bytes, name: str = "bench.jsonl", **options) -> str:
    """The one line that a benchmark is refused with."""
    with pytest.raises(CompletionsError) as refused:
        load(content, name, **options)
    message = str(refused.value)
    assert "\n" not in message and len(message) < 400
    return message


# --- local files: no character changes ---

WORDS = [
    *("", " ", "001", "1e5", "0x10", "true", "null", "NaN", "-", "prompt", "response", "program"),
    *("2024-01-02", "2024-01-02T03:04:05Z", "1/2/2024", "1700000000", "12:30", "P1D"),
    *(
        "a\u2028b",
        "a\u2029b",
        "a\x85b",
        "\x0b\x0c\x1c\x1d\x1e",
        "a\r\nb",
        "\ufeff",
        "\0",
        "\\n",
        '"',
    ),
]
TEXTS = st.sampled_from(WORDS) | st.text(max_size=8)
INTEGERS = st.integers() | st.integers(-(10**40), 10**40)
INTEGERS |= st.sampled_from([2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**19])
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | INTEGERS | FLOATS | TEXTS
LISTS = st.lists(SCALARS, max_size=3)
VALUES = SCALARS | LISTS | st.dictionaries(TEXTS, SCALARS | LISTS, max_size=3) | st.lists(LISTS)
FIELDS = st.lists(st.tuples(TEXTS, VALUES), max_size=3)


def row(before: list[tuple], after: list[tuple], text: str) -> dict:
    """A row with a prompt somewhere among other fields."""
    return {**dict(before), "prompt": f"Add {text}", **{k: v for k, v in after if k != "prompt"}}


ROWS = st.lists(st.builds(row, FIELDS, FIELDS, TEXTS), min_size=1, max_size=2)


def file(rows: list[dict], escape, separators, newline, blank, end, encoding) -> bytes:
    """A JSONL file in one of the shapes that files come in."""
    lines = [json.dumps(row, ensure_ascii=escape, separators=separators) for row in rows]
    return ((newline + blank).join([blank.strip(" "), *lines]) + end).encode(encoding)


FILES = st.builds(
    file,
    ROWS,
    st.booleans(),
    st.sampled_from([(", ", ": "), (",", ":"), (" ,", "\t:")]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\n", " \r\n", "\t\n\n"]),
    st.sampled_from(["", "\n", "\r\n", "\n\n"]),
    st.sampled_from(["utf-8", "utf-8-sig"]),
)


def strictly_read(content: bytes) -> list[dict]:
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [json.loads(line) for line in lines if line.strip()]


@settings(max_examples=300)
@given(FILES)
def test_every_file_loads_as_json_loads_reads_its_lines(content):
    loaded, expected = load(content), strictly_read(content)
    assert loaded == expected
    assert json.dumps(loaded) == json.dumps(expected)  # also the order, 1 against 1.0, -0.0


@settings(max_examples=150)
@given(
    st.lists(st.builds(row, FIELDS, st.just([]), TEXTS), min_size=2, max_size=2),
    st.integers(0, 200),
    st.sampled_from(["", *'{}[]",:\\ 0.-eu']),
    st.booleans(),
)
def test_a_slip_of_one_character_is_refused_at_its_line_or_read_as_json_loads_does(
    problems, place, slip, replace
):
    first, second = map(json.dumps, problems)
    place %= len(second)
    second = second[:place] + slip + second[place + replace :]
    content = f"{first}\n{second}\n".encode()
    try:
        expected = strictly_read(content)
    except ValueError:
        assert refusal(content).startswith("bench.jsonl:2: ")
    else:
        if re.search("[\ud800-\udfff]", expected[1].get("prompt", "")):
            assert refusal(content).startswith("row 2: half a surrogate")
        elif "prompt" in expected[1]:
            finite = json.loads(json.dumps(expected), parse_constant=lambda _: None)
            assert json.dumps(load(content)) == json.dumps(finite)  # 1309 may become 1e309
        else:
            assert refusal(content).startswith("row 2 ")


@pytest.mark.parametrize(
    "literal",
    [
        *("12345678901234567890", "-98765432109876543210987654321098765432109876543210"),
        *("9223372036854775808", "18446744073709551616", "9007199254740993", "-0", "-0.0", "1.0"),
        *(
            "0.1000000000000000055511151231257827",
            "5e-324",
            "1.7976931348623157e308",
            "1E+2",
            "2e0",
        ),
        *("0.30000000000000004", "123456789012345678901234567890.5", '"001"', '"2024-01-02"'),
        *(r'"\ud800"', r'"\ud83d\ude00"', r'"\/"', r'"\u2028"', '"\u2028"', '"\x7f"', "[]", "{}"),
        *("[1, null, [2.50]]", '{"b": 1, "a": {"": null}}', '{"a": 1, "a": 2}'),
    ],
)
def test_a_value_keeps_its_kind_and_every_digit(literal):
    line = f'{{"task_id": "HumanEval/1", "prompt": "x", "input": [[{literal}]], "z": {literal}}}\n'
    rows = load(f'{{"prompt": "a field of its own", "y": 1}}\n{line}')
    assert json.dumps(rows[1]) == json.dumps(json.loads(line))
    assert list(rows[0]) == ["prompt", "y"]


def test_nan_and_infinities_become_null():
    assert load(
        '{"prompt": "x", "v": [NaN, Infinity, {"w": -Infinity}], "n": NaN, "big": 1e999}'
    ) == [{"prompt": "x", "v": [None, None, {"w": None}], "n": None, "big": None}]


def test_a_large_benchmark_loads_whole():
    problems = [
        {"task_id": n, "prompt": f"{n} " + "x\u2028" * 1000, "n": 10**n} for n in range(1140)
    ]
    assert load(jsonl(problems)) == problems


def zipped(*contents: bytes) -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, content in enumerate(contents):
            archive.writestr(f"{number}.jsonl", content)
    return stream.getvalue()


COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pyarrow.compress(data, codec="zstd", asbytes=True),
    ".zip": zipped,
}
PROBLEMS = [{"task_id": n, "prompt": f"Problem {n}.", "text": f"é\u2028 {n}"} for n in range(100)]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_compressed_file_loads_as_it_does_unpacked(suffix):
    lines = jsonl(PROBLEMS).encode()
    assert load(COMPRESS[suffix](b"\xef\xbb\xbf" + lines), f"bench.jsonl{suffix}") == PROBLEMS
    if suffix == ".zip":
        return
    half = len(lines) // 2
    joined = COMPRESS[suffix](lines[:half]) + COMPRESS[suffix](lines[half:])
    assert load(joined, f"joined.jsonl{suffix}") == PROBLEMS


def test_an_archive_of_two_files_is_refused():
    message = refusal(zipped(GOOD.encode(), GOOD.encode()), "two.jsonl.zip")
    assert "two.jsonl.zip" in message


def test_pandas_hands_out_the_lines_of_a_file_as_they_are():
    """The reader's `data` is no documented part of pandas: this notices when it changes."""
    content = '{"prompt": "001", "big": 1e400}\n\n{"prompt": 12345678901234567890123}\r\nno JSON'
    Path("bench.jsonl.gz").write_bytes(gzip.compress(content.encode()))
    with pandas.read_json("bench.jsonl.gz", lines=True, chunksize=1, encoding="utf-8") as reader:
        assert reader.data.read().replace("\r\n", "\n") == content.replace("\r\n", "\n")


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_damaged_compressed_file_is_refused_by_name(suffix):
    whole = COMPRESS[suffix](jsonl(PROBLEMS).encode())
    assert f"torn.jsonl{suffix}" in refusal(whole[: len(whole) // 2], f"torn.jsonl{suffix}")
    assert f"short.jsonl{suffix}" in refusal(whole[:-1], f"short.jsonl{suffix}")
    assert f"plain.jsonl{suffix}" in refusal(jsonl(PROBLEMS), f"plain.jsonl{suffix}")
    assert f"broken.jsonl{suffix}:2: " in refusal(
        COMPRESS[suffix](b'{"prompt": "x"}\n{"prompt": \n'), f"broken.jsonl{suffix}"
    )


# --- addresses ---


class Files(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def website(tmp_path):
    """The address of a server of the files in the folder of the test."""
    handler = partial(Files, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_file_is_read_from_its_address(website, suffix):
    content = jsonl(PROBLEMS).encode()
    Path(f"b.jsonl{suffix}").write_bytes(COMPRESS[suffix](content) if suffix else content)
    assert load_benchmark(f"{website}/b.jsonl{suffix}") == PROBLEMS


def test_a_benchmark_at_an_address_is_asked(website, command):
    problems = write_problems(3)
    assert main(command("--benchmark", f"{website}/problems.jsonl")) == 0
    assert read_jsonl() == records(problems)
    assert run_file()["benchmark"]["name"] == f"{website}/problems.jsonl"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("WEBSITE/none.jsonl", ["none.jsonl", "404"]),
        ("WEBSITE/page.html", ["page.html:1", "HTML"]),
        ("http://127.0.0.1:9/b.jsonl", ["127.0.0.1:9", "refused"]),
        ("s3://bucket/b.jsonl", ["s3://bucket/b.jsonl", "s3fs"]),
        ("gs://bucket/b.jsonl", ["gs://bucket/b.jsonl", "gcsfs"]),
        ("abc://host/b.jsonl", ["abc://host/b.jsonl", "abc"]),
    ],
)
def test_an_address_that_cannot_be_read_is_one_line(website, command, told, address, words):
    Path("page.html").write_text("<!DOCTYPE html>\n<p>Log in.</p>\n")
    assert main(command("--benchmark", address.replace("WEBSITE", website))) == 1
    (line,) = told().strip().split("\n")
    assert [word for word in words if word not in line] == [] and len(line) < 500


# --- local files: what is refused, and where ---

GOOD = '{"prompt": "x"}\n'


@pytest.mark.parametrize(
    ("content", "place", "word"),
    [
        (f"{GOOD}3\n{GOOD}", 2, "not a JSON object"),
        (f'{GOOD}\n"text"\n', 3, "not a JSON object"),
        (f"{GOOD}null\n", 2, "not a JSON object"),
        (GOOD.encode() + b'{"prompt": "\xe9"}\n', 2, "'utf-8' codec can't decode"),
        (GOOD.encode("utf-16"), 1, "'utf-8' codec can't decode"),
        ('[{"prompt": "x"}, {"prompt": "y"}]\n', 1, "array"),
        ('[\n  {"prompt": "x"},\n  {"prompt": "y"}\n]\n', 1, "array"),
        ('\ufeff[\n  {"prompt": "x"}\n]\n', 1, "array"),
        ('{\n  "prompt": "x"\n}\n', 1, "not valid JSON"),
        (f'{GOOD}{{"prompt": \n{GOOD}', 2, "not valid JSON"),
        (f'{GOOD}{{"prompt": "x"}} x\n{GOOD}', 2, "not valid JSON"),
        (f'{GOOD}{{"prompt": "x"}}{{"prompt": "y"}}\n', 2, "not valid JSON"),
        (f'{GOOD}{{"prompt": "x"', 2, "not valid JSON"),
        (f"{GOOD}{{'prompt': 'x'}}\n", 2, "not valid JSON"),
        (f'{GOOD}{{"prompt": "x",}}\n', 2, "not valid JSON"),
        (f'{GOOD}{{"prompt": "a\tb"}}\n', 2, "not valid JSON"),
        (f'{GOOD}{{"prompt": "x", "v": {"[" * 100_000}\n', 2, "not valid JSON"),
        (f'{GOOD}{{"prompt": "x", "v": {"1" * 5000}}}\n', 2, "not valid JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",
)
def test_a_line_that_cannot_be_read_is_named(content, place, word):
    message = refusal(content)
    assert message.startswith(f"bench.jsonl:{place}: ") and word in message


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("b.csv", "task_id,prompt\n1,x\n", "table"),
        ("b.jsonl", "task_id\tprompt\n1\tx\n", "table"),
        ("b.parquet", b"PAR1\x15\x04\x15\x10", "Parquet"),
        ("b.jsonl", '{\n  "prompt": "x"\n}\n', "spread over lines"),
        ("b.json", '[{"prompt": "x"}]', "array"),
        ("b.jsonl", GOOD.encode("utf-16"), "UTF-16"),
        ("b.jsonl", gzip.compress(GOOD.encode(), mtime=0), "gzip"),
        ("b.json", '{"a/1": {"prompt": "x"}, "a/2": {"prompt": "y"}}', "one JSON object"),
        ("b.jsonl", "<html><body>Sign in</body></html>", "HTML"),
    ],
)
def test_a_file_of_another_kind_is_told_what_it_looks_like(name, content, word):
    message = refusal(content, name)
    assert (name in message and word in message and "one JSON object a line" in message) or (
        word == "one JSON object" and "one a line" in message
    )


@pytest.mark.parametrize("content", ["", "\n \n\t\r\n", "\ufeff", "\ufeff\n"])
def test_a_file_without_a_problem_says_so(content):
    assert "bench.jsonl" in refusal(content) and "empty" in refusal(content)


@pytest.mark.parametrize(
    "path",
    [
        *("x.json", "x.jsonl", "x.jsonl.gz", "org/x.JSONL", "./x", "../x/y", "~/x", "~/x.jsonl"),
        *("data/sets/x", "/no/such/x", "x.parquet"),
    ],
)
def test_a_path_that_does_not_exist_never_goes_to_the_hub(path, tmp_path, monkeypatch):
    with FakeHub() as hub:
        for name, value in hub.env(tmp_path).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(CompletionsError, match=r"no such benchmark file: .*x"):
            load_benchmark(path)
        assert hub.log == []


def test_a_file_with_the_name_of_a_dataset_is_a_file():
    Path("org").mkdir()
    assert load(GOOD, "org/name") == load(GOOD, "humaneval") == [{"prompt": "x"}]


def test_a_config_or_revision_for_a_file_is_refused():
    assert "--config" in refusal(GOOD, config="lua")
    assert "--revision" in refusal(GOOD, revision="main")


@pytest.mark.parametrize("bad", [{}, {"prompt": None}, {"prompt": " \n"}, {"prompt": ["x"]}])
def test_a_row_without_a_prompt_is_named_with_its_columns(bad, server, command, capsys):
    Path("problems.jsonl").write_text(jsonl([{"prompt": "x"}, {"task": 1, **bad, "question": "y"}]))
    assert main(command()) == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert "row 2 " in message and "'prompt'" in message and "--prompt-column" in message
    assert ", ".join(["task", *bad, "question"]) in message
    assert server.requests == [] and not Path("out.jsonl").exists()


def test_an_odd_name_of_a_column_does_not_break_the_line():
    assert "row 1 " in refusal('{"text\\nof two lines": "x", "\\u2028": 1}\n')
    assert "--prompt-column of none" in refusal("{}\n")


def test_the_prompt_column_of_a_file_is_asked(server, command):
    problems = [{"prompt": None, "question": "Add two numbers."}, {"question": "Sort."}]
    assert load(jsonl(problems), "problems.jsonl", prompt_column="question") == problems
    assert main(command("--prompt-column", "question")) == 0
    asked = {request.prompt.partition("\n")[0] for request in server.requests}
    assert asked == {"Add two numbers.", "Sort."}


# --- the Hub, by the real datasets library in a process of its own ---

CHILD = """
import json, sys, completions
for benchmark, options in json.loads(sys.argv[1]):
    try:
        result = completions.load_benchmark(benchmark, **options)
    except completions.CompletionsError as error:
        result = str(error)
    print(json.dumps(result, allow_nan=False))
"""
CARD = """---
configs:
- config_name: lua
  data_files: [{split: test, path: lua.jsonl}]
- config_name: rust
  data_files: [{split: test, path: rust.jsonl}]
---
"""
NOON = datetime(2024, 1, 2, 12, 0, 0, 250000)
ODD = {
    "prompt": "x",
    "nan": float("nan"),
    "scores": [1.5, float("nan"), float("-inf")],
    "day": NOON.date(),
    "at": NOON.time(),
    "naive": NOON,
    "aware": NOON.replace(tzinfo=UTC),
    "inside": {"since": date(1815, 12, 10), "nights": [clock_time(23, 59)]},
    "none": None,
    "big": 2**62 + 1,
}
ODD_AS_JSON = {
    "prompt": "x",
    "nan": None,
    "scores": [1.5, None, None],
    "day": "2024-01-02",
    "at": "12:00:00.250000",
    "naive": "2024-01-02T12:00:00.250000",
    "aware": "2024-01-02T12:00:00.250000+00:00",
    "inside": {"since": "1815-12-10", "nights": ["23:59:00"]},
    "none": None,
    "big": 2**62 + 1,
}
PICTURES = [{"prompt": "x", "picture": None}, {"prompt": "y", "picture": {"bytes": b"\x89PNG"}}]
CASES = {
    "parquet": ("org/parquet", {}),
    "jsonl": ("org/jsonl", {}),
    "config": ("org/configs", {"config": "rust"}),
    "slice": ("org/jsonl", {"split": "train[:20]"}),
    "column": ("org/column", {"prompt_column": "text"}),
    "odd": ("org/odd", {}),
    "bytes": ("org/bytes", {}),
    "no prompt": ("org/column", {}),
    "wrong split": ("org/jsonl", {"split": "tset"}),
    "missing config": ("org/configs", {}),
    "wrong config": ("org/configs", {"config": "lau"}),
    "unknown": ("org/none", {}),
    "no name": ("org--none", {}),
    "private": ("org/private", {}),
    "gated": ("org/gated", {}),
    "broken": ("org/broken", {}),
    "script": ("org/script", {}),
    "saved": ("saved", {}),
    "newest": ("org/versions", {}),
    "tag": ("org/versions", {"revision": "v1"}),
    "no such tag": ("org/versions", {"revision": "v2"}),
    **{f"500 at request {n}": (f"org/fault{n}", {}) for n in (0, 1, 3, 5, 9)},
    "500 twice": ("org/fault-twice", {}),
    "folder": ("folder", {}),
    "empty folder": ("empty", {}),
}


def parquet(rows: list[dict]) -> bytes:
    stream = BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
    return stream.getvalue()


def fill(hub: FakeHub):
    lines, data = jsonl(PROBLEMS), {"data/test-00000-of-00001.parquet": parquet(PROBLEMS)}
    hub.add("org/parquet", {**data, "README.md": "No metadata."})
    hub.add("org/jsonl", {"test.jsonl": lines, "train.jsonl": lines})
    hub.add("org/configs", {"README.md": CARD, "lua.jsonl": GOOD, "rust.jsonl": lines})
    hub.add("org/column", {"test.parquet": parquet([{"id": 1, "text": "Add.", "code": "x"}])})
    hub.add("org/odd", {"test.parquet": parquet([ODD])})
    hub.add("org/bytes", {"test.parquet": parquet(PICTURES)})
    hub.add("org/private", data, private=True)
    older = {"test.jsonl": jsonl(PROBLEMS[:50])}
    hub.add("org/gated", {"test.jsonl": lines}, gated=True, tags={"v1": older})
    hub.add("org/versions", {"test.jsonl": lines}, tags={"v1": older})
    hub.add("org/script", {"script.py": "import datasets"})
    hub.add("org/broken", {"test.jsonl": f'{GOOD}{{"prompt": \n'})
    for number in (0, 1, 3, 5, 9):
        hub.add(f"org/fault{number}", {**data, "README.md": "-"}, faults=[None] * number + [500])
    hub.add("org/fault-twice", {**data, "README.md": "-"}, faults=[None, None, 500, None, 503])


def load_in_child(cases, folder: Path, env: dict) -> list:
    """Load benchmarks in one process; rows or the message of the refusal for each."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(list(cases))],
        env=os.environ | env | {"PYTHONPATH": str(ROOT)},
        **{"cwd": folder, "capture_output": True, "text": True, "timeout": 120},
    )
    assert child.returncode == 0, child.stderr
    return [json.loads(line) for line in child.stdout.split("\n")[:-1]]  # and nothing else


@pytest.fixture(scope="module")
def hub():
    with FakeHub() as hub:
        fill(hub)
        yield hub


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A cache for all tests here: what was loaded once can be loaded offline."""
    home = tmp_path_factory.mktemp("home")
    (home / "empty").mkdir()
    (home / "folder").mkdir()
    (home / "folder" / "test.jsonl").write_text(jsonl(PROBLEMS))
    (home / "saved").mkdir()  # as Dataset.save_to_disk leaves it
    (home / "saved" / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    (home / "saved" / "dataset_info.json").write_text("{}")
    table = pyarrow.Table.from_pylist(PROBLEMS)
    with pyarrow.ipc.new_stream(home / "saved" / "data.arrow", table.schema) as stream:
        stream.write_table(table)
    return home


@pytest.fixture(scope="module")
def loaded(hub, home) -> dict:
    results = load_in_child(CASES.values(), home, hub.env(home))
    return dict(zip(CASES, results, strict=True))


@pytest.mark.parametrize("case", ["parquet", "jsonl", "config", "folder"])
def test_a_dataset_loads_row_by_row_as_it_is(loaded, case):
    assert loaded[case] == PROBLEMS
    assert list(loaded[case][0]) == ["task_id", "prompt", "text"]


def test_a_slice_and_a_column_of_another_name_can_be_chosen(loaded):
    assert loaded["slice"] == PROBLEMS[:20]
    assert loaded["column"] == [{"id": 1, "text": "Add.", "code": "x"}]


def test_a_revision_pins_the_rows(loaded):
    assert loaded["newest"] == PROBLEMS and loaded["tag"] == PROBLEMS[:50]


def test_nan_becomes_null_and_dates_and_times_iso_text(loaded):
    assert loaded["odd"] == [ODD_AS_JSON] and list(loaded["odd"][0]) == list(ODD)


REFUSALS = {
    "bytes": ["row 2", "'picture'", "bytes"],
    "no prompt": ["row 1", "'prompt'", "--prompt-column", "id, text, code"],
    "wrong split": ["org/jsonl", "tset", "train", "test", "--split"],
    "missing config": ["org/configs", "lua", "rust", "--config"],
    "wrong config": ["org/configs", "lau", "lua", "rust", "--config"],
    "unknown": ["org/none", "HF_TOKEN"],
    "no name": ["org--none", "Cannot have -- or .."],
    "private": ["org/private", "HF_TOKEN"],
    "gated": ["org/gated", "gated", "HF_TOKEN"],
    "broken": ["org/broken", "JSON parse error"],
    "script": ["org/script", "script", "JSONL"],
    "saved": ["saved", "save_to_disk"],
    "no such tag": ["org/versions", "v2"],
    "500 twice": ["org/fault-twice", "503"],
    "empty folder": ["empty", "any data files"],
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_dataset_that_cannot_be_used_says_why_and_what_to_do(loaded, case):
    message = loaded[case]
    assert isinstance(message, str) and "\n" not in message and len(message) < 400
    assert [word for word in REFUSALS[case] if word not in message] == []


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("500 at")])
def test_a_passing_500_of_the_hub_is_tried_once_more(loaded, hub, case):
    assert loaded[case] == PROBLEMS
    name = CASES[case][0]
    assert [status for _, path, status in hub.log if name in path].count(500) == 1


OFFLINE_CASES = [("org/parquet", {}), ("org/never-seen", {}), ("folder", {})]


@pytest.mark.usefixtures("loaded")
def test_without_network_what_is_cached_loads_and_the_rest_is_refused_at_once(hub, home):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen: refused
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        began = time.monotonic()
        cached, other, folder = load_in_child(
            OFFLINE_CASES, home, hub.env(home, HF_ENDPOINT=address)
        )
    assert time.monotonic() - began < 20  # left alone, each of the first two takes 23
    assert cached == folder == PROBLEMS
    assert "org/never-seen" in other and "network" in other and "\n" not in other


@pytest.mark.usefixtures("loaded")
def test_offline_by_setting_asks_the_network_nothing(hub, home):
    hub.log.clear()
    cached, other, folder = load_in_child(OFFLINE_CASES, home, hub.env(home, HF_HUB_OFFLINE="1"))
    assert cached == folder == PROBLEMS
    assert "org/never-seen" in other and "\n" not in other
    assert hub.log == []


# --- the Hub, by the command line ---

NOISE = ("Generating", "examples/s", "Downloading", "Repo card", "arning", "Retry")


def test_a_gated_dataset_runs_with_a_token_and_no_noise(server, start, hub, tmp_path):
    code, told = start(
        *("--benchmark", "org/gated", "--split", "test[:3]", "--prompt-column", "text"),
        *("--revision", "v1"),
        **hub.env(tmp_path / "home", HF_TOKEN=TOKEN),
    ).end()
    assert code == 0, told
    assert read_jsonl() == records(PROBLEMS[:3])
    assert {request.prompt.partition("\n")[0] for request in server.requests} == {
        row["text"] for row in PROBLEMS[:3]
    }
    assert not [word for word in NOISE if word in told]
    source, tag = run_file()["benchmark"], hub.repos["org/gated"].tags["v1"]
    assert source["revision"] == "v1" and source["commit"] == tag.sha


def test_a_folder_with_a_field_that_json_cannot_hold_is_refused_with_no_request_at_all(
    server, start, hub, tmp_path
):
    hub.log.clear()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "test.parquet").write_bytes(parquet(PICTURES))
    code, told = start("--benchmark", "folder", **hub.env(tmp_path / "home")).end()
    (message,) = told.splitlines()
    assert "row 2" in message and "'picture'" in message and "bytes" in message
    assert code == 1
    assert server.requests == [] and hub.log == []
