"""Runs against a scripted model on a real HTTP server: what is asked, written, kept and told."""

import json
import os
import re
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, read_jsonl, run_file, write_problems
from fake_llm import ANSWER, PROGRAM, Reply

from completions import (
    TOTALS,
    Failure,
    Report,
    Requests,
    Secrets,
    batches,
    main,
    main_with_args,
    pause,
)


def all_prompts(server) -> Counter:
    return Counter(request.prompt.split("\n")[0] for request in server.requests)


# --- the main job ---


def test_each_problem_gets_a_record_with_its_fields_response_and_program(server, command, capsys):
    problems = write_problems(12)
    assert main(command()) == 0
    assert read_jsonl() == [{**row, "response": ANSWER, "program": PROGRAM} for row in problems]
    assert "Problem 0.\n\nSolve this problem using Lua." in {r.prompt for r in server.requests}
    assert server.requests[0].body["temperature"] == 0.2
    assert server.requests[0].body["top_p"] == 0.95
    assert server.requests[0].body["max_tokens"] == 5000
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "12 of 12 answered" in captured.err


def test_none_sends_no_temperature_and_no_top_p(server, command):
    write_problems(1)
    assert main(command("--temperature", "none", "--top-p", "none", "--param", "seed=7")) == 0
    body = server.requests[0].body
    assert "temperature" not in body and "top_p" not in body and body["seed"] == 7


def test_main_with_args_takes_just_the_eight_arguments(server, monkeypatch):
    write_problems(3)
    monkeypatch.setenv("OPENAI_API_BASE", f"{server.url}/v1")
    missing = main_with_args(
        model="openai/scripted",
        benchmark="problems.jsonl",
        temperature=0.2,
        max_tokens=100,
        top_p=0.95,
        batch_size=2,
        lang="Lua",
        output_path="deep/folder/out.jsonl",
    )
    assert missing == 0 and len(read_jsonl("deep/folder/out.jsonl")) == 3


def test_batches_takes_any_iterable_and_shows_a_bar(capsys):
    assert list(batches((n for n in range(5)), 2)) == [[0, 1], [2, 3], [4]]
    assert "5it" in capsys.readouterr().err


def test_batches_reads_no_further_than_it_hands_out():
    items = iter(range(10))
    assert next(batches(items, 3, progress=False)) == [0, 1, 2]
    assert next(items) == 3


def test_a_program_or_response_field_of_the_benchmark_is_overwritten(command):
    Path("problems.jsonl").write_text('{"prompt": "x", "program": "old", "z": 1}\n')
    assert main(command()) == 0
    assert read_jsonl() == [{"prompt": "x", "program": PROGRAM, "z": 1, "response": ANSWER}]


def test_null_content_is_an_empty_response_and_is_counted(server, command, capsys):
    server.replies = lambda request: Reply(None)
    write_problems(1)
    assert main(command()) == 0
    assert read_jsonl()[0]["response"] == "" and read_jsonl()[0]["program"] is None
    assert "1 empty, 1 without a program" in capsys.readouterr().err


def test_a_truncated_answer_is_kept_and_counted(server, command, capsys):
    server.replies = lambda request: Reply("```lua\nreturn", finish="length")
    write_problems(2)
    assert main(command()) == 0
    assert [row["program"] for row in read_jsonl()] == ["return", "return"]
    assert "2 cut off at --max-tokens" in capsys.readouterr().err
    assert run_file()["totals"]["truncated"] == 2


def test_every_problem_gets_its_first_sample_before_any_gets_its_second(server, command):
    write_problems(3)
    assert main(command("--num-samples", 2, "--batch-size", 1)) == 0
    assert [row["task_id"] for row in read_jsonl()] == [0, 1, 2, 0, 1, 2]
    assert main(command("--num-samples", 3)) == 0
    assert Counter(row["task_id"] for row in read_jsonl()) == {0: 3, 1: 3, 2: 3}
    assert len(server.requests) == 9


# --- failures ---

