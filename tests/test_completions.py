"""The promises of the README, in its order, kept against a scripted model on a real HTTP server."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

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
from fake_llm import ANSWER, PROGRAM, Reply

import completions
from completions import CompletionsError, batches, main_with_args, make_prompt

OPTIONS = {
    **{"model": OPENAI, "benchmark": "problems.jsonl", "lang": "Lua"},
    **{"temperature": 0.2, "max_tokens": 100, "top_p": 0.95, "batch_size": 2},
    "output_path": "out.jsonl",
}
BOM = b"\xef\xbb\xbf"


@pytest.fixture
def call(server):
    """main_with_args on the scripted model, with other arguments where they are given."""
    param = {"api_base": f"{server.url}/v1"}
    return lambda **others: main_with_args(**OPTIONS | {"param": param} | others)


# --- the main job ---


def test_each_problem_gets_a_record_with_its_fields_response_and_program(run):
    problems = write_problems(12)
    code, lines = run()
    assert code == 0 and "12 of 12 answered" in lines
    assert read_jsonl() == records(problems)
    assert list(read_jsonl()[0]) == ["task_id", "prompt", "none", "response", "program"]


def test_what_is_sent_is_one_user_message_and_the_settings(server, run):
    write_problems(1)
    assert run("--lang", "Lua /nothink")[0] == 0
    body = server.requests[0].body
    text = "Problem 0.\n\nSolve this problem using Lua /nothink."
    assert body["messages"] == [{"role": "user", "content": text}]
    assert body["temperature"] == 0.2 and body["top_p"] == 0.95 and body["max_tokens"] == 5000


def test_make_prompt_leaves_the_prompt_as_it_is():
    prompt = "  tabs\t, \u2028 and\r\n spaces  \n"
    (message,) = make_prompt({"prompt": prompt}, "C#")
    assert message == {"role": "user", "content": f"{prompt}\n\nSolve this problem using C#."}


def test_none_sends_no_temperature_no_top_p_and_no_max_tokens(server, run):
    write_problems(1)
    none = ("--temperature", "none", "--top-p", "none", "--max-tokens", "none")
    assert run(*none, "--param", "seed=7")[0] == 0
    body = server.requests[0].body
    assert not body.keys() & {"temperature", "top_p", "max_tokens", "max_completion_tokens"}
    assert body["seed"] == 7


def test_params_are_passed_on_as_json_or_text(server, run):
    write_problems(1)
    params = ('stop=["--"]', "reasoning_effort=high", 'extra_body={"min_p": 0.1}')
    assert run(*(word for param in params for word in ("--param", param)), model=VLLM)[0] == 0
    body = server.requests[0].body
    assert body["stop"] == ["--"] and body["reasoning_effort"] == "high"
    assert body["min_p"] == 0.1


@pytest.fixture
def batch_completion(monkeypatch):
    """Replaces what runs call as litellm.batch_completion; gives what it was before."""
    import litellm

    original = litellm.batch_completion
    return lambda new: monkeypatch.setattr(litellm, "batch_completion", new(original))


def test_the_batches_hold_batch_size_problems_and_the_last_the_rest(run, batch_completion):
    sizes = []

    def noted(original):
        return lambda messages, **more: (
            sizes.append(len(messages)) or original(messages=messages, **more)
        )

    batch_completion(noted)
    write_problems(12)
    assert run("--batch-size", 5)[0] == 0 and sizes == [5, 5, 2]


def test_batches_takes_any_iterable_shows_a_bar_and_reads_no_further_than_it_yields(capsys):
    assert list(batches((n for n in range(5)), 2)) == [[0, 1], [2, 3], [4]]
    assert "5it" in capsys.readouterr().err
    items = iter(range(10))
    assert next(batches(items, 3, progress=False)) == [0, 1, 2] and next(items) == 3


def test_every_problem_gets_its_first_sample_before_any_gets_its_second(server, run):
    write_problems(3)
    assert run("--num-samples", 2, "--batch-size", 1)[0] == 0
    assert answered() == [0, 1, 2, 0, 1, 2]
    assert run("--num-samples", 3)[0] == 0
    assert Counter(answered()) == {0: 3, 1: 3, 2: 3} and len(server.requests) == 9


# --- a record ---


def test_records_are_strict_ascii_json_lines(server, run):
    server.replies = lambda request: Reply("é\u2028\n```lua\nx = 'ü'\n```")
    Path("problems.jsonl").write_text('{"prompt": "ü", "big": 12345678901234567890123}\n', "utf-8")
    assert run()[0] == 0
    line = Path("out.jsonl").read_bytes()
    assert line.isascii() and line.count(b"\n") == 1 and b'"big": 12345678901234567890123' in line
    assert json.loads(line)["program"] == "x = 'ü'"


def test_fields_that_a_record_overwrites_are_told_once(run):
    lines = ['{"prompt": "x", "program": "old", "z": 1}', '{"prompt": "y", "response": "old"}']
    Path("problems.jsonl").write_text("\n".join(lines) + "\n")
    code, lines = run()
    first, second = read_jsonl()
    assert code == 0
    assert first == {"prompt": "x", "program": PROGRAM, "z": 1, "response": ANSWER}
    assert second == {"prompt": "y", "response": ANSWER, "program": PROGRAM}
    (line,) = [line for line in lines.split("\n") if "overwritten" in line]
    assert "program" in line and "response" in line


def test_empty_and_truncated_answers_are_records_and_counted(server, run):
    contents = [None, "", [], [{"type": "text", "text": ""}]]
    server.replies = lambda request: (
        Reply("```lua\nreturn", finish="length")
        if request.problem >= len(contents)
        else Reply(contents[request.problem])
    )
    write_problems(7)
    code, lines = run()
    assert code == 0 and "3 truncated, 4 empty, 4 without a program" in lines
    expected = [("", None)] * 4 + [("```lua\nreturn", "return")] * 3
    assert [(row["response"], row["program"]) for row in read_jsonl()] == expected
    assert run_file()["totals"]["truncated"] == 3 and run_file()["totals"]["empty"] == 4


def test_details_tell_what_each_answer_took(server, run):
    import litellm

    reasoned = Reply(finish="length", message={"reasoning_content": "Let me see."}, seconds=0.2)
    server.replies = lambda request: Reply(usage=None) if request.problem else reasoned
    problems = write_problems(2)
    assert run("--details", model="openai/gpt-4.1-nano")[0] == 0
    first, second = read_jsonl()
    assert list(first) == [*problems[0], "response", "program", "details"]
    seconds, cost = first["details"].pop("seconds"), first["details"].pop("cost")
    assert first["details"] == {
        **{"finish_reason": "length", "reasoning": "Let me see."},
        **{"prompt_tokens": 10, "completion_tokens": 20, "reasoning_tokens": 5},
    }
    price = litellm.model_cost["gpt-4.1-nano"]
    assert cost == pytest.approx(10 * price["input_cost_per_token"] + 20 * 4e-7)
    assert 0.2 <= seconds < 20
    unknown = second["details"]
    assert unknown["finish_reason"] == "stop" and unknown["reasoning"] is None
    assert unknown["reasoning_tokens"] is None


def test_details_are_null_where_they_are_unknown(server, run, batch_completion):
    def clock_set_back(original):
        def batch_completion(**more):
            responses = original(**more)
            responses[0]._response_ms = -5000.0
            return responses

        return batch_completion

    batch_completion(clock_set_back)
    server.replies = lambda request: Reply(usage=None)
    write_problems(1)
    assert run("--details", model=VLLM)[0] == 0
    details = read_jsonl()[0]["details"]
    assert details.pop("finish_reason") == "stop" and set(details.values()) == {None}


def test_the_cost_that_a_proxy_tells_and_tokens_without_their_total_count(server, run):
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    server.replies = lambda request: Reply(usage=usage, headers={"x-litellm-response-cost": "0.5"})
    write_problems(2)
    code, lines = run("--details", model=PROXY)
    totals, details = run_file()["totals"], [row["details"] for row in read_jsonl()]
    assert code == 0 and totals["cost"] == 1 and totals["completion_tokens"] == 8
    assert [(d["prompt_tokens"], d["completion_tokens"]) for d in details] == [(3, 4)] * 2
    assert "6 tokens in, 8 out" in lines and "$1.0" in lines


@pytest.mark.parametrize("first", [[], ["--details"]])
def test_an_output_may_be_resumed_with_or_without_details(server, run, first):
    write_problems(4)
    second = [] if first else ["--details"]
    assert run("--limit", 2, *first)[0] == run(*second)[0] == 0
    assert answered() == [0, 1, 2, 3] and len(server.requests) == 4
    assert ["details" in row for row in read_jsonl()] == [bool(first)] * 2 + [bool(second)] * 2


# --- if it stops: the same command again ---


def test_a_finished_output_sends_nothing_and_exits_0(server, run):
    write_problems(3)
    assert run()[0] == 0
    before, totals = Path("out.jsonl").read_bytes(), run_file()["totals"]
    code, lines = run()
    assert code == 0 and "3 of 3 answered" in lines
    assert len(server.requests) == 3 and Path("out.jsonl").read_bytes() == before
    assert run_file()["totals"] == totals and run_file()["finished"]


def test_a_smaller_limit_before_is_extended(server, run):
    write_problems(5)
    assert run("--limit", 2)[0] == run()[0] == 0
    assert answered() == [0, 1, 2, 3, 4]
    assert run("--limit", 2)[0] == 0 and len(server.requests) == 5


def test_identical_problems_each_get_their_own_record_and_surplus_ones_are_told(server, run):
    Path("problems.jsonl").write_text('{"prompt": "same"}\n' * 3)
    assert run("--limit", 2)[0] == 0 and len(read_jsonl()) == 2
    code, lines = run()
    assert code == 0 and len(read_jsonl()) == len(server.requests) == 3 and "more" not in lines
    Path("out.jsonl").write_bytes(2 * Path("out.jsonl").read_bytes())  # joined twice
    code, lines = run()
    assert code == 0 and re.search("(?m)^3 records more .*--num-samples 1", lines)
    assert len(server.requests) == 3 and len(read_jsonl()) == 6


@pytest.mark.parametrize(
    ("damage", "asked_again", "says"),
    [
        (lambda whole: whole[:-20], 1, "truncated a torn last line"),
        (lambda whole: whole + bytes(4096), 0, "truncated a torn last line of 4096"),
        (lambda whole: whole.rstrip(b"\n"), 0, ""),
        (lambda whole: BOM + whole, 0, ""),
    ],
    ids=["torn", "zeros, as a crash leaves them", "no last newline", "an editor's byte order mark"],
)
def test_an_output_whose_ends_are_damaged_keeps_every_whole_record(
    server, run, damage, asked_again, says
):
    problems = write_problems(3)
    assert run("--limit", 2)[0] == 0
    damaged = damage(Path("out.jsonl").read_bytes())
    Path("out.jsonl").write_bytes(damaged)
    code, lines = run()
    assert code == 0 and says in lines
    begins = BOM if damaged.startswith(BOM) else b""
    assert Path("out.jsonl").read_bytes() == begins + jsonl(records(problems)).encode()
    assert len(server.requests) == 3 + asked_again


RECORD = '{"task_id": 0, "prompt": "Problem 0.", "none": null, "response": "", "program": null'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"torn": \n{"prompt": "Problem 0."}\n', ["out.jsonl:1: not valid JSON", '{"torn"']),
        (f"{RECORD}}}\n<<<<<<< HEAD\n", ["out.jsonl:2: not valid JSON", "<<<<<<< HEAD"]),
        ("my notes", ["out.jsonl:1: not valid JSON", "my notes"]),
        ("[1]\n", ["out.jsonl:1: not a JSON object"]),
        (f'{RECORD}, "passed": true}}\n', ["out.jsonl:1: not a record", "passed"]),
        ('{"prompt": "Problem 0."}', ["out.jsonl:1: not a record", "task_id", "none"]),
        (RECORD.replace("Problem 0.", "Other.") + "}\n", ["out.jsonl:1: not a record"]),
        (RECORD.replace(', "response": "", "program": null', "}\n"), ["out.jsonl:1: not a record"]),
    ],
)
def test_an_output_that_is_not_of_this_run_is_left_alone(server, run, content, says):
    write_problems(2)
    Path("out.jsonl").write_text(content)
    code, lines = run()
    assert code == 1 and [words for words in says if words not in last_line(lines)] == []
    assert Path("out.jsonl").read_text() == content and not server.requests
    assert not Path("out.jsonl.run.json").exists()


# --- if it stops: beside the output, the settings and totals of all its runs ---


def test_the_run_file_says_what_made_the_output(server, run):
    write_problems(4)
    assert run("--limit", 1)[0] == 0
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


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--temperature", 0.8), "temperature 0.2, not 0.8"),
        (("--param", "seed=2"), "seed 1, not 2"),
        (("--lang", "C#"), 'lang "Lua", not "C#"'),
        (("--top-p", 1), "top_p 0.95, not 1"),
        (("--max-tokens", "none"), "max_tokens 5000, not null"),
        (("--param", "stop=x"), 'stop null, not "x"'),
        (("--model", "openai/other"), "model"),
    ],
)
def test_other_settings_are_refused_even_where_nothing_is_missing(server, run, options, says):
    write_problems(2)
    assert run("--param", "seed=1")[0] == 0
    before = Path("out.jsonl.run.json").read_bytes()
    code, lines = run("--param", "seed=1", *options)
    assert code == 1 and says in last_line(lines) and "out.jsonl.run.json" in last_line(lines)
    assert Path("out.jsonl.run.json").read_bytes() == before and len(server.requests) == 2


def test_other_settings_are_welcome_while_there_is_no_answer(server, run):
    server.replies = lambda request: Reply(status=404, error="no such model")
    write_problems(2)
    assert run("--model", "openai/mistyped")[0] == 1
    server.replies = lambda request: Reply()
    assert run()[0] == 0 and run_file()["settings"]["model"] == "openai/scripted"


def test_a_run_may_go_on_at_another_address_with_another_key_and_a_file_that_moved_and_grew(
    server, run
):
    write_problems(3)
    assert run("--limit", 2)[0] == 0
    header = 'extra_headers={"X-Team": "b"}'
    write_problems(4, "moved.jsonl")
    options = ("--param", "api_key=sk-2", "--param", header, "--benchmark", "moved.jsonl")
    assert run(*options, url=server.url.replace("127.0.0.1", "localhost"))[0] == 0
    assert answered() == [0, 1, 2, 3] and len(server.requests) == 4


def test_an_output_made_elsewhere_is_resumed_with_a_word(server, run):
    write_problems(2)
    assert run("--limit", 1)[0] == 0
    Path("out.jsonl.run.json").unlink()
    code, lines = run("--temperature", 1)
    assert code == 0 and "unknown settings" in lines and len(server.requests) == 2


def test_a_removed_output_begins_its_totals_anew(server, run):
    server.replies = lambda request: Reply(finish="length")
    write_problems(9)
    assert run()[0] == 0
    Path("out.jsonl").unlink()
    server.replies = lambda request: Reply(status=400)
    code, lines = run("--limit", 3)
    assert code == 1 and "3 failed" in lines and run_file()["totals"]["truncated"] == 0
    server.replies = lambda request: Reply(finish="length")
    code, lines = run("--limit", 3)
    assert code == 0 and run_file()["totals"]["truncated"] == 3 and "3 truncated" in lines


def link_to_zeros(path: Path):
    path.unlink()
    path.symlink_to("/dev/zero")


def folder(path: Path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        *("", "{", "null", "[]", "{}", '{"settings": 1}', b"\xff\xfe{", link_to_zeros, folder),
        *(("requests", "x"), ("cost", "x")),
    ],
)
def test_a_run_file_that_is_not_as_runs_write_it_is_an_error_that_names_it(server, run, damage):
    write_problems(3)
    assert run("--limit", 2)[0] == 0
    path, content = Path("out.jsonl.run.json"), run_file()
    if isinstance(damage, tuple):
        content["totals"][damage[0]] = damage[1]
        path.write_text(json.dumps(content))
    elif callable(damage):
        damage(path)
    else:
        path.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    code, lines = run()
    end = last_line(lines)
    assert code == 1 and "out.jsonl.run.json" in end and "remove it" in end
    assert len(server.requests) == 2 and answered() == [0, 1]
    path.rmdir() if path.is_dir() else path.unlink()
    assert run()[0] == 0 and answered() == [0, 1, 2]


def test_the_run_file_is_replaced_as_a_whole_by_a_draft_that_follows_no_link(run):
    write_problems(2)
    assert run("--limit", 1)[0] == 0
    Path("precious").write_text("precious")
    Path("out.jsonl.run.json.tmp").symlink_to("precious")
    with open("out.jsonl.run.json", encoding="utf-8") as reader:
        assert run()[0] == 0
        assert json.load(reader)["answers"] == 1  # whole, and of before
    assert run_file()["answers"] == 2 and Path("precious").read_text() == "precious"


def test_a_run_file_that_cannot_be_saved_ends_no_run_and_is_told(server, run):
    def replies(request):
        if len(server.requests) == 5:
            Path("out.jsonl.run.json.tmp").mkdir()  # in the way of the next draft
        return Reply(seconds=0.1)

    server.replies = replies
    write_problems(24)
    code, lines = run("--batch-size", 2)
    assert code == 0 and answered() == list(range(24))
    assert "out.jsonl.run.json is not up to date: Is a directory" in lines


# --- if it stops: failures (what each means: test_failures.py) ---


def test_a_failed_item_leaves_no_record_and_does_not_cost_its_batch(server, run, backoffs):
    server.replies = lambda request: Reply(status=500 if request.problem == 1 else 200)
    write_problems(3)
    code, lines = run("--max-retries", 2)
    assert code == 1 and answered() == [0, 2] and asked(server) == {0: 1, 1: 3, 2: 1}
    assert "1 failed: 500" in lines and "The server had an error" in lines
    assert last_line(lines) == "1 have no answer; run the same command again to retry them"
    assert run_file()["finished"] is None and run_file()["totals"]["requests"] == 5
    server.replies = lambda request: Reply()
    assert run()[0] == 0 and sorted(answered()) == [0, 1, 2] and len(server.requests) == 6


def test_an_unforeseen_error_in_making_a_record_keeps_the_other_answers_of_its_batch(
    server, run, monkeypatch
):
    def extract(text, lang):
        if text == "odd":
            raise ZeroDivisionError("nobody foresaw this")
        return PROGRAM

    monkeypatch.setattr(completions, "extract_code_from_markdown", extract)
    server.replies = lambda request: Reply("odd" if request.problem == 1 else ANSWER)
    write_problems(5)
    code, lines = run()
    assert code == 1 and answered() == [0, 2, 3, 4] and len(server.requests) == 5
    assert "1 failed: " in lines and "nobody foresaw this" in lines
    assert re.search(r"\(test_completions.py:\d+\)", lines)


@pytest.mark.parametrize("moment", ["load_benchmark", "connect", "retry_batch"])
def test_an_unforeseen_error_is_one_line_with_its_place_and_no_hang(run, monkeypatch, moment):
    def broken(*args, **options):
        return {}["no such name"]

    monkeypatch.setattr(completions, moment, broken)
    write_problems(3)
    code, lines = run()
    assert code == 1
    assert re.search(r"unforeseen KeyError.*no such name.*\.py:\d+\)", last_line(lines))
    assert moment != "retry_batch" or answered() == [0, 1, 2]


# --- if it stops: signals, kills and disks ---

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}


def ended_by_signals(runs) -> list[str]:
    """Send each run a signal; what they write once all have ended, within 2 seconds."""
    began = time.monotonic()
    for run, number in zip(runs, SIGNALS, strict=True):
        run.send_signal(number)
    ends = [run.end(10) for run in runs]
    assert time.monotonic() - began < 2
    assert [code for code, _ in ends] == list(SIGNALS.values())
    assert all("stopped by" in last_line(lines) for _, lines in ends)
    return [lines for _, lines in ends]


def test_a_signal_ends_within_2_seconds_with_requests_hanging_and_a_summary(server, start):
    server.replies = lambda request: Reply(seconds=0 if request.prompt[8] == "1" else 30)
    write_problems(70)
    paths = [f"{number}.jsonl" for number in SIGNALS]
    options = ("--batch-size", 1, "--concurrent-batches", 64)
    runs = [start(*options, "--output-path", path) for path in paths]
    wait_for(lambda: len(server.requests) == 140)
    wait_for(lambda: [len(read_jsonl(path)) for path in paths] == [11, 11])
    for lines in ended_by_signals(runs):
        assert "run the same command again" in last_line(lines)
        assert "11 of 70 answered in" in lines and "110 tokens in, 220 out" in lines
    assert [len(read_jsonl(path)) for path in paths] == [11, 11]
    assert [run_file(path)["totals"]["requests"] for path in paths] == [11, 11]


@pytest.mark.parametrize("moment", [0, 1])
def test_a_signal_is_remembered_whatever_the_moment(server, start, moment):
    server.replies = lambda request: Reply(seconds=30)
    write_problems(70)
    paths = [f"{number}.jsonl" for number in SIGNALS]
    runs = [start("--output-path", path, imported="libraries") for path in paths]
    wait_for(lambda: all(Path(path).exists() for path in paths))
    time.sleep(moment)  # while litellm is imported, or the requests hang
    ended_by_signals(runs)


def test_answered_items_are_on_disk_while_failed_ones_wait_for_their_retry(server, run):
    server.replies = lambda request: (
        Reply(status=429, headers={"Retry-After": "60"}) if request.problem == 1 else Reply()
    )
    write_problems(3)

    def interrupt():
        wait_for(lambda: Path("out.jsonl").exists() and answered() == [0, 2])
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    code, lines = run()
    assert code == 130 and "retrying 429 at" in lines and "2 of 3 answered" in lines


def test_hard_kills_lose_and_double_nothing_and_repeat_at_most_what_was_in_flight(
    server, start, run
):
    server.replies = lambda request: Reply(seconds=0.05)
    write_problems(60)
    for lines in (6, 20, 40):
        process = start("--batch-size", 2, "--concurrent-batches", 2)
        wait_for(lambda lines=lines: Path("out.jsonl").exists() and len(answered()) >= lines)
        process.kill()
        kept = answered()
        assert len(set(kept)) == len(kept)
    assert run()[0] == 0 and sorted(answered()) == list(range(60))
    assert len(server.requests) <= 60 + 3 * 4


def test_a_second_run_on_the_same_output_is_refused(server, run, call):
    server.replies = lambda request: Reply(seconds=1)
    write_problems(2)
    first = threading.Thread(target=call)
    first.start()
    wait_for(lambda: server.requests)
    Path("link.jsonl").symlink_to("out.jsonl")
    for path in ("out.jsonl", "link.jsonl"):
        code, lines = run("--output-path", path)
        assert code == 1 and "in use by another run" in lines
    first.join()
    assert len(read_jsonl()) == 2 and len(server.requests) == 2
    assert run("--max-tokens", 100)[0] == 0


@pytest.mark.parametrize("batch_size", [3, 30])
def test_a_full_disk_keeps_the_whole_records_that_fit_and_says_so(server, start, run, batch_size):
    pytest.importorskip("resource")
    problems = write_problems(30)
    code, lines = start("--batch-size", batch_size, limits={"RLIMIT_FSIZE": 2000}).end()
    end = last_line(lines)
    assert code == 1 and "out.jsonl" in end and "run the same command again" in end
    fit, sent = 2000 // len(jsonl(records(problems[:1]))), len(server.requests)
    assert Path("out.jsonl").read_bytes().count(b"\n") == fit and sent == max(12, batch_size)
    assert run()[0] == 0 and sorted(answered()) == list(range(30))
    assert len(server.requests) == sent + 30 - fit


def replace(path: Path):
    """As an editor and `sed -i` do."""
    shutil.copy(path, "copy")
    os.replace("copy", path)


@pytest.mark.parametrize("change", [Path.unlink, replace, lambda path: os.truncate(path, 0)])
def test_an_output_removed_replaced_or_emptied_during_the_run_ends_it(server, run, change):
    def replies(request):
        if request.problem == 8 and request.attempt == 1:
            change(Path("out.jsonl"))
        return Reply()

    server.replies = replies
    write_problems(30)
    code, lines = run("--batch-size", 2)
    assert code == 1 and "during the run" in last_line(lines) and "out.jsonl" in last_line(lines)
    assert len(server.requests) == 10 and "30 of 30" not in lines
    assert run()[0] == 0 and sorted(answered()) == list(range(30))


def test_a_symbolic_link_is_followed_once_so_that_settings_belong_to_the_file(server, run):
    Path("runs").mkdir()
    Path("out.jsonl").symlink_to("runs/real.jsonl")

    def replies(request):
        if request.problem == 1:  # the run goes on in the file where it began
            Path("out.jsonl").unlink()
            Path("out.jsonl").symlink_to("runs/other.jsonl")
        return Reply()

    server.replies = replies
    write_problems(4)
    assert run("--batch-size", 2)[0] == 0
    assert answered("runs/real.jsonl") == [0, 1, 2, 3] and not Path("runs/other.jsonl").exists()
    assert run_file("runs/real.jsonl")["answers"] == 4 and not Path("out.jsonl.run.json").exists()
    code, lines = run("--output-path", "runs/real.jsonl", "--temperature", 1)
    assert code == 1 and "temperature 0.2, not 1" in lines


# --- if it stops: keys, which are nowhere ---


def test_every_secret_is_redacted_by_its_name_or_value(server, run, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN_READ", "tok-in-environment")
    monkeypatch.setenv("SHORT_KEY", "refus")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "parallel")
    headers = {"Authorization": "Basic dXNlcjpwYXNz", "X-Team": "team-seven"}
    echo = (
        "refused: tok-in-environment, dXNlcjpwYXNz, http://me:hunter2@host/, parallel, team-seven"
    )
    server.replies = lambda request: Reply(status=400, error=echo)
    write_problems(1)
    param = (f"extra_headers={json.dumps(headers)}", 'extra_body={"use_auth": true}')
    code, lines = run("--param", param[0], "--param", param[1])
    assert code == 1 and "refused: ***, ***, http://***@host/, parallel, ***" in lines
    stored = Path("out.jsonl.run.json").read_text()
    assert "dXNlcjpwYXNz" not in stored and "team-seven" not in stored and "***" in stored


SECRETS = [
    "api_key=SECRET",
    "auth=SECRET",
    'extra_headers={"Cookie": "SECRET"}',
    'headers={"X-Any": "SECRET"}',
    "extra_headers=Authorization: Bearer SECRET",
    'extra_query={"api_key": "SECRET"}',
    'extra_body={"access_token": "SECRET"}',
    'extra_body={"nested": [{"password": "SECRET"}]}',
    'extra_body={"session_token_x": "SECRET"}',
    "api_base=http://SECRET@127.0.0.1:9/v1",
    "api_base=http://me:SECRET@127.0.0.1:9/v1",
    "api_base=http://me:pa/SECRET@127.0.0.1:9/v1",
    "api_base=http://127.0.0.1:9/v1?api_key=SECRET",
    "api_base=http://127.0.0.1:9/v1?sig=SECRET&x=1",
]


@pytest.mark.parametrize("param", SECRETS)
def test_what_param_holds_under_the_name_of_a_secret_is_shown_nowhere(run, param):
    write_problems(1)
    _, lines = run("--param", param.replace("SECRET", "s3c-r3t"), "--max-retries", 0)
    assert lines and "s3c-r3t" not in lines
    stored = Path("out.jsonl.run.json").read_text()
    assert "s3c-r3t" not in stored and "***" in stored


@pytest.mark.parametrize(
    "mistake",
    [
        *(("--param", "api_key:sk-typo-123456"), ("--timeout", "0"), ("--details=sk-typo-123456",)),
        *(("sk-typo-123456",), ("--api-key=sk-typo-123456",), ("--batch-size", "sk-typo-123456")),
    ],
)
def test_a_usage_error_repeats_no_key(run, monkeypatch, mistake):
    monkeypatch.setenv("SOME_API_KEY", "sk-typo-123456")
    code, lines = run("--param", "api_key=sk-typo-123456", *mistake)
    assert code == 2 and "sk-typo-123456" not in lines


# --- which options make it fast, and what one sees ---


def test_requests_in_flight_reach_and_never_exceed_batch_size_times_k(server, run):
    server.replies = lambda request: Reply(seconds=0.1)
    write_problems(60)
    assert run("--batch-size", 3, "--concurrent-batches", 4)[0] == 0
    assert 8 <= server.peak <= 12 and sorted(answered()) == list(range(60))


@pytest.mark.parametrize("model", [OPENAI, VLLM, ANTHROPIC])
def test_connections_are_reused(server, run, model):
    server.replies = lambda request: Reply(seconds=0.02)
    write_problems(75)
    assert run("--batch-size", 1, "--concurrent-batches", 10, model=model)[0] == 0
    assert len(server.connections) <= 20


def test_the_summary_tells_tokens_and_a_known_price_in_few_and_short_lines(run, monkeypatch):
    import litellm

    connect = completions.connect

    def slow_import(*args):
        time.sleep(1.5)
        return connect(*args)

    monkeypatch.setattr(completions, "connect", slow_import)
    write_problems(40)
    code, lines = run("--batch-size", 20, model="openai/gpt-4.1-nano")
    assert code == 0 and "40 of 40 answered in 00:00, 0 failed, $0." in lines
    assert "0 truncated" in lines and "400 tokens in, 800 out (200 for reasoning)" in lines
    assert lines.count("\n") < 6 and max(map(len, lines.split("\n"))) <= 80
    price = litellm.model_cost["gpt-4.1-nano"]
    cost = 10 * price["input_cost_per_token"] + 20 * price["output_cost_per_token"]
    assert run_file()["totals"]["cost"] == pytest.approx(40 * cost)


# --- more than one machine, and from Python ---


def test_outputs_of_parts_are_joined_and_the_whole_says_what_is_missing(server, run):
    write_problems(10)
    lines = Path("problems.jsonl").read_text().splitlines(keepends=True)
    for part, some in enumerate((lines[:4], lines[4:7], lines[7:])):
        Path(f"part{part}").write_text("".join(some))
    server.replies = lambda request: Reply(status=400 if request.problem == 5 else 200)
    parts = [("--benchmark", f"part{n}", "--output-path", f"part{n}.jsonl") for n in range(3)]
    assert [run(*part)[0] for part in parts] == [0, 1, 0]
    Path("out.jsonl").write_bytes(b"".join(Path(f"part{n}.jsonl").read_bytes() for n in range(3)))
    server.replies = lambda request: Reply()
    assert run()[0] == 0 and sorted(answered()) == list(range(10))
    assert asked(server)[5] == 2 and len(server.requests) == 11


def test_main_with_args_takes_just_the_eight_arguments_and_paths(server, monkeypatch):
    write_problems(3)
    monkeypatch.setenv("OPENAI_API_BASE", f"{server.url}/v1")
    paths = {"output_path": Path("deep/folder/out.jsonl"), "benchmark": Path("problems.jsonl")}
    assert main_with_args(**OPTIONS | paths) == 0
    assert answered("deep/folder/out.jsonl") == [0, 1, 2]


def test_main_with_args_returns_how_many_are_missing_and_raises_what_ends_a_run(server, call):
    server.replies = lambda request: Reply(status=400 if request.problem == 1 else 200)
    write_problems(3)
    assert call() == 1 and call(limit=1) == 0
    server.replies = lambda request: Reply(status=401, error="Incorrect API key provided")
    with pytest.raises(CompletionsError, match=r"401 at .*OPENAI_API_KEY"):
        call()


# --- options ---


@pytest.mark.parametrize(
    ("options", "says"),
    [
        *(
            (f"{option}={value}", option)
            for option, values in {
                "--batch-size": ["0", "99999999999999999999", ""],
                "--concurrent-batches": ["0", "99999999999"],
                "--num-samples": ["0", "99999999999"],
                "--limit": ["0", "1.5"],
                "--temperature": ["-1", "nan", "inf", "hot", ""],
                "--top-p": ["1.5", "-0.1"],
                "--max-retries": ["-1", "999999999999"],
                "--timeout": ["0", "inf"],
                "--max-tokens": ["many", "0"],
                **{f"--{name}": ["", " \t"] for name in ("model", "benchmark", "lang", "split")},
                **{f"--{name}": ["", " "] for name in ("output-path", "config", "revision")},
                "--prompt-column": ["response", "program", "details", ""],
                "--param": ["novalue", "n=3", "temperature=1", "=3"],
            }.items()
            for value in values
        ),
        *((f"--param=stop={value}", "stop") for value in ("['x']", '{"a": 1', '"x', "{'a': 1}")),
        *(
            (f"--param=use={v}", v.lower().replace("none", "null"))
            for v in ("True", "False", "None")
        ),
        ("--temprature=1", "--temprature"),
        ("--lan=Lua", "--lan"),
        ("--model=vllm/x --concurrent-batches=2", "hosted_vllm/"),
        ("--num-samples=2 --param=seed=1", "seed"),
    ],
)
def test_bad_usage_is_refused_by_argparse(server, run, options, says):
    words = options.split(" --")
    words = [words[0], *(f"--{word}" for word in words[1:])]
    code, lines = run(*words)
    assert code == 2 and says in last_line(lines)
    assert not server.requests and not Path("out.jsonl").exists()


def loop(path: str):
    Path(path).symlink_to(path)


@pytest.mark.parametrize(
    "path", ["file/out.jsonl", ".", "folder", "/", "/dev/null", "loop", "~no-such-user/x"]
)
def test_an_output_that_cannot_be_written_is_told_before_any_request(server, run, path):
    write_problems(1)
    Path("file").write_text("")
    Path("folder").mkdir()
    loop("loop")
    code, lines = run("--output-path", path)
    assert code == 1 and last_line(lines).startswith("completions.py: ") and not server.requests
    assert path == "~no-such-user/x" or "cannot write to" in last_line(lines)


def test_parent_folders_of_the_output_are_made_and_a_tilde_is_expanded(run, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_problems(1)
    assert run("--output-path=~/runs/a/out.jsonl")[0] == 0
    assert len(read_jsonl("home/runs/a/out.jsonl")) == 1 and not Path("~").exists()
    assert run_file("home/runs/a/out.jsonl")["finished"]


@pytest.mark.parametrize(
    "benchmark", [".", "/", "problem.jsonl", "loop.jsonl", "~no-such-user/b.jsonl"]
)
def test_a_benchmark_that_is_none_is_told_in_one_line(server, run, benchmark):
    loop("loop.jsonl")
    code, lines = run("--benchmark", benchmark)
    assert code == 1 and lines.count("\n") == 1 and not server.requests


def test_help_fits_a_terminal_and_names_every_option_and_exit_code(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        completions.main(["--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and max(map(len, shown.split("\n")[1:])) <= 80
    names = {f"--{name.replace('_', '-')}" for name in completions.Options.__annotations__}
    assert [name for name in names - {"--stop"} if name not in shown] == []
    assert "130" in shown and "143" in shown


# --- the script as a file ---


def imported(lines: str) -> set[str]:
    """What PYTHONPROFILEIMPORTTIME says was imported."""
    return {line.rsplit("|")[-1].strip() for line in lines.split("\n") if "|" in line}


def test_help_and_usage_errors_import_nothing_heavy(start):
    code, lines = start("--batch-size", "0", imported=None, PYTHONPROFILEIMPORTTIME="1").end()
    assert code == 2 and "argparse" in imported(lines)
    assert not imported(lines) & {"litellm", "datasets", "pandas", "httpx", "openai", "numpy"}


def test_it_runs_from_any_folder_loads_no_datasets_for_a_file_and_redacts_a_key_of_a_dotenv_file(
    server, start
):
    server.replies = lambda request: (
        Reply(status=400, error=f"Bad key {request.key}") if request.problem else Reply()
    )
    assert os.getcwd() != str(ROOT)
    Path("packages").symlink_to(Path(find_spec("litellm").origin).parent.parent)
    Path(".env").write_text("OPENAI_API_KEY=sk-from-dotenv-0123456789\n")
    write_problems(2)
    packages = str(Path("packages").absolute())  # near which litellm looks for the file
    environment = {"PYTHONPATH": packages, "OPENAI_API_KEY": None, "PYTHONPROFILEIMPORTTIME": "1"}
    code, lines = start(imported=None, HOME=None, **environment).end()
    assert {request.key for request in server.requests} == {"sk-from-dotenv-0123456789"}, lines
    assert code == 1 and answered() == [0] and "Bad key ***" in lines
    assert "sk-from-dotenv" not in lines + Path("out.jsonl.run.json").read_text()
    assert {"litellm", "pandas"} <= imported(lines) and "datasets" not in imported(lines)


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
