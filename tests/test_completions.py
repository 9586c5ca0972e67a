"""The promises of the README, in its order, kept against a scripted model on a real HTTP server."""

import json
import os
import re
import signal
import threading
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
    ROOT,
    VLLM,
    answered,
    asked,
    at,
    jsonl,
    last_line,
    read_jsonl,
    records,
    run_file,
    wait_for,
    without_address,
    write_problems,
)
from fake_llm import ANSWER, PROGRAM, Reply

import completions
from completions import CompletionsError, batches, main, main_with_args, make_prompt

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


def test_each_problem_gets_a_record_with_its_fields_response_and_program(server, command, told):
    problems = write_problems(12)
    assert main(command()) == 0
    assert read_jsonl() == records(problems)
    assert list(read_jsonl()[0]) == ["task_id", "prompt", "none", "response", "program"]
    assert "12 of 12 answered" in told()


def test_what_is_sent_is_one_user_message_and_the_settings(server, command):
    write_problems(1)
    assert main(command("--lang", "Lua /nothink")) == 0
    body = server.requests[0].body
    text = "Problem 0.\n\nSolve this problem using Lua /nothink."
    assert body["messages"] == [{"role": "user", "content": text}]
    assert body["temperature"] == 0.2 and body["top_p"] == 0.95 and body["max_tokens"] == 5000


def test_make_prompt_leaves_the_prompt_as_it_is():
    prompt = "  tabs\t, \u2028 and\r\n spaces  \n"
    (message,) = make_prompt({"prompt": prompt}, "C#")
    assert message == {"role": "user", "content": f"{prompt}\n\nSolve this problem using C#."}


def test_the_batches_hold_batch_size_problems_and_the_last_the_rest(server, command, monkeypatch):
    import litellm

    sizes, batch_completion = [], litellm.batch_completion

    def note(*, messages, **more):
        sizes.append(len(messages))
        return batch_completion(messages=messages, **more)

    monkeypatch.setattr(litellm, "batch_completion", note)
    write_problems(12)
    assert main(command("--batch-size", 5)) == 0
    assert sizes == [5, 5, 2]


def test_batches_takes_any_iterable_and_shows_a_bar(capsys):
    assert list(batches((n for n in range(5)), 2)) == [[0, 1], [2, 3], [4]]
    assert "5it" in capsys.readouterr().err


def test_batches_reads_no_further_than_it_hands_out():
    items = iter(range(10))
    assert next(batches(items, 3, progress=False)) == [0, 1, 2]
    assert next(items) == 3


def test_every_problem_gets_its_first_sample_before_any_gets_its_second(server, command):
    write_problems(3)
    assert main(command("--num-samples", 2, "--batch-size", 1)) == 0
    assert answered() == [0, 1, 2, 0, 1, 2]
    assert main(command("--num-samples", 3)) == 0
    assert Counter(answered()) == {0: 3, 1: 3, 2: 3}
    assert len(server.requests) == 9


# --- a record ---


def test_records_are_strict_ascii_json_lines(server, command):
    server.replies = lambda request: Reply("é\u2028\n```lua\nx = 'ü'\n```")
    Path("problems.jsonl").write_text('{"prompt": "ü", "big": 12345678901234567890123}\n', "utf-8")
    assert main(command()) == 0
    line = Path("out.jsonl").read_bytes()
    assert line.isascii() and line.count(b"\n") == 1 and b'"big": 12345678901234567890123' in line
    assert json.loads(line)["program"] == "x = 'ü'"


def test_fields_that_a_record_overwrites_are_told_once(command, told):
    lines = ['{"prompt": "x", "program": "old", "z": 1}', '{"prompt": "y", "response": "old"}']
    Path("problems.jsonl").write_text("\n".join(lines) + "\n")
    assert main(command()) == 0
    first, second = read_jsonl()
    assert first == {"prompt": "x", "program": PROGRAM, "z": 1, "response": ANSWER}
    assert second == {"prompt": "y", "response": ANSWER, "program": PROGRAM}
    (line,) = [line for line in told().split("\n") if "overwritten" in line]
    assert "program" in line and "response" in line


@pytest.mark.parametrize(
    "content", [None, "", [], [{"type": "text", "text": ""}], [{"type": "image", "url": "x"}]]
)
def test_no_content_is_an_empty_response_and_is_counted(server, command, told, content):
    server.replies = lambda request: Reply(content)
    write_problems(1)
    assert main(command()) == 0
    assert read_jsonl()[0]["response"] == "" and read_jsonl()[0]["program"] is None
    assert "1 empty, 1 without a program" in told()


def test_a_truncated_answer_is_kept_and_counted(server, command, told):
    server.replies = lambda request: Reply(
        "```lua\nreturn", finish="length" if request.problem < 2 else "stop"
    )
    write_problems(8)
    assert main(command()) == 0
    assert [row["program"] for row in read_jsonl()] == ["return"] * 8
    assert "25.0% cut off at --max-tokens 5000" in told()
    assert run_file()["totals"]["truncated"] == 2