PASSING = {
    "500": Reply(status=500),
    "429": Reply(status=429, error="Slow down."),
    "408": Reply(status=408),
    "409": Reply(status=409),
    "no choices": Reply(choices=False),
    "broken body": Reply(broken=True),
    "reset": Reply(reset=True),
    "timeout": Reply(seconds=3),
}
PROVIDERS = {
    "openai/scripted": "/v1",
    "hosted_vllm/scripted": "/v1",
    "anthropic/claude-3-haiku": "",
}


@pytest.mark.parametrize(
    ("fault", "model"),
    [
        (fault, model)
        for fault in PASSING
        for model in PROVIDERS
        if (fault, model) != ("no choices", "anthropic/claude-3-haiku")  # its API has none
    ],
)
def test_only_what_failed_for_a_passing_reason_is_sent_again(
    server, command, quick, model, fault, monkeypatch
):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-local-0123456789")

    def replies(request):
        return PASSING[fault] if request.prompt[8] == "1" and request.attempt == 1 else Reply()

    server.replies = replies
    write_problems(3)
    address = f"api_base={server.url}{PROVIDERS[model]}"
    assert main(command("--model", model, "--param", address, "--timeout", 1)) == 0
    assert len(read_jsonl()) == 3
    assert all_prompts(server) == {"Problem 0.": 1, "Problem 1.": 2, "Problem 2.": 1}
    assert run_file()["totals"]["requests"] == 4


def test_a_failed_item_leaves_no_record_and_does_not_cost_its_batch(server, command, quick, capsys):
    server.replies = lambda request: Reply(status=500 if request.prompt[8] == "1" else 200)
    write_problems(3)
    assert main(command("--max-retries", 2)) == 1
    assert [row["task_id"] for row in read_jsonl()] == [0, 2]
    assert all_prompts(server)["Problem 1."] == 3
    told = capsys.readouterr().err
    assert "1 failed: 500 InternalServerError" in told
    assert "1 of 3 have no answer; run the same command again to retry them" in told
    assert run_file()["finished"] is None
    server.replies = lambda request: Reply()
    assert main(command()) == 0
    assert sorted(row["task_id"] for row in read_jsonl()) == [0, 1, 2]
    assert len(server.requests) == 3 + 2 + 1


def test_answered_items_are_on_disk_while_failed_ones_wait_for_their_retry(server, start):
    server.replies = lambda request: (
        Reply(status=429, headers={"Retry-After": "60"}) if request.prompt[8] == "1" else Reply()
    )
    write_problems(3)
    process = start()
    wait_for(lambda: Path("out.jsonl").exists() and len(read_jsonl()) == 2)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert time.monotonic() - began < 2
    assert "waiting 60 s before try 2: 429 RateLimitError" in process.stderr.read()


def test_retry_after_is_honoured(server, command):
    server.replies = lambda request: (
        Reply(status=429, headers={"Retry-After": "2"}) if request.attempt == 1 else Reply()
    )
    write_problems(1)
    assert main(command()) == 0
    first, second = server.requests
    assert 2 <= second.arrived - first.arrived < 4


END_OF_RUN = {
    "401": (Reply(status=401, error="Incorrect API key provided"), "check the provider's key"),
    "403": (Reply(status=403, error="Not allowed"), "check the provider's key"),
    "402": (Reply(status=402, error="Pay first"), "quota or credit"),
    "404": (Reply(status=404, error="The model `x` does not exist"), "check --model"),
    "quota": (
        Reply(status=429, error="You exceeded your current quota, please check your plan."),
        "quota or credit",
    ),
    "both": (
        Reply(status=400, error="`temperature` and `top_p` cannot both be specified."),
        "--temperature none --top-p none",
    ),
}


