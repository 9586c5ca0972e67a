"""The promises of the README, in its order, kept against a scripted model on a real HTTP server."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import (
    ANTHROPIC,
    OPENAI,
    PROXY,
    ROOT,
    VLLM,
    answered,
    asked,
    jsonl,
    last_line,
    read_jsonl,
    records,
    run_file,
    wait_for,
    write_problems,
)
from fake_llm import ANSWER, Reply

import completions
from completions import CompletionsError, batches, main_with_args, make_prompt

OPTIONS = {
    **{"model": OPENAI, "benchmark": "problems.jsonl", "lang": "Lua"},
    **{"temperature": 0.2, "max_tokens": 5000, "top_p": 0.95, "batch_size": 2},
    "output_path": "out.jsonl",
}
BOM = b"\xef\xbb\xbf"

# --- the main job ---


def test_each_problem_gets_a_record_with_its_fields_response_and_program(run, monkeypatch):
    import litellm

    sizes, original = [], litellm.batch_completion

    def batch_completion(**options):
        sizes.append(len(options["messages"]))
        return original(**options)

    monkeypatch.setattr(litellm, "batch_completion", batch_completion)
    problems = write_problems(12)
    code, lines = run("--batch-size", 5)
    assert code == 0 and "12 of 12 answered" in lines and read_jsonl() == records(problems)
    assert list(read_jsonl()[0]) == ["task_id", "prompt", "none", "response", "program"]
    assert sizes == [5, 5, 2]


def test_what_is_sent_is_one_user_message_and_the_settings(server, run):
    assert run("--lang", "Lua /nothink", problems=1)[0] == 0
    none = ("--temperature", "none", "--top-p", "none", "--max-tokens", "none", "--param", "seed=7")
    params = ('stop=["--"]', "reasoning_effort=high", 'extra_body={"min_p": 0.1}')
    options = [word for param in params for word in ("--param", param)]
    assert run(*none, *options, "--output-path", "none.jsonl", model=VLLM)[0] == 0
    usual, none = (request.body for request in server.requests)
    text = "Problem 0.\n\nSolve this problem using Lua /nothink."
    assert usual["messages"] == [{"role": "user", "content": text}]
    assert usual["temperature"] == 0.2 and usual["top_p"] == 0.95 and usual["max_tokens"] == 5000
    assert not none.keys() & {"temperature", "top_p", "max_tokens", "max_completion_tokens"}
    assert none["seed"] == 7 and none["stop"] == ["--"]
    assert none["reasoning_effort"] == "high" and none["min_p"] == 0.1


def test_batches_reads_no_item_early_and_make_prompt_changes_no_character(capsys):
    prompt = "  tabs\t, \u2028 and\r\n spaces  \n"
    (message,) = make_prompt({"prompt": prompt}, "C#")
    assert message == {"role": "user", "content": f"{prompt}\n\nSolve this problem using C#."}
    items = (n for n in range(5))
    assert next(batches(items, 2)) == [0, 1] and next(items) == 2
    assert list(batches(items, 3)) == [[3, 4]] and "2it" in capsys.readouterr().err


def test_every_problem_gets_its_first_sample_before_any_gets_its_second(server, run):
    assert run("--num-samples", 2, "--batch-size", 1, problems=3)[0] == 0
    assert answered() == [0, 1, 2] * 2
    assert run("--num-samples", 3)[0] == 0
    assert Counter(answered()) == {0: 3, 1: 3, 2: 3} and len(server.requests) == 9


def test_records_are_strict_ascii_json_lines_and_fields_that_they_overwrite_are_told(server, run):
    rows = [{"prompt": "ü", "program": "old", "big": 10**30}, {"prompt": "y", "response": "old"}]
    server.replies = lambda request: Reply("é\u2028\n```lua\nx = 'ü'\n```")
    Path("problems.jsonl").write_text(jsonl(rows))
    code, lines = run()
    (line,) = [line for line in lines.split("\n") if "overwritten" in line]
    assert code == 0 and "program" in line and "response" in line
    output = Path("out.jsonl").read_bytes()
    assert output.isascii() and output.count(b"\n") == 2 and b'"big": 1000000000000000000' in output
    first, second = read_jsonl()
    assert list(first) == ["prompt", "program", "big", "response"]
    assert list(second) == ["prompt", "response", "program"]
    assert first["program"] == second["program"] == "x = 'ü'"


def test_empty_and_truncated_answers_are_records_and_counted(server, run):
    contents = [None, "", [], [{"type": "text", "text": ""}]]
    truncated = Reply("```lua\nreturn", finish="length")
    server.replies = {n: Reply(content) for n, content in enumerate(contents)} | {4: truncated}
    code, lines = run(problems=5)
    assert code == 0 and "1 truncated, 4 empty, 4 without a program" in lines
    expected = [("", None)] * 4 + [("```lua\nreturn", "return")]
    assert [(row["response"], row["program"]) for row in read_jsonl()] == expected
    assert run_file()["totals"]["truncated"] == 1 and run_file()["totals"]["empty"] == 4


def test_details_tell_what_each_answer_took_and_null_where_that_is_unknown(server, run):
    reasoned = Reply(finish="length", message={"reasoning_content": "Let me see."}, seconds=0.2)
    server.replies = {0: reasoned, 1: Reply(usage=None)}
    problems = write_problems(2)
    assert run("--details", model="openai/gpt-4.1-nano")[0] == 0
    row = read_jsonl()[0]
    seconds, cost = row["details"].pop("seconds"), row["details"].pop("cost")
    assert list(row) == [*problems[0], "response", "program", "details"]
    assert row["details"] == {
        **{"finish_reason": "length", "reasoning": "Let me see."},
        **{"prompt_tokens": 10, "completion_tokens": 20, "reasoning_tokens": 5},
    }
    assert 0.2 <= seconds < 20 and 0 < cost < 0.001
    assert run("--details", "--output-path", "none.jsonl", model=VLLM)[0] == 0
    unknown = read_jsonl("none.jsonl")[1]["details"]
    assert unknown.pop("seconds") > 0 and unknown.pop("finish_reason") == "stop"
    assert len(unknown) == 5 and set(unknown.values()) == {None}


def test_no_seconds_are_negative_when_the_clock_is_set_back():
    choice = SimpleNamespace(finish_reason="stop", message=SimpleNamespace(content=ANSWER))
    response = SimpleNamespace(choices=[choice], _response_ms=-5000.0)
    answer = completions.Answer({}, response, completions.Options(**OPTIONS, details=True))
    assert json.loads(answer.line)["details"]["seconds"] in (None, 0)


def test_the_cost_that_a_proxy_tells_and_tokens_without_their_total_count(server, run):
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    server.replies = lambda request: Reply(usage=usage, headers={"x-litellm-response-cost": "0.5"})
    code, lines = run(model=PROXY, problems=2)
    assert code == 0 and "6 tokens in, 8 out" in lines and "$1.0" in lines
    assert run_file()["totals"]["cost"] == 1 and run_file()["totals"]["completion_tokens"] == 8


# --- if it stops: the same command again ---


def test_a_finished_output_sends_nothing_and_a_smaller_limit_is_extended(server, run):
    assert run("--limit", 2, "--details", problems=3)[0] == run()[0] == 0
    assert ["details" in row for row in read_jsonl()] == [True, True, False]
    before, totals = Path("out.jsonl").read_bytes(), run_file()["totals"]
    assert "3 of 3 answered" in run()[1] and "2 of 2 answered" in run("--limit", 2)[1]
    assert len(server.requests) == 3 and Path("out.jsonl").read_bytes() == before
    assert run_file()["totals"] == totals and run_file()["finished"]


def test_identical_problems_each_get_their_own_record_and_surplus_ones_are_told(server, run):
    Path("problems.jsonl").write_text('{"prompt": "same"}\n' * 3)
    assert run("--limit", 2)[0] == 0 and len(read_jsonl()) == 2
    code, lines = run()
    assert code == 0 and len(read_jsonl()) == len(server.requests) == 3 and "more" not in lines
    assert "more" not in run("--limit", 1)[1]
    Path("out.jsonl").write_bytes(2 * Path("out.jsonl").read_bytes())  # joined twice
    code, lines = run()
    assert code == 0 and re.search("(?m)^3 records more .*--num-samples 1", lines)
    assert len(server.requests) == 3 and len(read_jsonl()) == 6


DAMAGED = [
    (lambda whole: whole[:-20], 1, "truncated a torn last line"),
    (lambda whole: whole + bytes(4096), 0, "truncated a torn last line of 4096"),
    (lambda whole: whole.rstrip(b"\n"), 0, ""),
    (lambda whole: BOM + whole, 0, ""),
]


@pytest.mark.parametrize(("damage", "again", "says"), DAMAGED)
def test_an_output_with_a_damaged_end_keeps_whole_records(server, run, damage, again, says):
    problems = write_problems(3)
    assert run("--limit", 2)[0] == 0
    damaged = damage(Path("out.jsonl").read_bytes())
    Path("out.jsonl").write_bytes(damaged)
    code, lines = run()
    assert code == 0 and says in lines and len(server.requests) == 3 + again
    begins = BOM if damaged.startswith(BOM) else b""
    assert Path("out.jsonl").read_bytes() == begins + jsonl(records(problems)).encode()


PROBLEM = '{"task_id": 0, "prompt": "Problem 0.", "none": null'
RECORD = f'{PROBLEM}, "response": "", "program": null'
NOT_OF_THIS_RUN = {
    '{"torn": \n{"prompt": "Problem 0."}\n': '1: not valid JSON.*{"torn"',
    f"{RECORD}}}\n<<<<<<< HEAD\n": "2: not valid JSON.*<<<<<<< HEAD",
    **{"my notes": "1: not valid JSON.*my notes", "[1]\n": "1: not a JSON object"},
    f'{RECORD}, "passed": true}}\n': "1: not a record.* passed",
    '{"prompt": "Problem 0."}': "1: not a record.* none, response, task_id",
    **{RECORD.replace("0.", "9.") + "}\n": "1: not a record", f"{PROBLEM}}}\n": "1: .*: response"},
}


@pytest.mark.parametrize("content", NOT_OF_THIS_RUN)
def test_an_output_that_is_not_of_this_run_is_left_alone(server, run, content):
    Path("out.jsonl").write_text(content)
    code, lines = run(problems=2)
    assert code == 1 and re.search(f"out.jsonl:{NOT_OF_THIS_RUN[content]}", last_line(lines))
    assert Path("out.jsonl").read_text() == content and not server.requests
    assert not Path("out.jsonl.run.json").exists()


# --- if it stops: beside the output, the settings and totals of all its runs ---


def test_the_run_file_says_what_made_the_output(server, run):
    assert run("--limit", 1, problems=4)[0] == 0
    started = run_file()["started"]
    assert (run_file()["wanted"], run_file()["answers"]) == (1, 1)
    assert run("--param", "api_key=sk-secret-123456", "--num-samples", 2)[0] == 0
    content = run_file()
    assert content["started"] == started and content["finished"]
    assert content["settings"] == {
        **{"model": "openai/scripted", "lang": "Lua", "temperature": 0.2, "top_p": 0.95},
        **{"max_tokens": 5000, "prompt_column": "prompt"},
        "param": {"api_base": f"{server.url}/v1", "api_key": "***"},
    }
    assert len(content["benchmark"].pop("sha256")) == 64
    assert content["benchmark"] == {
        **{"name": "problems.jsonl", "config": None, "split": "test", "revision": None},
        **{"commit": None, "problems": 4},
    }
    assert content["versions"].keys() == {"completions", "python", "litellm", "datasets"}
    assert content["versions"]["completions"] == completions.__version__
    assert (content["wanted"], content["answers"]) == (8, 8)
    assert content["totals"] == {
        **{"requests": 8, "prompt_tokens": 80, "completion_tokens": 160, "reasoning_tokens": 40},
        **{"truncated": 0, "empty": 0, "without_program": 0, "cost": None},
    }


OTHER_SETTINGS = {
    "--temperature 0.8": "temperature 0.2, not 0.8",
    "--lang C#": 'lang "Lua", not "C#"',
    "--max-tokens none": "max_tokens 5000, not null",
    "--model openai/other": "model",
    "--top-p 1": "top_p",
    "--param seed=2": "seed 1, not 2",
    "--param stop=x": 'stop null, not "x"',
    "--param thinking_token_budget=1000": "thinking_token_budget null, not 1000",
}


@pytest.mark.parametrize("options", OTHER_SETTINGS)
def test_other_settings_are_refused_even_where_nothing_is_missing(server, run, options):
    assert run("--param", "seed=1", problems=2)[0] == 0
    before = Path("out.jsonl.run.json").read_bytes()
    code, lines = run("--param", "seed=1", *options.split())
    assert code == 1 and f"out.jsonl.run.json has {OTHER_SETTINGS[options]}" in last_line(lines)
    assert Path("out.jsonl.run.json").read_bytes() == before and len(server.requests) == 2


def test_a_run_may_go_on_at_another_address_with_another_key_and_benchmark_file(server, run):
    write_problems(3)
    assert run("--limit", 2)[0] == 0
    write_problems(4, "moved.jsonl")
    params = ("--param", "api_key=sk-2", "--param", 'extra_headers={"X-Team": "b"}')
    url = server.url.replace("127.0.0.1", "localhost")
    assert run(*params, "--benchmark", "moved.jsonl", url=url)[0] == 0
    assert answered() == [0, 1, 2, 3] and len(server.requests) == 4
    Path("out.jsonl.run.json").unlink()
    write_problems(5)
    code, lines = run("--temperature", 1)
    assert code == 0 and "unknown settings" in lines and len(server.requests) == 5


def test_an_output_without_answers_takes_other_settings_and_begins_its_totals_anew(server, run):
    server.replies = lambda request: Reply(finish="length")
    assert run(problems=9)[0] == 0
    Path("out.jsonl").unlink()
    server.replies = {0: Reply(status=404)}
    assert run("--model", "openai/mistyped", "--limit", 1)[0] == 1
    assert run_file()["totals"]["truncated"] == 0 and run_file()["totals"]["requests"] == 1
    server.replies = lambda request: Reply(finish="length")
    code, lines = run("--limit", 3)
    assert code == 0 and run_file()["totals"]["truncated"] == 3 and "3 truncated" in lines
    assert run_file()["settings"]["model"] == "openai/scripted"


DAMAGES = [b"", b"{", b"null", b"[]", b"{}", b'{"settings": 1}', b"\xff\xfe{", "/dev/zero"]
DAMAGES += [b'{"settings": {"param": {}}, "totals": {"cost": "x"}}']


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_file_that_is_not_as_runs_write_it_is_an_error_that_names_it(server, run, damage):
    assert run("--limit", 2, problems=3)[0] == 0
    path = Path("out.jsonl.run.json")
    if damage == "/dev/zero":
        path.unlink()
        path.symlink_to(damage)
    else:
        path.write_bytes(damage)
    code, lines = run()
    assert code == 1 and "out.jsonl.run.json" in last_line(lines) and "remove it" in lines
    assert len(server.requests) == 2 and answered() == [0, 1]
    path.unlink()
    assert run()[0] == 0 and answered() == [0, 1, 2]


def test_the_run_file_is_replaced_as_a_whole_by_a_draft_that_follows_no_link(run):
    assert run("--limit", 1, problems=2)[0] == 0
    Path("precious").write_text("precious")
    Path("out.jsonl.run.json.tmp").symlink_to("precious")
    with open("out.jsonl.run.json", encoding="utf-8") as reader:
        assert run()[0] == 0
        assert json.load(reader)["answers"] == 1  # whole, and of before
    assert run_file()["answers"] == 2 and Path("precious").read_text() == "precious"


def test_the_run_file_is_saved_during_the_run_and_if_it_cannot_be_that_ends_no_run(server, run):
    during = []

    def replies(request):
        during.append(run_file()["answers"])
        if request.problem == 20:
            Path("out.jsonl.run.json.tmp").mkdir()  # in the way of the next draft
        return Reply(seconds=0.15)

    server.replies = replies
    code, lines = run("--batch-size", 2, problems=24)
    assert code == 0 and answered() == list(range(24)) and 0 < during[19] <= 20
    assert "out.jsonl.run.json is not up to date: Is a directory" in lines


def test_a_failed_item_leaves_no_record_and_does_not_cost_its_batch(server, run, backoffs):
    server.replies = {1: Reply(status=500)}
    code, lines = run("--max-retries", 2, problems=3)
    assert code == 1 and answered() == [0, 2] and asked(server) == {0: 1, 1: 3, 2: 1}
    assert "1 failed: 500" in lines and "The server had an error" in lines
    assert last_line(lines) == "1 have no answer; run the same command again to retry them"
    assert run_file()["finished"] is None and run_file()["totals"]["requests"] == 5
    server.replies = {}
    assert run()[0] == 0 and sorted(answered()) == [0, 1, 2] and len(server.requests) == 6


def test_an_unforeseen_error_costs_one_problem_of_its_batch(server, run, monkeypatch):
    monkeypatch.setattr(completions, "extract_code_from_markdown", lambda text, lang: 1 / len(text))
    server.replies = {1: Reply("")}
    code, lines = run(problems=5)
    assert code == 1 and answered() == [0, 2, 3, 4] and len(server.requests) == 5
    assert re.search(r"1 failed: .*division by zero \(test_completions.py:\d+\)", lines)


@pytest.mark.parametrize("moment", ["load_benchmark", "connect", "retry_batch"])
def test_an_unforeseen_error_is_one_line_with_its_place_and_no_hang(run, monkeypatch, moment):
    monkeypatch.setattr(completions, moment, lambda *args, **options: {}["no such name"])
    code, lines = run(problems=3)
    assert code == 1 and (moment != "retry_batch" or answered() == [0, 1, 2])
    assert re.search(r"unforeseen KeyError.*no such name.*\.py:\d+\)", last_line(lines))


# --- if it stops: signals, kills and disks ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["import", "hanging"])
def test_a_signal_ends_a_run_within_2_seconds_at_any_moment(server, start, number, moment):
    server.replies = lambda request: Reply(seconds=0 if request.prompt[8] == "1" else 30)
    each = ("--batch-size", 1, "--concurrent-batches", 64)
    process = start(*each, fresh=moment == "import", problems=70)
    wait_for(Path("out.jsonl").exists)
    if moment == "hanging":
        wait_for(lambda: len(read_jsonl()) == 11)
    began = time.monotonic()
    process.send_signal(number)
    code, lines = process.end(10)
    assert code == 128 + number and time.monotonic() - began < 2
    assert re.search("stopped by .*run the same command again", last_line(lines))
    if moment == "hanging":
        assert "11 of 70 answered in" in lines and "110 tokens in, 220 out" in lines
        assert len(read_jsonl()) == run_file()["totals"]["requests"] == 11


def test_answered_items_are_on_disk_while_failed_ones_wait_for_their_retry(server, start):
    server.replies = {1: Reply(status=429, headers={"Retry-After": "60"})}
    process = start(problems=3)
    wait_for(lambda: Path("out.jsonl").exists() and answered() == [0, 2])
    process.send_signal(signal.SIGINT)
    code, lines = process.end(10)
    assert code == 130 and "retrying 429 at" in lines and "2 of 3 answered" in lines


def test_hard_kills_lose_and_double_nothing_and_repeat_what_was_in_flight(server, start, run):
    server.replies = lambda request: Reply(seconds=0.05)
    for lines in (6, 20, 40):
        process = start("--batch-size", 2, "--concurrent-batches", 2, problems=60)
        wait_for(lambda lines=lines: Path("out.jsonl").exists() and len(answered()) >= lines)
        process.kill()
    assert run()[0] == 0 and sorted(answered()) == list(range(60))
    assert len(server.requests) <= 60 + 3 * 4


def test_a_second_run_on_the_same_output_is_refused(server, start, run):
    server.replies = lambda request: Reply(seconds=1)
    first = start(problems=2)
    wait_for(lambda: server.requests)
    Path("link.jsonl").symlink_to("out.jsonl")
    for path in ("out.jsonl", "link.jsonl"):
        code, lines = run("--output-path", path)
        assert code == 1 and "in use by another run" in lines
    assert first.end()[0] == 0
    assert run()[0] == 0 and len(read_jsonl()) == 2 and len(server.requests) == 2


@pytest.mark.parametrize("batch_size", [3, 30])
def test_a_full_disk_keeps_the_whole_records_that_fit_and_says_so(server, start, run, batch_size):
    pytest.importorskip("resource")
    problems = write_problems(30)
    code, lines = start("--batch-size", batch_size, limits={"RLIMIT_FSIZE": [2000, 2000]}).end()
    end = last_line(lines)
    assert code == 1 and "out.jsonl" in end and "run the same command again" in end
    fit, sent = 2000 // len(jsonl(records(problems[:1]))), len(server.requests)
    assert Path("out.jsonl").read_bytes().count(b"\n") == fit and sent == max(12, batch_size)
    assert run()[0] == 0 and sorted(answered()) == list(range(30))
    assert len(server.requests) == sent + 30 - fit


def replace(path: Path):
    """As an editor and `sed -i` do."""
    Path("copy").write_bytes(path.read_bytes().replace(b"}\n", b"}" + b" " * 9999 + b"\n"))
    os.replace("copy", path)


@pytest.mark.parametrize("change", [Path.unlink, replace, lambda path: os.truncate(path, 0)])
def test_an_output_removed_replaced_or_emptied_during_the_run_ends_it(server, run, change):
    def replies(request):
        if request.problem == 8 and request.attempt == 1:
            change(Path("out.jsonl"))
        return Reply()

    server.replies = replies
    code, lines = run("--batch-size", 2, problems=30)
    assert code == 1 and "during the run" in last_line(lines) and "out.jsonl" in last_line(lines)
    assert len(server.requests) == 10 and "30 of 30" not in lines
    assert run()[0] == 0 and sorted(answered()) == list(range(30))


def test_a_symbolic_link_is_followed_once_so_that_settings_belong_to_the_file(server, run):
    def replies(request):
        if request.problem == 1:  # the run goes on in the file where it began
            Path("out.jsonl").unlink()
            Path("out.jsonl").symlink_to("other.jsonl")
        return Reply()

    server.replies = replies
    Path("out.jsonl").symlink_to("real.jsonl")
    assert run("--batch-size", 2, problems=4)[0] == 0
    assert answered("real.jsonl") == [0, 1, 2, 3] and not Path("other.jsonl").exists()
    assert run_file("real.jsonl")["answers"] == 4 and not Path("out.jsonl.run.json").exists()
    code, lines = run("--output-path", "real.jsonl", "--temperature", 1)
    assert code == 1 and "temperature 0.2, not 1" in lines


# --- if it stops: keys, which are nowhere ---


def test_every_secret_is_redacted_by_its_name_or_value(server, run, monkeypatch):
    variables = {"SOME_TOKEN_READ": "tok-in-environment", "SHORT_KEY": "refus"}
    for name, value in (variables | {"TOKENIZERS_PARALLELISM": "parallel"}).items():
        monkeypatch.setenv(name, value)
    echo = "refused: tok-in-environment, dXNlcjpwYXNz, http://me:pass@host/, parallel, team-seven"
    server.replies = {0: Reply(status=400, error=echo)}
    headers = '{"Authorization": "Basic dXNlcjpwYXNz", "X-Team": "team-seven"}'
    code, lines = run("--param", f"extra_headers={headers}", problems=1)
    assert code == 1 and "refused: ***, ***, http://***@host/, parallel, ***" in lines
    stored = Path("out.jsonl.run.json").read_text()
    assert "dXNlcjpwYXNz" not in stored and "team-seven" not in stored and "***" in stored


def test_a_secret_is_redacted_in_other_spellings_too(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", 'a/b+c"d12')
    shown = ('a/b+c"d12', 'a/b+c\\"d12', "a%2Fb%2Bc%22d12")  # as text, in JSON, in an address
    assert [completions.redact(text) for text in shown] == ["***"] * 3


SECRETS = [
    *("api_key=SECRET", "auth=SECRET", "extra_headers=Authorization: Bearer SECRET"),
    *('extra_headers={"Cookie": "SECRET"}', 'headers={"X-Any": "SECRET"}'),
    *('extra_query={"api_key": "SECRET"}', 'extra_body={"session_token_x": "SECRET"}'),
    'extra_body={"nested": [{"password": "SECRET"}]}',
    *("api_base=http://SECRET@127.0.0.1:9/v1", "api_base=http://me:SECRET@127.0.0.1:9/v1"),
    *("api_base=http://me:pa/SECRET@127.0.0.1:9/v1", "api_base=http://127.0.0.1:9/v1?key=SECRET"),
    "api_base=http://127.0.0.1:9/v1?sig=SECRET&x=1",
]


@pytest.mark.parametrize("param", SECRETS)
def test_what_param_holds_under_the_name_of_a_secret_is_shown_nowhere(run, param):
    secret = f"s3c-{SECRETS.index(param):02}"  # its own: a value is redacted in all later runs
    _, lines = run("--param", param.replace("SECRET", secret), "--max-retries", 0, problems=1)
    stored = Path("out.jsonl.run.json").read_text()
    assert lines and secret not in lines + stored and "***" in stored


SECRET_MISTAKES = ["--param api_key:sk-typo-123456", "--timeout 0", "--details=sk-typo-123456"]
SECRET_MISTAKES += ["sk-typo-123456", "--api-key=sk-typo-123456", "--batch-size sk-typo-123456"]


@pytest.mark.parametrize("mistake", SECRET_MISTAKES)
def test_a_usage_error_repeats_no_key(run, monkeypatch, mistake):
    monkeypatch.setenv("SOME_API_KEY", "sk-typo-123456")
    code, lines = run("--param", "api_key=sk-typo-123456", *mistake.split())
    assert code == 2 and "sk-typo-123456" not in lines


@pytest.mark.parametrize("model", [OPENAI, VLLM, ANTHROPIC])
def test_as_many_requests_as_asked_for_are_in_flight_on_connections_reused(server, run, model):
    server.replies = lambda request: Reply(seconds=0.1)
    assert run("--batch-size", 3, "--concurrent-batches", 4, model=model, problems=60)[0] == 0
    assert 8 <= server.peak <= 12 and sorted(answered()) == list(range(60))
    assert len(server.connections) <= 24


def test_the_summary_tells_tokens_and_a_known_price_in_few_and_short_lines(run, monkeypatch):
    import litellm

    # In place of a slow import of litellm.
    monkeypatch.setattr(completions, "raise_open_file_limit", lambda needed: time.sleep(1.5))
    code, lines = run("--batch-size", 20, model="openai/gpt-4.1-nano", problems=40)
    assert code == 0 and "40 of 40 answered in 00:00, 0 failed, $0." in lines
    assert "0 truncated" in lines and "400 tokens in, 800 out (200 for reasoning)" in lines
    assert lines.count("\n") < 6 and max(map(len, lines.split("\n"))) <= 80
    price = litellm.model_cost["gpt-4.1-nano"]
    cost = 10 * price["input_cost_per_token"] + 20 * price["output_cost_per_token"]
    assert run_file()["totals"]["cost"] == pytest.approx(40 * cost)


def test_main_with_args_takes_eight_arguments_and_counts_or_raises(server, monkeypatch):
    server.replies = {1: Reply(status=400), 2: Reply(status=401)}
    write_problems(3)
    monkeypatch.setenv("OPENAI_API_BASE", f"{server.url}/v1")
    paths = {"output_path": Path("deep/folder/out.jsonl"), "benchmark": Path("problems.jsonl")}
    assert main_with_args(**OPTIONS | paths, limit=2) == 1
    with pytest.raises(CompletionsError, match=r"401 at .*OPENAI_API_KEY"):
        main_with_args(**OPTIONS | paths)
    server.replies = {}
    assert main_with_args(**OPTIONS | paths) == 0
    assert answered("deep/folder/out.jsonl") == [0, 1, 2]


BAD = """--batch-size=0 --batch-size=99999999999999999999 --batch-size= --concurrent-batches=0
    --concurrent-batches=99999999999 --num-samples=0 --num-samples=99999999999 --limit=0 --limit=1.5
    --temperature=-1 --temperature=nan --temperature=inf --temperature=hot --temperature=
    --top-p=1.5 --top-p=-0.1 --max-retries=-1 --max-retries=999999999999 --timeout=0 --timeout=inf
    --max-tokens=many --max-tokens=0 --prompt-column=response --prompt-column=program
    --prompt-column=details --param=novalue --param=n=3 --param=temperature=1 --param==3
    --temprature=1 --lan=Lua"""
BLANK = "model benchmark lang output-path config split revision prompt-column"
BAD_USAGE = [
    *(([option], option.partition("=")[0]) for option in BAD.split()),
    *(([f"--{name}={blank}"], f"--{name}") for name in BLANK.split() for blank in ("", " \t")),
    *(([f"--param=x={value}"], "JSON") for value in ("['y']", '{"a": 1', '"y', "{'a': 1}")),
    *(([f"--param=x={value}"], "true, false or null") for value in ("True", "False", "None")),
    (["--model=vllm/x", "--concurrent-batches=2"], "hosted_vllm/"),
    (["--num-samples=2", "--param=seed=1"], "seed"),
    *(([f"--param=seed={value}"], "seed is not finite") for value in ("NaN", "1e999")),
    (["--param=api_base="], "not blank"),
]


@pytest.mark.parametrize(("options", "says"), BAD_USAGE)
def test_bad_usage_is_refused_by_argparse(server, run, options, says):
    code, lines = run(*options)
    assert code == 2 and says in last_line(lines)
    assert not server.requests and not Path("out.jsonl").exists()


PATHS_OF_NO_USE = {
    "--output-path": "file/out.jsonl . folder new/ / /dev/null loop.jsonl ~no-such-user/x",
    "--benchmark": ". / problem.jsonl loop.jsonl ~no-such-user/b.jsonl",
}


@pytest.mark.parametrize("option", PATHS_OF_NO_USE)
def test_a_path_that_cannot_be_used_is_told_in_one_line_before_any_request(server, run, option):
    Path("file").write_text("")
    Path("folder").mkdir()
    Path("loop.jsonl").symlink_to("loop.jsonl")
    for path in PATHS_OF_NO_USE[option].split():
        code, lines = run(option, path, problems=1)
        assert code == 1 and lines.count("\n") == 1 and not server.requests
        assert path[0] == "~" or option == "--benchmark" or "cannot write to" in lines


def test_parent_folders_of_the_output_are_made_and_a_tilde_is_expanded(run, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert run("--output-path=~/runs/a/out.jsonl", problems=1)[0] == 0 and not Path("~").exists()
    path = "home/runs/a/out.jsonl"
    assert answered(path) == [0] and run_file(path)["finished"]


def test_help_fits_a_terminal_and_names_every_option_and_exit_code(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        completions.main(["--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and max(map(len, shown.split("\n")[1:])) <= 80
    names = {f"--{name.replace('_', '-')}" for name in completions.Options.__annotations__}
    assert [name for name in (names - {"--stop"}) | {"130", "143"} if name not in shown] == []


# --- the script as a file ---


def run_script(*arguments: str, **variables: str) -> tuple[int, str, set[str]]:
    """Run it in a new interpreter; return the exit code, stderr, and which modules it imported."""
    ended = subprocess.run(
        [sys.executable, str(ROOT / "completions.py"), *arguments],
        env=os.environ | variables | {"PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.stdout == "" and "Traceback" not in ended.stderr
    imported = re.findall(r"(?m)^import time:.*\| +(\S+)$", ended.stderr)
    return ended.returncode, ended.stderr, set(imported)


def test_help_and_usage_errors_import_nothing_heavy():
    code, _, imported = run_script("--batch-size", "0")
    assert code == 2 and "argparse" in imported
    assert not imported & {"litellm", "datasets", "pandas", "httpx", "openai", "numpy"}


def test_it_runs_from_any_folder_loads_no_datasets_for_a_file_and_redacts_a_key_of_a_dotenv_file(
    server, command, monkeypatch
):
    server.replies = {1: Reply(status=400, error="Bad key sk-from-dotenv-0123456789")}
    assert os.getcwd() != str(ROOT)
    Path("packages").symlink_to(Path(find_spec("litellm").origin).parent.parent)
    Path(".env").write_text("OPENAI_API_KEY=sk-from-dotenv-0123456789\n")
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("HOME")
    packages = str(Path("packages").absolute())  # near which litellm looks for the file
    code, lines, imported = run_script(*command(problems=2), PYTHONPATH=packages)
    assert {request.key for request in server.requests} == {"sk-from-dotenv-0123456789"}, lines
    assert code == 1 and answered() == [0] and "Bad key ***" in lines
    assert "sk-from-dotenv" not in lines + Path("out.jsonl.run.json").read_text()
    assert {"litellm", "pandas"} <= imported and "datasets" not in imported


@pytest.mark.parametrize("safe_path", ["", "1"])
def test_without_its_module_it_names_the_file_that_is_missing(safe_path):
    script = ROOT / "completions.py" if safe_path else shutil.copy(ROOT / "completions.py", ".")
    command = [sys.executable, "-S", str(script), "--help"]  # -S: nothing that is installed
    env = os.environ | {"PYTHONSAFEPATH": safe_path, "PYTHONPATH": ""}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and ended.stdout == ""
    assert ended.stderr.count("\n") == 1 and "bcb_multipl_util.py" in ended.stderr


def test_its_inline_metadata_is_that_of_the_project_and_only_it_has_the_version():
    """So that `uv run path/to/completions.py` installs what `pip install .` does."""
    script = (ROOT / "completions.py").read_text(encoding="utf-8")
    inline = re.search(r"(?m)^# /// script\n((?:#.*\n)+?)# ///$", script)[1]
    metadata = tomllib.loads(re.sub(r"(?m)^# ?", "", inline))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert len(metadata["dependencies"]) > 4
    assert metadata == {name: project[name] for name in metadata}
    assert "version" not in project and "version" in project["dynamic"]