def test_details_tell_what_each_answer_took(server, command):
    import litellm

    reasoned = Reply(finish="length", message={"reasoning_content": "Let me see."}, seconds=0.2)
    server.replies = lambda request: Reply(usage=None) if request.problem else reasoned
    problems = write_problems(2)
    model = "gpt-4.1-nano"
    assert main(command("--details", "--model", f"openai/{model}")) == 0
    first, second = read_jsonl()
    assert list(first) == [*problems[0], "response", "program", "details"]
    seconds, cost = first["details"].pop("seconds"), first["details"].pop("cost")
    assert first["details"] == {
        **{"finish_reason": "length", "reasoning": "Let me see."},
        **{"prompt_tokens": 10, "completion_tokens": 20, "reasoning_tokens": 5},
    }
    price = litellm.model_cost[model]
    assert cost == pytest.approx(10 * price["input_cost_per_token"] + 20 * 4e-7)
    assert 0.2 <= seconds < 20
    unknown = second["details"]
    assert unknown["finish_reason"] == "stop" and unknown["reasoning"] is None
    assert unknown["reasoning_tokens"] is None


def test_details_are_null_where_the_server_does_not_say(server, command):
    server.replies = lambda request: Reply(usage=None)
    write_problems(1)
    assert main(command("--details", "--model", VLLM)) == 0
    details = read_jsonl()[0]["details"]
    names = ("reasoning", "prompt_tokens", "completion_tokens", "reasoning_tokens", "cost")
    assert {name: details[name] for name in names} == dict.fromkeys(names)


@pytest.mark.parametrize("message", [{}, {"reasoning": "Let me see."}])
def test_the_cost_that_a_proxy_tells_is_kept(server, command, monkeypatch, message):
    monkeypatch.setenv("LITELLM_PROXY_API_KEY", "any")
    told = {"x-litellm-response-cost": "0.5"}
    server.replies = lambda request: Reply(message=message, headers=told)
    write_problems(1)
    assert main(command("--model", "litellm_proxy/scripted")) == 0
    assert run_file()["totals"]["cost"] == 0.5


def test_tokens_without_their_total_count(server, command):
    server.replies = lambda request: Reply(usage={"prompt_tokens": 3, "completion_tokens": 4})
    write_problems(2)
    assert main(command("--details")) == 0
    tokens = [
        (row["details"]["prompt_tokens"], row["details"]["completion_tokens"])
        for row in read_jsonl()
    ]
    assert tokens == [(3, 4)] * 2 and run_file()["totals"]["completion_tokens"] == 8


@pytest.mark.parametrize("first", [[], ["--details"]])
def test_an_output_may_be_resumed_with_or_without_details(server, command, first):
    write_problems(4)
    second = [] if first else ["--details"]
    assert main(command("--limit", 2, *first)) == 0
    assert main(command(*second)) == 0
    assert answered() == [0, 1, 2, 3] and len(server.requests) == 4
    assert ["details" in row for row in read_jsonl()] == [bool(first)] * 2 + [bool(second)] * 2


# --- if it stops: the same command again ---


def test_a_finished_output_sends_nothing_and_exits_0(server, command, told):
    write_problems(3)
    assert main(command()) == 0
    before, totals = Path("out.jsonl").read_bytes(), run_file()["totals"]
    assert main(command()) == 0
    assert len(server.requests) == 3 and Path("out.jsonl").read_bytes() == before
    assert run_file()["totals"] == totals and run_file()["finished"]
    assert "3 of 3 answered" in told()


def test_a_smaller_limit_before_is_extended(server, command):
    write_problems(5)
    assert main(command("--limit", 2)) == 0
    assert main(command()) == 0
    assert answered() == [0, 1, 2, 3, 4]
    assert main(command("--limit", 2)) == 0
    assert len(server.requests) == 5


def test_identical_problems_each_keep_their_own_record(server, command):
    Path("problems.jsonl").write_text('{"prompt": "same"}\n' * 3)
    assert main(command("--limit", 2)) == 0
    assert len(read_jsonl()) == 2
    assert main(command()) == 0
    assert len(read_jsonl()) == 3 and len(server.requests) == 3


@pytest.mark.parametrize(
    ("damage", "asked_again", "says"),
    [
        (lambda whole: whole[:-20], 1, "cut off a torn last line"),
        (lambda whole: whole + bytes(4096), 0, "cut off a torn last line"),
        (lambda whole: whole.rstrip(b"\n"), 0, ""),
        (lambda whole: BOM + whole, 0, ""),
    ],
    ids=["torn", "zeros, as a crash leaves them", "no last newline", "an editor's byte order mark"],
)
def test_an_output_whose_ends_are_damaged_keeps_every_whole_record(
    server, command, told, damage, asked_again, says
):
    problems = write_problems(3)
    assert main(command("--limit", 2)) == 0
    damaged = damage(Path("out.jsonl").read_bytes())
    Path("out.jsonl").write_bytes(damaged)
    assert main(command()) == 0
    begins = BOM if damaged.startswith(BOM) else b""
    assert Path("out.jsonl").read_bytes() == begins + jsonl(records(problems)).encode()
    assert len(server.requests) == 3 + asked_again
    assert says in told()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"torn": \n{"prompt": "Problem 0."}\n', "out.jsonl:1: not valid JSON"),
        ('{"prompt": "Other.", "response": "", "program": null}\n', "not a record of this benchm"),
        ("my notes", "out.jsonl:1: not valid JSON"),
        ('{"prompt": "Problem 0."}', "out.jsonl:1: not a record of this benchmark"),
        ("[1]\n", "out.jsonl:1: not a JSON object"),
    ],
)
def test_an_output_that_is_not_of_this_run_is_left_alone(server, command, told, content, says):
    write_problems(2)
    Path("out.jsonl").write_text(content)
    assert main(command()) == 1
    assert says in told()
    assert Path("out.jsonl").read_text() == content and not server.requests
    assert not Path("out.jsonl.run.json").exists()