@pytest.mark.parametrize("name", END_OF_RUN)
@pytest.mark.parametrize("model", PROVIDERS)
def test_a_failure_of_the_whole_run_stops_it_after_the_batch(
    server, command, capsys, name, model, monkeypatch
):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-local-0123456789")
    reply, repair = END_OF_RUN[name]
    server.replies = lambda request: reply
    write_problems(30)
    address = f"api_base={server.url}{PROVIDERS[model]}"
    assert main(command("--model", model, "--param", address, "--batch-size", 5)) == 1
    assert len(server.requests) == 5
    assert repair in capsys.readouterr().err.strip().split("\n")[-1]
    assert read_jsonl() == []


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
        ("vllm/any", "install the package"),
    ],
)
def test_a_model_that_cannot_be_asked_so_stops_the_run(command, capsys, model, repair, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("AZURE_API_BASE", "http://127.0.0.1:9")
    write_problems(30)
    assert main([*command()[2:-2], "--model", model]) == 1
    told = capsys.readouterr()
    assert repair in told.err.strip().split("\n")[-1]
    assert "Traceback" not in told.err and told.out == ""


def test_a_server_that_is_down_is_told_after_the_retries(command, quick, capsys):
    write_problems(3)
    assert main(command("--param", "api_base=http://127.0.0.1:9/v1", "--max-retries", 1)) == 1
    told = capsys.readouterr().err.strip().split("\n")[-1]
    assert "all requests fail alike" in told and "is the server up and its address right?" in told


def test_ten_requests_refused_alike_stop_the_run(server, command, capsys):
    server.replies = lambda request: Reply(status=400, error=f"Bad thing in {request.prompt}")
    write_problems(100)
    assert main(command("--batch-size", 4)) == 1
    assert len(server.requests) == 12
    assert "all requests fail alike: 400 BadRequestError" in capsys.readouterr().err


def test_a_key_revoked_on_the_way_keeps_what_was_answered_and_sums_it_up(server, command, capsys):
    server.replies = lambda request: Reply(status=401 if "Problem 7" in request.prompt else 200)
    write_problems(40)
    assert main(command("--batch-size", 5)) == 1
    assert len(server.requests) == 10 and len(read_jsonl()) == 9
    told = capsys.readouterr().err.strip().split("\n")
    assert "check the provider's key" in told[-1] and "(9 of 40 answered)" in told[-1]
    assert any("9 of 40 answered in" in line for line in told)


def test_a_batch_that_the_end_of_the_run_overtakes_is_not_sent():
    asked = []
    requests = Requests(asked.extend, dict.fromkeys(TOTALS, 0), max_retries=0)
    requests.ending.set()  # as a failure of an earlier batch does, just before this one is sent
    assert list(requests.outcomes([[{"prompt": "x"}]], concurrent_batches=1)) == [([], [])]
    assert not asked and not requests.totals["requests"]


def test_refusals_of_single_problems_do_not_stop_the_run(server, command, capsys):
    server.replies = lambda request: Reply(status=400 if request.prompt[8] == "1" else 200)
    write_problems(40)
    assert main(command()) == 1
    assert len(read_jsonl()) == 40 - 11 and len(server.requests) == 40
    assert "11 failed: 400 BadRequestError" in capsys.readouterr().err


KEYS = {
    "sk-local-0123456789": [],
    "sk-in-param-987654321": ["--param", "api_key=sk-in-param-987654321"],
}


@pytest.mark.parametrize("key", KEYS)
def test_no_key_is_shown_or_stored_even_when_the_server_echoes_it(server, command, capsys, key):
    server.replies = lambda request: Reply(
        status=400, error=f"Bad: {request.headers['Authorization']} sk-in-param-987654321"
    )
    write_problems(2)
    assert main(command(*KEYS[key])) == 1
    assert {request.headers["Authorization"] for request in server.requests} == {f"Bearer {key}"}
    everything = capsys.readouterr().err + Path("out.jsonl.run.json").read_text()
    assert "Bad: Bearer ***" in everything
    assert key not in everything and "sk-local-0123456789" not in everything


def test_every_secret_is_masked_by_name_or_by_value(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "tok-in-environment")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "parallel")
    secrets = Secrets({"extra_headers": {"Authorization": "Basic dXNlcjpwYXNz", "X-Title": "mine"}})
    told = secrets.mask("tok-in-environment, dXNlcjpwYXNz, http://me:hunter2@host/, mine, parallel")
    assert told == "***, ***, http://me:***@host/, mine, parallel"
    settings = {"param": {"api_key": "x", "seed": 1, "stop": ["tok-in-environment"]}}
    assert secrets.masked(settings) == {"param": {"api_key": "***", "seed": 1, "stop": ["***"]}}


