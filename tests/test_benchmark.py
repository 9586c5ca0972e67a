"""Benchmarks reach the run as they are; a mistake in one is told before any request."""

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
import threading
import zipfile
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from decimal import Decimal
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from conftest import ROOT, jsonl, read_jsonl, records, run_file
from fake_hub import EXPIRED, TOKEN, FakeHub
from hypothesis import given, settings
from hypothesis import strategies as st

from completions import CompletionsError, load_benchmark

GOOD = '{"prompt": "x"}\n'
PROBLEMS = [{"task_id": n, "prompt": f"Problem {n}.", "text": f"é\u2028 {n}"} for n in range(100)]


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
    *("2024-01-02", "2024-01-02T03:04:05Z", "1/2/2024", "1700000000", "12:30", "P1D", "\ufeff"),
    *("a\u2028b", "a\u2029b", "a\x85b", "\x0b\x0c\x1c\x1d\x1e", "a\r\nb", "\0", "\\n", '"'),
]
TEXTS = st.sampled_from(WORDS) | st.text(max_size=8)
INTEGERS = st.integers() | st.integers(-(10**40), 10**40)
INTEGERS |= st.sampled_from([2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**19])
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | INTEGERS | FLOATS | TEXTS
LISTS = st.lists(SCALARS, max_size=3)
VALUES = SCALARS | LISTS | st.dictionaries(TEXTS, SCALARS | LISTS, max_size=3) | st.lists(LISTS)
FIELDS = st.dictionaries(TEXTS, VALUES, max_size=4)
ROWS = st.lists(FIELDS.map(lambda row: row | {"prompt": "Add."}), min_size=1, max_size=2)
SEPARATORS = st.sampled_from([(", ", ": "), (",", ":"), (" ,", "\t:")])
BETWEEN, AT_END = st.sampled_from(["\n", "\r\n", "\n \r\n"]), st.sampled_from(["", "\n", "\r\n\n"])


@settings(max_examples=300)
@given(ROWS, st.booleans(), SEPARATORS, BETWEEN, AT_END, st.sampled_from(["utf-8", "utf-8-sig"]))
def test_every_file_loads_as_its_lines_do(rows, ascii, separators, between, at_end, encoding):
    """So it is noticed if pandas changes the `data` of its reader, which it does not document."""
    lines = [json.dumps(row, ensure_ascii=ascii, separators=separators) for row in rows]
    loaded = load((between.join(lines) + at_end).encode(encoding))
    expected = [json.loads(line) for line in lines]
    assert json.dumps(loaded) == json.dumps(expected)  # also the order, 1 against 1.0, -0.0


LITERALS = [
    *("-98765432109876543210987654321098765432109876543210", "-0", "-0.0", "1.0", "1E+2", "2e0"),
    *("0.1000000000000000055511151231257827", "123456789012345678901234567890.5", "5e-324"),
    *(r'"\ud800"', r'"\ud83d\ude00"', r'"\/"', '"\x7f"', "[1, [2.50]]", '{"a": 1, "a": 2}'),
]


def test_a_value_keeps_its_kind_and_every_digit_and_nan_becomes_null():
    lines = [f'{{"task_id": "a/1", "prompt": "x", "in": [[{z}]], "z": {z}}}' for z in LITERALS]
    rows = load('{"prompt": "a field of its own", "y": 1}\n' + "\n".join(lines))
    assert [json.dumps(row) for row in rows[1:]] == [json.dumps(json.loads(x)) for x in lines]
    assert list(rows[0]) == ["prompt", "y"]
    assert load('{"prompt": "x", "v": [NaN, {"w": -Infinity}], "n": NaN, "big": 1e999}') == [
        {"prompt": "x", "v": [None, {"w": None}], "n": None, "big": None}
    ]


def zipped(*contents: bytes) -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, content in enumerate(contents):
            archive.writestr(f"{number}.jsonl", content)
    return stream.getvalue()