def test_a_broken_line_is_told_with_its_repair(server, command, told):
    write_problems(3)
    assert main(command()) == 0
    first, _, third = Path("out.jsonl").read_bytes().splitlines(keepends=True)
    Path("out.jsonl").write_bytes(first + b"<<<<<<< HEAD\n" + third)
    assert main(command()) == 1
    assert "out.jsonl:2: not valid JSON" in told() and len(server.requests) == 3
    Path("out.jsonl").write_bytes(first + third)
    assert main(command()) == 0 and answered() == [0, 2, 1]


@pytest.mark.parametrize("row", ['{"prompt": "no newline"}', '{"prompt": "x", "response": "y"}'])
def test_the_benchmark_itself_is_refused_as_output(server, command, told, row):
    Path("problems.jsonl").write_text(row)
    assert main(command("--output-path", "./problems.jsonl")) == 1
    assert "it is the benchmark" in told()
    assert Path("problems.jsonl").read_text() == row and not server.requests


# --- if it stops: beside the output, the settings and totals of the run ---


def test_the_run_file_says_what_made_the_output(server, command):
    write_problems(4)
    assert main(command("--limit", 1)) == 0
    started = run_file()["started"]
    assert main(command("--param", "api_key=sk-secret-123456")) == 0
    content = run_file()
    assert content["started"] == started and content["finished"]
    assert content["settings"] == {
        **{"model": "openai/scripted", "lang": "Lua", "temperature": 0.2, "top_p": 0.95},
        **{"max_tokens": 5000, "prompt_column": "prompt"},
        "param": {"api_base": f"{server.url}/v1", "api_key": "***"},
    }
    assert content["benchmark"]["problems"] == 4 and len(content["benchmark"]["sha256"]) == 64
    assert content["benchmark"]["name"] == "problems.jsonl"
    assert content["benchmark"]["config"] is None and content["benchmark"]["split"] == "test"
    assert {"python", "litellm", "datasets"} <= content["versions"].keys()
    assert {name: content["totals"][name] for name in content["totals"] if name != "cost"} == {
        **{"requests": 4, "prompt_tokens": 40, "completion_tokens": 80, "reasoning_tokens": 20},
        **{"truncated": 0, "empty": 0, "without_program": 0},
    }
    assert content["totals"]["cost"] is None


def test_other_settings_are_refused_in_words(server, command, told):
    write_problems(2)
    assert main(command("--param", "seed=1")) == 0
    assert main(command("--temperature", 0.8, "--param", "seed=2")) == 1
    assert "out.jsonl was begun with temperature 0.2, not 0.8 and seed 1, not 2" in told()
    assert main(command("--param", "seed=1", "--param", "api_key=sk-other-111111")) == 0
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "other", [("--lang", "C#"), ("--top-p", 1), ("--max-tokens", "none"), ("--param", "stop=x")]
)
def test_other_settings_are_refused_even_where_nothing_is_missing(server, command, told, other):
    write_problems(2)
    assert main(command()) == 0
    before = Path("out.jsonl.run.json").read_bytes()
    assert main(command(*other)) == 1
    assert "was begun with" in last_line(told()) and len(server.requests) == 2
    assert Path("out.jsonl.run.json").read_bytes() == before


def test_other_settings_are_welcome_while_there_is_no_answer(server, command):
    server.replies = lambda request: Reply(status=404, error="no such model")
    write_problems(2)
    assert main(command("--model", "openai/mistyped")) == 1
    server.replies = lambda request: Reply()
    assert main(command()) == 0
    assert run_file()["settings"]["model"] == "openai/scripted"


def test_a_run_may_go_on_at_another_address_with_another_key(server, command):
    write_problems(3)
    assert main(command("--limit", 2)) == 0
    url = server.url.replace("127.0.0.1", "localhost")
    header = 'extra_headers={"X-Team": "b"}'
    params = ("--param", f"api_base={url}/v1", "--param", "api_key=sk-2", "--param", header)
    assert main(command(*params)) == 0
    assert len(read_jsonl()) == 3 and len(server.requests) == 3


def test_the_benchmark_file_may_move_and_grow(server, command):
    write_problems(2)
    assert main(command()) == 0
    write_problems(3, "moved.jsonl")
    assert main(command("--benchmark", "moved.jsonl")) == 0
    assert answered() == [0, 1, 2] and len(server.requests) == 3


def test_an_output_made_elsewhere_is_resumed_with_a_word(server, command, told):
    write_problems(2)
    assert main(command("--limit", 1)) == 0
    Path("out.jsonl.run.json").unlink()
    assert main(command()) == 0
    lines = told()
    assert "unknown settings" in lines and len(server.requests) == 2
    assert [value for name, value in run_file().items() if "unknown_settings" in name] == [1]