@pytest.mark.parametrize("attempt", range(1, 12))
def test_pauses_grow_to_a_minute_and_never_undercut_retry_after(attempt):
    answer = Failure(ConnectionError("reset"), Secrets({}))
    longest = min(60, 2 ** (attempt - 1))
    pauses = [pause(attempt, [answer]) for _ in range(100)]
    assert longest / 2 <= min(pauses) < max(pauses) <= longest
    answer.retry_after = 100
    assert 100 <= pause(attempt, [answer]) <= 100.25


# --- resuming ---


def test_a_finished_output_sends_nothing_and_exits_0(server, command, capsys):
    write_problems(3)
    assert main(command()) == 0
    before = Path("out.jsonl").read_bytes(), Path("out.jsonl.run.json").read_bytes()
    assert main(command()) == 0
    assert len(server.requests) == 3
    assert before == (Path("out.jsonl").read_bytes(), Path("out.jsonl.run.json").read_bytes())
    assert "all 3 answers are in out.jsonl already" in capsys.readouterr().err


def test_a_smaller_limit_before_is_extended(server, command):
    write_problems(5)
    assert main(command("--limit", 2)) == 0
    assert main(command()) == 0
    assert [row["task_id"] for row in read_jsonl()] == [0, 1, 2, 3, 4]
    assert main(command("--limit", 2)) == 0
    assert len(server.requests) == 5


def test_identical_problems_each_keep_their_own_record(server, command):
    Path("problems.jsonl").write_text('{"prompt": "same"}\n' * 3)
    assert main(command("--limit", 2)) == 0
    assert len(read_jsonl()) == 2
    assert main(command()) == 0
    assert len(read_jsonl()) == 3 and len(server.requests) == 3


def test_a_torn_last_line_is_cut_off_and_asked_again(server, command, capsys):
    write_problems(3)
    assert main(command()) == 0
    whole = Path("out.jsonl").read_bytes()
    Path("out.jsonl").write_bytes(whole[:-20])
    assert main(command()) == 0
    assert Path("out.jsonl").read_bytes() == whole
    assert len(server.requests) == 4
    assert "cut off a torn last line" in capsys.readouterr().err


def test_a_whole_last_record_without_its_newline_is_kept(server, command):
    write_problems(2)
    assert main(command("--limit", 1)) == 0
    Path("out.jsonl").write_bytes(Path("out.jsonl").read_bytes().rstrip(b"\n"))
    assert main(command()) == 0
    assert [row["task_id"] for row in read_jsonl()] == [0, 1] and len(server.requests) == 2


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"torn": \n{"prompt": "Problem 0."}\n', "out.jsonl:1: not valid JSON"),
        ('{"prompt": "Other.", "response": "", "program": null}\n', "not a record of this benchm"),
        ("my notes", "out.jsonl:1: not valid JSON"),
        ('{"prompt": "Problem 0."}', "out.jsonl:1: not a record of this benchmark"),
    ],
)
def test_an_output_that_is_not_of_this_run_is_left_alone(server, command, capsys, content, told):
    write_problems(2)
    Path("out.jsonl").write_text(content)
    assert main(command()) == 1
    assert told in capsys.readouterr().err
    assert Path("out.jsonl").read_text() == content and not server.requests


def test_the_benchmark_itself_is_refused_as_output(server, command, capsys):
    Path("problems.jsonl").write_text('{"prompt": "no newline"}')
    assert main(command("--output-path", "problems.jsonl")) == 1
    assert "problems.jsonl:1: not a record of this benchmark" in capsys.readouterr().err
    assert Path("problems.jsonl").read_text() == '{"prompt": "no newline"}' and not server.requests