COMPRESS = {
    **{".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zip": zipped},
    ".zst": lambda data: pyarrow.compress(data, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_compressed_file_loads_as_it_does_unpacked_and_a_damaged_one_is_named(suffix):
    lines, compress = jsonl(PROBLEMS).encode(), COMPRESS[suffix]
    assert load(compress(b"\xef\xbb\xbf" + lines), f"bench.jsonl{suffix}") == PROBLEMS
    if suffix == ".zip":
        assert "two.zip" in refusal(zipped(lines, lines), "two.zip")
    else:  # two that are joined
        half = len(lines) // 2
        assert load(compress(lines[:half]) + compress(lines[half:]), f"2{suffix}") == PROBLEMS
    whole = compress(lines)
    for damaged in (whole[: len(whole) // 2], whole[:-1], lines):
        assert f"torn.jsonl{suffix}" in refusal(damaged, f"torn.jsonl{suffix}")
    assert f"broken{suffix}:2: " in refusal(compress(f"{GOOD}{{\n".encode()), f"broken{suffix}")


# --- addresses ---


@pytest.fixture
def website(tmp_path, monkeypatch):
    """The address of a server of the files in the folder of the test."""
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_benchmark_is_read_from_its_address(website, run, suffix):
    content = jsonl(PROBLEMS).encode()
    Path(f"b.jsonl{suffix}").write_bytes(COMPRESS[suffix](content) if suffix else content)
    assert run("--benchmark", f"{website}/b.jsonl{suffix}", "--limit", 3)[0] == 0
    assert read_jsonl() == records(PROBLEMS[:3])
    assert run_file()["benchmark"]["name"] == f"{website}/b.jsonl{suffix}"


ADDRESSES = {
    **{"WEBSITE/none.jsonl": "404", "WEBSITE/page.html": "page.html:1: not valid JSON"},
    **{"http://127.0.0.1:9/b.jsonl": "refused", "s3://bucket/b.jsonl": "s3fs", "a://b": "a"},
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_that_cannot_be_read_is_one_line(website, run, address):
    Path("page.html").write_text("<!DOCTYPE html>\n<p>Log in.</p>\n")
    full = address.replace("WEBSITE", website)
    code, lines = run("--benchmark", full)
    assert code == 1 and lines.count("\n") == 1 and len(lines) < 500
    assert full in lines and ADDRESSES[address] in lines


# --- local files: what is refused, and where ---


NOT_OBJECTS = ["3", '"text"', "null", '[{"prompt": "x"}]', "[]"]
NOT_JSON = [
    *("task_id,prompt", "<html>Sign in", f"version https://git-lfs.{'v1' * 99}", "PAR1", "{", "["),
    *('{"prompt": ', '{"prompt": "x"} x', "{}{}", '{"prompt": "x"', '{"a": 1,}', "{'a': 1}"),
    *('{"prompt": "\udce9"}', f'{{"v": {"[" * 10**5}', f'{{"v": {"1" * 5000}}}'),
]


@pytest.mark.parametrize("line", [*NOT_OBJECTS, *NOT_JSON])
@pytest.mark.parametrize("before", [0, 1])
def test_a_line_that_cannot_be_read_is_named_with_what_it_begins_with(line, before):
    message = refusal(f"{GOOD * before}{line}\n{GOOD}".encode("utf-8", "surrogateescape"))
    why = "not a JSON object" if line in NOT_OBJECTS else "not valid JSON: "
    assert message.startswith(f"bench.jsonl:{before + 1}: {why}") and line[:12] in message


@pytest.mark.parametrize("content", ["", "\n \n\t\r\n"])
def test_a_file_without_a_problem_or_with_half_a_surrogate_pair_says_so(content):
    assert "bench.jsonl" in refusal(content) and "empty" in refusal(content)
    assert "row 1: half a surrogate pair" in refusal(f'{content}{{"prompt": "a \\ud800 b"}}\n')


PATHS = "x.json x.jsonl x.jsonl.gz org/x.JSONL ./x ../x/y ~/x ~/x.jsonl d/s/x /no/such/x x.parquet"


def test_a_path_that_does_not_exist_never_goes_to_the_hub(tmp_path, monkeypatch):
    with FakeHub() as hub:
        for name, value in hub.env(tmp_path).items():
            monkeypatch.setenv(name, value)
        for path in PATHS.split():
            with pytest.raises(CompletionsError, match=r"no such benchmark file: .*x"):
                load_benchmark(path)
        assert hub.log == []


def test_a_file_with_the_name_of_a_dataset_is_a_file_and_has_no_config_nor_revision():
    Path("org").mkdir()
    assert load(GOOD, "org/name") == load(GOOD, "humaneval") == [{"prompt": "x"}]
    assert "--config" in refusal(GOOD, config="lua")
    assert "--revision" in refusal(GOOD, revision="main")


@pytest.mark.parametrize("bad", [{}, {"prompt": None}, {"prompt": " \n"}, {"prompt": ["x"]}])
def test_a_row_without_a_prompt_is_named_with_its_columns(bad, server, run):
    Path("problems.jsonl").write_text(jsonl([{"prompt": "x"}, {"task": 1, **bad, "a\nb": "y"}]))
    code, message = run()
    assert code == 1 and message.count("\n") == 1
    assert "row 2 " in message and "'prompt'" in message and "--prompt-column" in message
    assert ", ".join(["task", *bad, "a b"]) in message
    assert server.requests == [] and not Path("out.jsonl").exists()


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
    **{"prompt": "x", "nan": float("nan"), "scores": [1.5, float("nan"), float("-inf")]},
    **{"day": NOON.date(), "at": NOON.time(), "naive": NOON, "aware": NOON.replace(tzinfo=UTC)},
    "inside": {"since": date(1815, 12, 10), "nights": [clock_time(23, 59)]},
    **{"none": None, "big": 2**62 + 1},
}
ODD_AS_JSON = {
    **{"prompt": "x", "nan": None, "scores": [1.5, None, None]},
    **{"day": "2024-01-02", "at": "12:00:00.250000", "naive": "2024-01-02T12:00:00.250000"},
    "aware": "2024-01-02T12:00:00.250000+00:00",
    "inside": {"since": "1815-12-10", "nights": ["23:59:00"]},
    **{"none": None, "big": 2**62 + 1},
}
NO_JSON = {"bytes": b"\x89PNG", "Decimal": Decimal("1.5"), "timedelta": timedelta(1)}
# A benchmark, its options, and what comes of it: rows, or the words that its refusal has.
CASES: dict[str, tuple[str, dict, list]] = {
    "parquet": ("org/parquet", {}, PROBLEMS),
    "config": ("org/configs", {"config": "rust"}, PROBLEMS),
    "slice": ("org/jsonl", {"split": "train[:20]"}, PROBLEMS[:20]),
    "column": ("org/column", {"prompt_column": "text"}, [{"id": 1, "text": "Add.", "code": "x"}]),
    "odd": ("org/odd", {}, [ODD_AS_JSON]),
    "newest": ("org/versions", {}, PROBLEMS),
    "tag": ("org/versions", {"revision": "v1"}, PROBLEMS[:50]),
    "folder": ("folder", {}, PROBLEMS),
    **{name: (f"org/{name}", {}, ["row 2", "'odd'", name]) for name in NO_JSON},
    "no prompt": ("org/column", {}, ["row 1", "'prompt'", "--prompt-column", "id, text, code"]),
    "wrong split": ("org/jsonl", {"split": "tset"}, ["org/jsonl", "tset", "train", "--split"]),
    "missing config": ("org/configs", {}, ["org/configs", "lua", "rust", "--config"]),
    "wrong config": ("org/configs", {"config": "lau"}, ["lau", "lua", "rust", "--config"]),
    "unknown": ("org/none", {}, ["org/none", "HF_TOKEN"]),
    "no name": ("org--none", {}, ["org--none", "Cannot have -- or .."]),
    "gated": ("org/gated", {}, ["org/gated", "gated", "HF_TOKEN"]),
    "broken": ("org/broken", {}, ["org/broken", "JSON parse error"]),
    "script": ("org/script", {}, ["org/script"]),
    "no such tag": ("org/versions", {"revision": "v2"}, ["org/versions", "v2"]),
    "empty folder": ("empty", {}, ["empty", "any data files"]),
}


def parquet(*rows: dict) -> bytes:
    stream = BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def hub():
    with FakeHub() as hub:
        lines, data = jsonl(PROBLEMS), parquet(*PROBLEMS)
        files = {"data/test-00000-of-00001.parquet": data, "README.md": "No metadata."}
        hub.add("org/parquet", files)
        hub.add("org/jsonl", {"test.jsonl": lines, "train.jsonl": lines})
        hub.add("org/configs", {"README.md": CARD, "lua.jsonl": GOOD, "rust.jsonl": lines})
        hub.add("org/column", {"test.parquet": parquet({"id": 1, "text": "Add.", "code": "x"})})
        hub.add("org/odd", {"test.parquet": parquet(ODD)})
        for name, value in NO_JSON.items():
            rows = {"prompt": "x", "odd": None}, {"prompt": "y", "odd": value}
            hub.add(f"org/{name}", {"test.parquet": parquet(*rows)})
        older = {"test.jsonl": jsonl(PROBLEMS[:50])}
        hub.add("org/gated", {"test.jsonl": lines}, gated=True, tags={"v1": older})
        hub.add("org/versions", {"test.jsonl": lines}, tags={"v1": older})
        hub.add("org/script", {"script.py": "import datasets"})
        hub.add("org/broken", {"test.jsonl": f'{GOOD}{{"prompt": \n'})
        yield hub


def load_in_child(cases: list, folder: Path, env: dict) -> list:
    """Load benchmarks in one process; rows or the message of the refusal for each."""
    command = [sys.executable, "-c", CHILD, json.dumps([case[:2] for case in cases])]
    env = os.environ | env | {"PYTHONPATH": str(ROOT)}
    child = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return [json.loads(line) for line in child.stdout.split("\n")[:-1]]  # and nothing else


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A cache for all tests here: what was loaded once can be loaded offline."""
    home = tmp_path_factory.mktemp("home")
    (home / "empty").mkdir()
    (home / "folder").mkdir()
    (home / "folder" / "test.jsonl").write_text(jsonl(PROBLEMS))
    return home


@pytest.fixture(scope="module")
def loaded(hub, home) -> dict:
    results = load_in_child(list(CASES.values()), home, hub.env(home))
    return dict(zip(CASES, results, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_a_dataset_loads_row_by_row_as_it_is_or_says_why_not_and_what_to_do(loaded, case):
    result, (*_, expected) = loaded[case], CASES[case]
    if isinstance(expected[0], dict):
        assert result == expected and list(result[0]) == list(expected[0])
    else:
        assert isinstance(result, str) and "\n" not in result and len(result) < 1200
        assert [word for word in expected if word not in result] == []


@pytest.mark.usefixtures("loaded")
def test_offline_what_is_cached_loads_and_the_network_is_asked_nothing(hub, home):
    hub.log.clear()
    cases = [("org/parquet", {}), ("org/never-seen", {}), ("folder", {})]
    cached, other, folder = load_in_child(cases, home, hub.env(home, HF_HUB_OFFLINE="1"))
    assert cached == folder == PROBLEMS
    assert "org/never-seen" in other and "\n" not in other
    assert hub.log == []


@pytest.mark.parametrize(
    ("home", "token", "words"),
    [
        ("file", TOKEN, ["HF_HOME", "/file"]),  # where not even root can write
        ("home", EXPIRED, ["HF_TOKEN", "Invalid credentials", "expired", "public"]),
    ],
)
def test_a_bad_cache_or_an_expired_token_is_told(hub, tmp_path, home, token, words):
    Path("file").write_text("")
    env = hub.env(tmp_path / home, HF_TOKEN=token)
    (message,) = load_in_child([("org/jsonl", {})], tmp_path, env)
    assert [word for word in words if word not in message] == [] and "\n" not in message


# --- the Hub, by the command line ---

NOISE = ("Generating", "examples/s", "Downloading", "Repo card", "arning", "Retry")


def test_a_gated_dataset_runs_with_a_token_and_no_noise(server, start, hub, tmp_path):
    code, lines = start(
        *("--benchmark", "org/gated", "--split", "test[:3]", "--prompt-column", "text"),
        *("--revision", "v1"),
        **hub.env(tmp_path / "home", HF_TOKEN=TOKEN),
    ).end()
    assert code == 0 and read_jsonl() == records(PROBLEMS[:3]), lines
    prompts = {request.prompt.partition("\n")[0] for request in server.requests}
    assert prompts == {row["text"] for row in PROBLEMS[:3]}
    assert not [word for word in NOISE if word in lines]
    source, tag = run_file()["benchmark"], hub.repos["org/gated"].tags["v1"]
    assert source["revision"] == "v1" and source["commit"] == tag.sha