@pytest.mark.parametrize("usage", [{"prompt_tokens": 1, "completion_tokens": 2}, None])
def test_a_removed_output_begins_its_totals_anew(server, command, told, usage):
    server.replies = lambda request: Reply(finish="length", usage=usage)
    write_problems(9)
    assert main(command()) == 0
    Path("out.jsonl").unlink()
    server.replies = lambda request: Reply(status=400)
    assert main(command("--limit", 3)) == 1
    assert "3 failed" in told() and run_file()["totals"]["truncated"] == 0
    server.replies = lambda request: Reply(finish="length", usage=usage)
    assert main(command("--limit", 3)) == 0
    assert run_file()["totals"]["truncated"] == 3 and run_file()["totals"]["requests"] == 6
    assert "100.0% cut off" in told()


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "null", "[]", "{}", '{"settings": 1}', "UTF-16"),
        *('"requests": "x"', '"cost": "x"'),
    ],
)
def test_a_run_file_that_is_not_as_runs_write_it_is_an_error_that_names_it(
    server, command, told, content
):
    write_problems(3)
    assert main(command("--limit", 2)) == 0
    path = Path("out.jsonl.run.json")
    written = path.read_text()
    name = content.partition(":")[0]
    broken = re.sub(rf"{name}: (2|null)", content, written) if '"x"' in content else content
    assert broken != written
    path.write_text(broken, "utf-16" if content == "UTF-16" else "utf-8")
    before = path.read_bytes()
    assert main(command()) == 1
    end = last_line(told())
    assert "out.jsonl.run.json" in end and "remove it" in end
    assert path.read_bytes() == before and len(server.requests) == 2
    path.unlink()
    assert main(command()) == 0 and answered() == [0, 1, 2]


# --- if it stops: failures (what each means: test_situations.py) ---


def test_a_failed_item_leaves_no_record_and_does_not_cost_its_batch(server, command, quick, told):
    server.replies = lambda request: Reply(status=500 if request.problem == 1 else 200)
    write_problems(3)
    assert main(command("--max-retries", 2)) == 1
    assert answered() == [0, 2]
    assert asked(server) == {0: 1, 1: 3, 2: 1}
    lines = told()
    assert "1 failed: 500" in lines and "The server had an error" in lines
    assert last_line(lines) == "1 of 3 have no answer; run the same command again to retry them"
    assert run_file()["finished"] is None and run_file()["totals"]["requests"] == 5
    server.replies = lambda request: Reply()
    assert main(command()) == 0
    assert sorted(answered()) == [0, 1, 2]
    assert len(server.requests) == 3 + 2 + 1


def test_refusals_of_single_problems_do_not_stop_the_run(server, command, told):
    server.replies = lambda request: Reply(status=400 if request.prompt[8] == "1" else 200)
    write_problems(40)
    assert main(command()) == 1
    assert len(read_jsonl()) == 40 - 11 and len(server.requests) == 40
    assert "11 failed: 400" in told()


@pytest.mark.parametrize(
    ("problems", "requests", "says"),
    [(100, 12, "all requests fail alike: 400"), (3, 3, "failed: 400")],
)
def test_requests_that_are_all_refused_stop_the_run_after_ten_and_are_told(
    server, command, told, problems, requests, says
):
    server.replies = lambda request: Reply(status=400, error=f"Bad thing in {request.prompt}")
    write_problems(problems)
    assert main(command("--batch-size", 4)) == 1
    assert len(server.requests) == requests
    lines = told()
    assert "Bad thing in" in lines and says in lines
    assert (says in last_line(lines)) == (problems > 10)


def test_ten_quick_refusals_do_not_overtake_the_first_answers(server, command):
    server.replies = lambda request: Reply(
        status=400 if request.problem % 4 else 200, seconds=0 if request.problem % 4 else 2
    )
    write_problems(64)
    assert main(command("--batch-size", 1, "--concurrent-batches", 24)) == 1
    assert len(server.requests) == 64 and len(answered()) == 16


def test_a_key_revoked_on_the_way_keeps_what_was_answered_and_sums_it_up(server, command, told):
    server.replies = lambda request: Reply(status=401 if request.problem == 7 else 200)
    write_problems(40)
    assert main(command("--batch-size", 5)) == 1
    assert len(server.requests) == 10 and len(read_jsonl()) == 9
    lines = told().strip().split("\n")
    assert "check the provider's key" in lines[-1] and "(9 of 40 answered)" in lines[-1]
    assert any("9 of 40 answered in" in line for line in lines)


def test_what_is_under_way_when_the_run_ends_is_kept_and_nothing_more_is_sent(server, command):
    server.replies = lambda request: (
        Reply(status=401) if request.problem == 3 else Reply(seconds=0.7)
    )
    write_problems(40)
    assert main(command("--batch-size", 1, "--concurrent-batches", 4)) == 1
    assert sorted(answered()) == [0, 1, 2] and len(server.requests) == 4