def test_other_settings_are_refused_in_words(server, command, capsys):
    write_problems(2)
    assert main(command("--param", "seed=1")) == 0
    assert main(command("--temperature", 0.8, "--param", "seed=2")) == 1
    told = capsys.readouterr().err
    assert "out.jsonl was begun with temperature 0.2, not 0.8 and seed 1, not 2" in told
    assert main(command("--param", "seed=1", "--param", "api_key=sk-other-111111")) == 0


def test_other_settings_are_welcome_while_there_is_no_answer(server, command):
    server.replies = lambda request: Reply(status=404, error="no such model")
    write_problems(2)
    assert main(command("--model", "openai/mistyped")) == 1
    server.replies = lambda request: Reply()
    assert main(command()) == 0
    assert run_file()["settings"]["model"] == "openai/scripted"


def test_an_output_made_elsewhere_is_resumed_with_a_word(server, command, capsys):
    write_problems(2)
    assert main(command("--limit", 1)) == 0
    Path("out.jsonl.run.json").unlink()
    assert main(command()) == 0
    assert "unknown settings" in capsys.readouterr().err
    assert len(server.requests) == 2 and run_file()["records_of_unknown_settings"] == 1


def test_the_run_file_says_what_made_the_output(server, command):
    write_problems(4)
    assert main(command("--limit", 1)) == 0
    started = run_file()["started"]
    assert main(command("--param", "api_key=sk-secret-123456")) == 0
    content = run_file()
    assert content["started"] == started and content["finished"]
    assert content["settings"]["temperature"] == 0.2 and content["settings"]["lang"] == "Lua"
    assert content["benchmark"]["problems"] == 4 and len(content["benchmark"]["sha256"]) == 64
    assert content["benchmark"]["name"] == "problems.jsonl"
    assert {"python", "litellm", "datasets"} <= content["versions"].keys()
    assert content["totals"] == {
        **{"requests": 4, "prompt_tokens": 40, "completion_tokens": 80, "reasoning_tokens": 20},
        **{"cost": None, "truncated": 0, "empty": 0, "without_program": 0},
    }


# --- signals, kills and a full disk ---