def test_pauses_grow_to_a_minute(server, command, pauses):
    server.replies = lambda request: Reply(status=500)
    write_problems(2)
    assert main(command("--max-retries", 9)) == 1
    longest = [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert [most / 2 <= pause <= most for pause, most in zip(pauses, longest, strict=True)] == [
        True
    ] * 9
    assert len(set(pauses)) == 9  # with jitter


def test_pauses_never_undercut_retry_after(server, command, pauses):
    server.replies = lambda request: Reply(status=429, headers={"Retry-After": "100"})
    write_problems(1)
    assert main(command("--max-retries", 8)) == 1
    assert min(pauses) >= 100 and max(pauses) <= 100.25 and len(pauses) == 8


# --- if it stops: signals, kills and a full disk ---

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}


def ended_by_signals(runs) -> list[str]:
    """Send each run a signal; what they tell once all have ended, within 2 seconds."""
    began = time.monotonic()
    for run, number in zip(runs, SIGNALS, strict=True):
        run.send_signal(number)
    ends = [run.end(10) for run in runs]
    assert time.monotonic() - began < 2
    assert [code for code, _ in ends] == list(SIGNALS.values())
    return [last_line(told) for _, told in ends]


def test_a_signal_ends_within_2_seconds_with_requests_hanging(server, start):
    server.replies = lambda request: Reply(seconds=0 if request.prompt[8] == "1" else 30)
    write_problems(70)
    paths = [f"{number}.jsonl" for number in SIGNALS]
    options = ("--batch-size", 1, "--concurrent-batches", 64)
    runs = [start(*options, "--output-path", path) for path in paths]
    wait_for(lambda: len(server.requests) == 140)
    wait_for(lambda: [len(read_jsonl(path)) for path in paths] == [11, 11])
    for end in ended_by_signals(runs):
        assert "stopped by" in end and "run the same command again" in end
    assert [len(read_jsonl(path)) for path in paths] == [11, 11]
    assert [run_file(path)["totals"]["requests"] for path in paths] == [70, 70]


@pytest.mark.parametrize("moment", [0, 0.5, 1.2, 2])
def test_a_signal_is_remembered_whatever_the_moment(server, start, moment):
    server.replies = lambda request: Reply(seconds=30)
    write_problems(70)
    paths = [f"{number}.jsonl" for number in SIGNALS]
    runs = [start("--output-path", path, imported="libraries") for path in paths]
    wait_for(lambda: all(Path(path).exists() for path in paths))
    time.sleep(moment)  # while litellm is imported, or the requests hang
    for end in ended_by_signals(runs):
        assert "stopped by" in end


def test_answered_items_are_on_disk_while_failed_ones_wait_for_their_retry(server, command, told):
    server.replies = lambda request: (
        Reply(status=429, headers={"Retry-After": "60"}) if request.problem == 1 else Reply()
    )
    write_problems(3)

    def interrupt():
        wait_for(lambda: Path("out.jsonl").exists() and answered() == [0, 2])
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    assert main(command()) == 130
    assert "waiting 60 s before try 2: 429" in told()


def test_after_a_hard_kill_nothing_answered_on_disk_is_asked_again(server, start, command):
    server.replies = lambda request: Reply(seconds=0.05)
    write_problems(60)
    run = start("--batch-size", 4)
    wait_for(lambda: Path("out.jsonl").exists() and Path("out.jsonl").stat().st_size > 3000)
    run.kill()
    assert main(command("--batch-size", 4)) == 0
    assert sorted(answered()) == list(range(60))
    assert len(server.requests) <= 60 + 4
    assert 60 <= run_file()["totals"]["requests"] <= len(server.requests)


def test_a_second_run_on_the_same_output_is_refused(server, command, call, told):
    server.replies = lambda request: Reply(seconds=1)
    write_problems(2)
    run = threading.Thread(target=call)
    run.start()
    wait_for(lambda: server.requests)
    assert main(command()) == 1
    assert "in use by another run" in told()
    run.join()
    assert len(read_jsonl()) == 2 and len(server.requests) == 2
    assert main(command("--max-tokens", 100)) == 0


def test_a_full_disk_keeps_whole_records_and_says_so(server, start, command):
    pytest.importorskip("resource")
    write_problems(30)
    code, told = start("--batch-size", 3, limits={"RLIMIT_FSIZE": 2000}).end()
    assert code == 1
    end = last_line(told)
    assert "cannot write to out.jsonl" in end and "run the same command again" in end
    kept = len(read_jsonl())
    assert 5 < kept < 12 and Path("out.jsonl").read_bytes().endswith(b"\n")
    assert len(server.requests) - kept <= 3  # no more than the batch that did not fit
    assert main(command()) == 0
    assert sorted(answered()) == list(range(30))


def test_a_run_file_that_cannot_be_saved_ends_no_run_and_is_told(server, command, told):
    def replies(request):
        if len(server.requests) == 5:
            Path("out.jsonl.run.json.tmp").mkdir()  # in the way of the next draft
        return Reply(seconds=0.1)

    server.replies = replies
    write_problems(30)
    assert main(command("--batch-size", 2)) == 0
    assert answered() == list(range(30))
    assert "out.jsonl.run.json is not up to date: Is a directory" in told()


# --- if it stops: keys, which are nowhere ---


def test_every_secret_is_masked_by_its_name_or_value(server, command, told, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN_READ", "tok-in-environment")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "parallel")
    headers = {"Authorization": "Basic dXNlcjpwYXNz", "X-Team": "team-seven"}
    echo = "tok-in-environment, dXNlcjpwYXNz, http://me:hunter2@host/, parallel, team-seven"
    server.replies = lambda request: Reply(status=400, error=echo)
    write_problems(1)
    param = (f"extra_headers={json.dumps(headers)}", 'extra_body={"use_auth": true}')
    assert main(command("--param", param[0], "--param", param[1])) == 1
    assert run_file()["settings"]["param"]["extra_body"] == {"use_auth": True}
    assert "***, ***, http://***@host/, parallel, ***" in told()
    stored = Path("out.jsonl.run.json").read_text()
    assert "dXNlcjpwYXNz" not in stored and "team-seven" not in stored and "***" in stored


@pytest.mark.parametrize(
    ("param", "secret"),
    [
        ("api_key=123456", "123456"),
        ("api_key=x9", "x9"),
        ("auth=S3cret", "S3cret"),
        ('extra_headers={"Cookie": "c00kie-1"}', "c00kie-1"),
        ('headers={"X-Any": "any-1"}', "any-1"),
        ("extra_headers=Authorization: Bearer S3cret", "S3cret"),
        ('extra_query={"api_key": "S3cret"}', "S3cret"),
        ('extra_body={"access_token": "t0k3n-1"}', "t0k3n-1"),
        ('extra_body={"nested": [{"password": "pa55w0rd"}]}', "pa55w0rd"),
        ("api_base=http://TOKEN77@127.0.0.1:9/v1", "TOKEN77"),
        ("api_base=http://me:p@ss77@127.0.0.1:9/v1", "ss77"),
        ("api_base=http://127.0.0.1:9/v1?api_key=S3cret", "S3cret"),
        ("api_base=http://127.0.0.1:9/v1?sig=S3cret&x=1", "S3cret"),
        ("api_base=127.0.0.1:9/v1?key=S3cret", "S3cret"),
        ("api_base=http://me:pa/ss77@127.0.0.1:9/v1", "ss77"),
        ('extra_body={"session_token_x": "S3cret"}', "S3cret"),
    ],
)
def test_what_param_holds_under_the_name_of_a_secret_is_shown_nowhere(
    command, told, quick, param, secret
):
    write_problems(1)
    main(command("--param", param, "--max-retries", 0))
    lines = told()
    assert lines and secret not in lines
    assert secret not in Path("out.jsonl.run.json").read_text()


USAGE_MISTAKES = [
    *(("--param", "api_key:sk-typo-123456"), ("--timeout", "0"), ("--details=sk-typo-123456",)),
    *(("sk-typo-123456",), ("--api-key=sk-typo-123456",), ("--batch-size", "sk-typo-123456")),
]


@pytest.mark.parametrize("mistake", USAGE_MISTAKES)
def test_a_usage_error_repeats_no_key(command, capsys, monkeypatch, mistake):
    monkeypatch.setenv("SOME_API_KEY", "sk-typo-123456")
    with pytest.raises(SystemExit):
        main(command("--param", "api_key=sk-typo-123456", *mistake))
    assert "sk-typo-123456" not in capsys.readouterr().err


# --- which options make it fast ---


def test_requests_in_flight_reach_and_never_exceed_batch_size_times_k(server, command):
    server.replies = lambda request: Reply(seconds=0.1)
    write_problems(60)
    assert main(command("--batch-size", 3, "--concurrent-batches", 4)) == 0
    assert 8 <= server.peak <= 12
    assert sorted(answered()) == list(range(60))


def test_a_batch_in_backoff_does_not_stop_the_others(server, command):
    server.replies = lambda request: (
        Reply(status=429, headers={"Retry-After": "2"})
        if request.problem == 0 and request.attempt == 1
        else Reply()
    )
    write_problems(20)
    assert main(command("--batch-size", 1, "--concurrent-batches", 2)) == 0
    assert answered()[-1] == 0


@pytest.mark.parametrize("model", [OPENAI, VLLM, ANTHROPIC])
def test_connections_are_reused(server, command, model):
    server.replies = lambda request: Reply(seconds=0.05)
    write_problems(75)
    options = (*at(server, model), "--batch-size", 1, "--concurrent-batches", 10)
    assert main(command(*options)) == 0
    assert len(server.connections) <= 20


def run_at(speed: int, monkeypatch):
    """Let the clock of the script run faster, where a long run is meant."""
    clock = {"monotonic": lambda: speed * time.monotonic(), "time": time.time, "sleep": time.sleep}
    monkeypatch.setattr(completions, "time", SimpleNamespace(**clock))


@pytest.mark.parametrize(
    ("speed", "options", "hint"),
    [
        (1000, ["--batch-size", 5, "--concurrent-batches", 2], True),
        (1000, ["--batch-size", 1, "--concurrent-batches", 10], False),
        (1, ["--batch-size", 5, "--concurrent-batches", 2], False),
    ],
)
def test_a_long_run_whose_batches_wait_says_what_changes_it(
    server, command, told, monkeypatch, speed, options, hint
):
    run_at(speed, monkeypatch)
    server.replies = lambda request: Reply(seconds=0.5 if request.problem == 0 else 0)
    write_problems(10)
    assert main(command(*options)) == 0
    lines = told()
    assert ("--batch-size 1 --concurrent-batches 10" in lines) == hint
    assert ("--concurrent-batches" in lines) == hint


def test_a_log_file_gets_few_lines_and_a_known_price(server, command, told):
    import litellm

    write_problems(100)
    assert main(command("--model", "openai/gpt-4.1-nano", "--batch-size", 2)) == 0
    lines = told()
    assert "100 of 100 answered" in lines and "0 cut off" in lines and "$0." in lines
    assert "1,000 tokens in, 2,000 out (500 for reasoning)" in lines
    assert lines.count("\n") < 10
    price = litellm.model_cost["gpt-4.1-nano"]
    cost = 10 * price["input_cost_per_token"] + 20 * price["output_cost_per_token"]
    assert run_file()["totals"]["cost"] == pytest.approx(100 * cost)


def test_a_log_file_gets_a_line_a_minute_also_while_nothing_is_answered(
    server, command, told, monkeypatch
):
    monkeypatch.setattr(completions, "LOG_LINE", 0.2)  # a short minute
    server.replies = lambda request: Reply(seconds=1.5 if request.problem > 1 else 0)
    write_problems(4)
    assert main(command("--batch-size", 2)) == 0
    lines = told().split("\n")
    assert [line for line in lines if "2/4 answers" in line and "2 under way" in line]
    assert len(lines) < 15


# --- which model ---


def test_none_sends_no_temperature_no_top_p_and_no_max_tokens(server, command):
    write_problems(1)
    none = ("--temperature", "none", "--top-p", "none", "--max-tokens", "none")
    assert main(command(*none, "--param", "seed=7")) == 0
    body = server.requests[0].body
    assert not body.keys() & {"temperature", "top_p", "max_tokens", "max_completion_tokens"}
    assert body["seed"] == 7


def test_params_are_passed_on_as_json_or_text(server, command):
    write_problems(1)
    params = ('stop=["--"]', "reasoning_effort=high", 'extra_body={"min_p": 0.1}')
    options = [word for param in params for word in ("--param", param)]
    assert main(command("--model", VLLM, *options)) == 0
    body = server.requests[0].body
    assert body["stop"] == ["--"] and body["reasoning_effort"] == "high"
    assert body["min_p"] == 0.1


@pytest.mark.parametrize(
    ("model", "repair"),
    [
        ("nonsense", "check --model"),
        ("nonsense/gpt", "check --model"),
        ("openai/gpt-5", "--temperature none --top-p none"),
        ("openai/gpt-4.1-nano", "check the provider's key"),
        ("azure/gpt-4.1", "check the provider's key"),
        ("anthropic/claude-3-haiku", "check the provider's key"),
        ("gemini/gemini-2.5-flash", "check the provider's key"),
        ("fireworks_ai/any", "check the provider's key"),
        ("vllm/any", "vllm"),
    ],
)
def test_a_model_that_cannot_be_asked_so_stops_the_run(command, told, model, repair, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.setenv("AZURE_API_BASE", "http://127.0.0.1:9")
    write_problems(30)
    assert main(without_address(command("--model", model, "--batch-size", 2))) == 1
    assert repair in last_line(told())


# --- more than one machine ---


def test_outputs_of_parts_are_put_together_and_the_whole_says_what_is_missing(server, command):
    write_problems(10)
    lines = Path("problems.jsonl").read_text().splitlines(keepends=True)
    for part, some in enumerate((lines[:4], lines[4:7], lines[7:])):
        Path(f"part{part}").write_text("".join(some))
    server.replies = lambda request: Reply(status=400 if request.problem == 5 else 200)
    parts = [("--benchmark", f"part{n}", "--output-path", f"part{n}.jsonl") for n in range(3)]
    assert [main(command(*part)) for part in parts] == [0, 1, 0]
    Path("out.jsonl").write_bytes(b"".join(Path(f"part{n}.jsonl").read_bytes() for n in range(3)))
    server.replies = lambda request: Reply()
    assert main(command()) == 0
    assert sorted(answered()) == list(range(10)) and asked(server)[5] == 2
    assert len(server.requests) == 11


# --- from Python ---


def test_main_with_args_takes_just_the_eight_arguments(server, monkeypatch):
    write_problems(3)
    monkeypatch.setenv("OPENAI_API_BASE", f"{server.url}/v1")
    assert main_with_args(**OPTIONS | {"output_path": Path("deep/folder/out.jsonl")}) == 0
    assert len(read_jsonl("deep/folder/out.jsonl")) == 3


def test_main_with_args_returns_how_many_are_missing(server, call):
    server.replies = lambda request: Reply(status=400 if request.problem == 1 else 200)
    write_problems(3)
    assert call() == 1
    assert call(limit=1) == 0


def test_main_with_args_raises_what_ends_a_run(server, call):
    server.replies = lambda request: Reply(status=401, error="Incorrect API key provided")
    write_problems(3)
    with pytest.raises(CompletionsError, match="check the provider's key"):
        call()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "hot"),
        ("temperature", -1),
        ("temperature", float("nan")),
        ("top_p", 1.5),
        ("max_tokens", 0),
        ("max_tokens", "many"),
        ("batch_size", 0),
        ("batch_size", 10**20),
        ("batch_size", 2.5),
        ("batch_size", 10.0),
        ("num_samples", True),
        ("batch_size", None),
        ("num_samples", 10**12),
        ("timeout", 0),
        ("max_retries", -1),
        ("prompt_column", "response"),
        ("param", {"seed": float("nan")}),
        ("param", {"temperature": 1}),
        ("model", None),
        ("lang", 3),
    ],
)
def test_main_with_args_refuses_what_the_command_line_does(server, call, name, value):
    write_problems(3)
    with pytest.raises(CompletionsError, match=name.replace("_", "[-_]")):
        call(**{name: value})
    assert not server.requests and not Path("out.jsonl").exists()