def wait_for(condition, seconds: float = 60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_within_2_seconds_with_requests_hanging(server, start, number, code):
    server.replies = lambda request: Reply(seconds=0 if request.prompt[8] == "1" else 30)
    write_problems(70)
    process = start("--batch-size", 1, "--concurrent-batches", 64)
    wait_for(lambda: len(server.requests) >= 64 and len(read_jsonl()) == 11)
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(10) == code
    assert time.monotonic() - began < 2
    assert len(read_jsonl()) == 11
    told = process.stderr.read().strip().split("\n")[-1]
    assert "stopped by" in told and "run the same command again" in told
    assert process.stdout.read() == ""


def test_after_a_hard_kill_nothing_answered_on_disk_is_asked_again(server, start, command):
    server.replies = lambda request: Reply(seconds=0.05)
    write_problems(60)
    process = start("--batch-size", 4)
    wait_for(lambda: Path("out.jsonl").exists() and Path("out.jsonl").stat().st_size > 3000)
    process.kill()
    process.wait()
    assert main(command("--batch-size", 4)) == 0
    assert sorted(row["task_id"] for row in read_jsonl()) == list(range(60))
    assert len(server.requests) <= 60 + 4


def test_a_second_process_on_the_same_output_is_refused(server, start, command, capsys):
    server.replies = lambda request: Reply(seconds=30)
    write_problems(2)
    process = start()
    wait_for(lambda: server.requests)
    assert main(command()) == 1
    assert "in use by another run" in capsys.readouterr().err
    process.kill()
    process.wait()
    server.replies = lambda request: Reply()
    assert main(command()) == 0


def test_a_full_disk_keeps_whole_records_and_says_so(server, start, command):
    resource = pytest.importorskip("resource")
    write_problems(30)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        process = start("--batch-size", 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    last = told.strip().split("\n")[-1]
    assert "cannot write to out.jsonl" in last and "run the same command again" in last
    assert "Traceback" not in told
    kept = len(read_jsonl())
    assert 5 < kept < 12 and Path("out.jsonl").read_bytes().endswith(b"\n")
    assert len(server.requests) - kept <= 3  # no more than the batch that did not fit
    assert main(command()) == 0
    assert sorted(row["task_id"] for row in read_jsonl()) == list(range(30))


def test_windows_has_a_lock_of_its_own(server, command, capsys, monkeypatch):
    taken = []

    def locking(descriptor, mode, count):
        if taken:
            raise PermissionError
        taken.append(os.lseek(descriptor, 0, os.SEEK_CUR))

    monkeypatch.setitem(sys.modules, "fcntl", None)  # as if it could not be imported
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    write_problems(2)
    assert main(command()) == 0
    assert len(read_jsonl()) == 2 and taken[0] > Path("out.jsonl").stat().st_size
    assert main(command()) == 1
    assert "in use by another run" in capsys.readouterr().err


# --- many batches at once ---


def test_requests_in_flight_reach_and_never_exceed_batch_size_times_k(server, command):
    server.replies = lambda request: Reply(seconds=0.1)
    write_problems(60)
    assert main(command("--batch-size", 3, "--concurrent-batches", 4)) == 0
    assert 8 <= server.peak <= 12
    assert sorted(row["task_id"] for row in read_jsonl()) == list(range(60))


def test_a_batch_in_backoff_does_not_stop_the_others(server, command):
    server.replies = lambda request: (
        Reply(status=429, headers={"Retry-After": "2"})
        if request.prompt.startswith("Problem 0.") and request.attempt == 1
        else Reply()
    )
    write_problems(20)
    assert main(command("--batch-size", 1, "--concurrent-batches", 2)) == 0
    assert read_jsonl()[-1]["task_id"] == 0


@pytest.mark.parametrize("model", PROVIDERS)
def test_connections_are_reused(server, command, model, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-local-0123456789")
    server.replies = lambda request: Reply(seconds=0.05)
    write_problems(300)
    address = f"api_base={server.url}{PROVIDERS[model]}"
    options = ("--batch-size", 1, "--concurrent-batches", 40, "--param", address)
    assert main(command("--model", model, *options)) == 0
    assert len(server.connections) <= 80


def report(elapsed: float, busy: float, longest: float) -> Report:
    report = Report(100, 100, dict.fromkeys(TOTALS, 0))
    report.bar.close()
    report.began, report.busy, report.longest = time.monotonic() - elapsed, busy, longest
    return report


def test_a_long_run_that_kept_the_model_waiting_says_what_changes_it(capsys):
    report(elapsed=100, busy=300, longest=9).summary(concurrency=10)
    told = capsys.readouterr().err.strip().split("\n")[-1]
    assert "kept busy 30% of what 10 requests" in told
    assert "--batch-size 1 --concurrent-batches 10" in told


@pytest.mark.parametrize(("elapsed", "busy", "longest"), [(100, 700, 9), (50, 100, 9), (100, 0, 0)])
def test_a_short_or_busy_run_says_nothing_of_it(capsys, elapsed, busy, longest):
    report(elapsed, busy, longest).summary(concurrency=10)
    assert "kept busy" not in capsys.readouterr().err


def test_the_latencies_that_this_rests_on_are_those_of_the_requests(server, command, monkeypatch):
    reports = []
    monkeypatch.setattr(Report, "summary", lambda self, concurrency: reports.append(self))
    server.replies = lambda request: Reply(seconds=0.3)
    write_problems(4)
    assert main(command("--batch-size", 2)) == 0
    assert 1.2 <= reports[0].busy < 3 and 0.3 <= reports[0].longest < 1


def test_a_log_file_gets_few_lines_and_a_known_price(server, command, capsys):
    import litellm

    write_problems(100)
    assert main(command("--model", "openai/gpt-4.1-nano", "--batch-size", 2)) == 0
    told = capsys.readouterr().err
    assert "100/100" in told and "0 failed, 0 cut off, 3,000 tokens, $0." in told
    assert told.count("\n") < 10
    price = litellm.model_cost["gpt-4.1-nano"]
    cost = 10 * price["input_cost_per_token"] + 20 * price["output_cost_per_token"]
    assert run_file()["totals"]["cost"] == pytest.approx(100 * cost)


# --- usage ---


@pytest.mark.parametrize(
    "options",
    [
        ["--batch-size", "0"],
        ["--limit", "0"],
        ["--temperature", "-1"],
        ["--temperature", "nan"],
        ["--top-p", "1.5"],
        ["--max-retries", "-1"],
        ["--timeout", "0"],
        ["--param", "novalue"],
        ["--param", "n=3"],
        ["--max-tokens", "many"],
        ["--temprature", "1"],
        ["--model", "vllm/x", "--concurrent-batches", "2"],
    ],
)
def test_bad_usage_is_refused_by_argparse(command, capsys, options):
    with pytest.raises(SystemExit) as stop:
        main(command(*options))
    assert stop.value.code == 2
    assert options[0].replace("--model", "hosted_vllm/") in capsys.readouterr().err


def test_an_unwritable_output_is_told_before_any_request(server, command, capsys):
    write_problems(1)
    Path("file").write_text("")
    assert main(command("--output-path", "file/out.jsonl")) == 1
    assert main(command("--output-path", ".")) == 1
    told = capsys.readouterr().err
    assert told.count("cannot write to") == 2 and not server.requests


def test_help_is_quick_and_the_readme_shows_it(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"```\n{capsys.readouterr().out}```" in readme


def test_the_readmes_pass_at_k_is_right(capsys):
    executed = [
        {"task_id": task, "passed": n < good}
        for task, good in (("a", 2), ("b", 0))
        for n in range(4)
    ]
    Path("executed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in executed))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (snippet,) = (
        code for code in re.findall(r"```python\n(.*?)```", readme, re.S) if "comb" in code
    )
    for k in (1, 2):
        exec(snippet.replace("passed, 1", f"passed, {k}"), {})
    assert [float(line) for line in capsys.readouterr().out.split()] == [
        0.25,
        pytest.approx(5 / 12),
    ]


def test_help_and_usage_errors_import_nothing_heavy(start):
    process = start("--batch-size", "0", PYTHONPROFILEIMPORTTIME="1")
    _, told = process.communicate(timeout=30)
    assert process.returncode == 2
    imported = {line.rsplit("|")[-1].strip() for line in told.split("\n") if "|" in line}
    assert "argparse" in imported
    assert not imported & {"litellm", "datasets", "pandas", "httpx", "openai", "numpy"}


def test_a_run_on_a_local_file_imports_neither_datasets_nor_pandas(start):
    write_problems(1)
    process = start(PYTHONPROFILEIMPORTTIME="1")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    imported = {line.rsplit("|")[-1].strip() for line in told.split("\n") if "|" in line}
    assert "litellm" in imported and not imported & {"datasets", "pandas"}


def test_records_are_strict_ascii_json_lines(server, command):
    server.replies = lambda request: Reply("é\u2028\n```lua\nx = 'ü'\n```")
    Path("problems.jsonl").write_text('{"prompt": "ü", "big": 12345678901234567890123}\n', "utf-8")
    assert main(command()) == 0
    line = Path("out.jsonl").read_bytes()
    assert line.isascii() and line.count(b"\n") == 1 and b'"big": 12345678901234567890123' in line
    assert json.loads(line)["program"] == "x = 'ü'"


def test_it_runs_from_any_folder(server, start):
    write_problems(1)
    assert os.getcwd() != str(ROOT)
    process = start()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and out == "" and len(read_jsonl()) == 1