def test_main_with_args_takes_paths(server, call):
    write_problems(1)
    assert call(benchmark=Path("problems.jsonl"), output_path=Path("made") / "out.jsonl") == 0
    assert answered("made/out.jsonl") == [0]


# --- options ---


@pytest.mark.parametrize(
    "options",
    [
        ["--batch-size", "0"],
        ["--batch-size", "99999999999999999999"],
        ["--concurrent-batches", "99999999999"],
        ["--num-samples", "99999999999"],
        ["--limit", "0"],
        ["--limit", "1.5"],
        ["--temperature", "-1"],
        ["--temperature", "nan"],
        ["--temperature", "inf"],
        ["--temperature", "hot"],
        ["--top-p", "1.5"],
        ["--max-retries", "-1"],
        ["--max-retries", "999999999999"],
        ["--timeout", "0"],
        ["--timeout", "inf"],
        ["--param", "novalue"],
        ["--param", "n=3"],
        ["--param", "=3"],
        ["--max-tokens", "many"],
        ["--max-tokens", "0"],
        ["--temprature", "1"],
        ["--lan", "Lua"],
        ["--prompt-column", "response"],
        ["--prompt-column", "program"],
        ["--prompt-column", "details"],
        ["--model", "vllm/x", "--concurrent-batches", "2"],
        ["--num-samples", "2", "--param", "seed=1"],
    ],
    ids=" ".join,
)
def test_bad_usage_is_refused_by_argparse(server, command, capsys, options):
    with pytest.raises(SystemExit) as stop:
        main(command(*options))
    assert stop.value.code == 2
    words = {"--model": "hosted_vllm/", "--num-samples": "seed", "--lan": "--lan"}
    out, err = capsys.readouterr()
    named = words.get(options[0], options[0]) if len(options) > 2 else options[0]
    assert named in last_line(err) and out == "" and "Traceback" not in err
    assert not server.requests and not Path("out.jsonl").exists()


@pytest.mark.parametrize("path", ["file/out.jsonl", ".", "folder", "new/", "/", ""])
def test_an_unwritable_output_is_told_before_any_request(server, command, told, path):
    write_problems(1)
    Path("file").write_text("")
    Path("folder").mkdir()
    assert main(command("--output-path", path)) == 1
    assert "cannot write to" in last_line(told()) and not server.requests
    assert not Path("new").is_file()


def test_parent_folders_of_the_output_are_made_and_a_tilde_is_expanded(
    command, monkeypatch, tmp_path
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_problems(1)
    assert main(command("--output-path=~/runs/a/out.jsonl")) == 0
    assert len(read_jsonl("home/runs/a/out.jsonl")) == 1 and not Path("~").exists()
    assert run_file("home/runs/a/out.jsonl")["finished"]


@pytest.mark.parametrize("benchmark", ["", ".", "/", "problem.jsonl"])
def test_a_benchmark_that_is_none_is_told_in_one_line(server, command, told, benchmark):
    assert main(command("--benchmark", benchmark)) == 1
    (line,) = told().strip().split("\n")
    assert "list index" not in line and not server.requests


def test_help_is_in_the_readme(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"```\n{shown}```" in readme
    assert max(map(len, shown.split("\n"))) <= 80


def imported(told: str) -> set[str]:
    """What PYTHONPROFILEIMPORTTIME says was imported."""
    return {line.rsplit("|")[-1].strip() for line in told.split("\n") if "|" in line}


def test_help_and_usage_errors_import_nothing_heavy(start):
    code, lines = start("--batch-size", "0", imported=None, PYTHONPROFILEIMPORTTIME="1").end()
    assert code == 2
    assert "argparse" in imported(lines)
    assert not imported(lines) & {"litellm", "datasets", "pandas", "httpx", "openai", "numpy"}


# --- the script as a file ---


def test_it_runs_from_any_folder_loads_no_datasets_for_a_file_and_masks_the_key_of_a_dotenv_file(
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
    code, lines = start(imported=None, **environment).end()
    assert {request.key for request in server.requests} == {"sk-from-dotenv-0123456789"}, lines
    assert code == 1 and answered() == [0] and "Bad key ***" in lines
    assert "sk-from-dotenv" not in lines + Path("out.jsonl.run.json").read_text()
    assert {"litellm", "pandas"} <= imported(lines) and "datasets" not in imported(lines)


def test_its_inline_metadata_is_that_of_the_project():
    """So that `uv run path/to/completions.py` installs what `pip install .` does."""
    script = (ROOT / "completions.py").read_text(encoding="utf-8")
    inline = re.search(r"(?m)^# /// script\n((?:#.*\n)+?)# ///$", script)[1]
    metadata = tomllib.loads(re.sub(r"(?m)^# ?", "", inline))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert len(metadata["dependencies"]) > 4
    assert metadata == {name: project[name] for name in metadata}
