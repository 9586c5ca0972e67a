# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "litellm >= 1.100, < 2", "pandas >= 3.0, < 4", "datasets >= 4.4, < 6",
#     "tqdm >= 4.66, < 5", "zstandard >= 0.23, < 1", "filelock >= 3.30, < 5",
# ]
# ///
r"""Ask a model to solve every problem of a benchmark; append the answers to a file.

    python completions.py --model openai/gpt-4.1-nano \
        --benchmark problems.jsonl --lang Lua --output-path lua.jsonl

Run the same command again to answer what is still missing, or with a higher
--num-samples to get more answers to each problem.
"""

import argparse
import gc
import hashlib
import json
import logging
import os
import random
import re
import signal
import ssl
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from threading import Event
from typing import Any, NoReturn
from urllib.parse import quote

try:
    from bcb_multipl_util import extract_code_from_markdown
except ModuleNotFoundError:
    sys.exit("completions.py needs bcb_multipl_util.py beside it (and PYTHONSAFEPATH not set)")

__version__ = "0.2.0"

# --- messages and secrets ----------------------------------------------------------------------

SECRET_NAME = re.compile(
    r"(?i)key|token(?!s|iz|_id)|secret|passw|credential|auth(?!or)|cookie|headers"
)
PARAM_SECRETS: set[str] = set()  # of all runs; secrets of the environment are looked up each time


def redact(text: str) -> str:
    """Replace secrets, and user, password and query of addresses, by ***."""
    # Looked up now: litellm loads a .env file into the environment.
    secrets = {value.strip() for name, value in os.environ.items() if SECRET_NAME.search(name)}
    for secret in sorted(secrets | PARAM_SECRETS, key=len, reverse=True):
        if len(secret) > 5:  # a shorter one protects nothing, and may be part of any word
            for form in (secret, json.dumps(secret)[1:-1], quote(secret, safe="")):
                text = text.replace(form, "***")
    text = re.sub(r"(\w://)[^\s?#\"']*@", r"\1***@", text)
    return re.sub(r"(\w://[^\s?\"']*\?)[^\s\"']+", r"\1***", text)


def redact_param(value: Any, name: str = "") -> Any:
    """Return a JSON value with *** for what stands under the name of a secret; remember that."""
    if isinstance(value, dict):
        all_headers = name.lower().endswith("headers")
        return {key: redact_param(v, name if all_headers else key) for key, v in value.items()}
    if isinstance(value, list):
        return [redact_param(inner, name) for inner in value]
    text = str(value).strip()
    if SECRET_NAME.search(name) and len(text) > 5:
        PARAM_SECRETS.update([text, text.split()[-1]])  # "Bearer sk-...", "sk-..."
        return "***"
    return redact(value) if isinstance(value, str) else value


class CompletionsError(Exception):
    """An error that the user can cause or fix: one line, redacted."""

    def __init__(self, message: str):
        super().__init__(redact(message))


def notify(line: str):
    """Write a line to stderr, redacted, above the progress bar if there is one."""
    # Not imported here: start-up must not wait for it. Another thread may just be importing it.
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    with suppress(OSError, ValueError):  # a full disk, a closed stream: the run goes on
        (tqdm.write if tqdm else print)(redact(line), file=sys.stderr)


def shorten(error: object, length: int = 300) -> str:
    """Return a text in one line, cut at a length; redacted first, for half a key would not be."""
    start = redact(str(error)[:10_000])  # of a body of megabytes, which takes long to search
    printable = "".join(c if c.isprintable() else " " for c in start)
    text = " ".join(printable.split()) or type(error).__name__
    return text if len(text) <= length else text[:length] + " [...]"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, the innermost last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


# --- options -----------------------------------------------------------------------------------

OWN_FIELDS = ("response", "program", "details")  # the fields that a record adds to its problem
RESERVED = {"model", "messages", "temperature", "max_tokens", "top_p", "timeout", "n", "stream"}
RESERVED |= {"request_timeout", "max_retries", "num_retries", "max_workers"}


@dataclass
class Options:
    """The options of the command line, with their defaults.

    None for temperature, top_p or max_tokens leaves it out of the requests. Another thread may set
    the Event stop: the run then saves the answers that have arrived and raises KeyboardInterrupt.
    """

    model: str
    benchmark: str
    temperature: float | None
    max_tokens: int | None
    top_p: float | None
    batch_size: int
    lang: str
    output_path: str
    num_samples: int = 1
    limit: int | None = None
    config: str | None = None
    split: str = "test"
    revision: str | None = None
    prompt_column: str = "prompt"
    concurrent_batches: int = 1
    timeout: float = 600
    max_retries: int = 5
    param: dict = field(default_factory=dict)
    details: bool = False
    stop: Event | None = None

    def __post_init__(self):
        self.param = dict(self.param)
        redact_param(self.param)  # from now on also where an error repeats a secret
        if reserved := RESERVED & self.param.keys():
            raise CompletionsError(f"--param {min(reserved)} cannot be passed on: see the options")
        if self.prompt_column in OWN_FIELDS:
            raise CompletionsError(f"--prompt-column cannot be {self.prompt_column}: overwritten")
        if self.num_samples > 1 and "seed" in self.param:
            raise CompletionsError("--param seed makes all samples of a problem the same: omit it")
        if self.model.startswith("vllm/") and self.concurrent_batches > 1:
            raise CompletionsError("vllm/ cannot take --concurrent-batches; hosted_vllm/ can")

    @property
    def in_flight(self) -> int:
        """How many requests are sent at once, at most."""
        return self.batch_size * self.concurrent_batches


# --- the benchmark -----------------------------------------------------------------------------

# A dataset's name. All else is a path, and so is what ends in a file extension: a typo in it must
# not go to the Hub.
HUB_NAME = re.compile(r"(?!.*\.[a-zA-Z]\w*$)\w[\w.-]*(/[\w.-]+)?$")


class Benchmark(list):
    """The problems of a benchmark, and the commit that they are of, if it is on the Hub."""

    commit: str | None = None


def load_benchmark(
    benchmark: str, *, config=None, split="test", revision=None, prompt_column="prompt"
) -> Benchmark:
    """Load the problems of a JSONL file or its address, of a folder, or of a dataset of the Hub.

    A row is what `json.loads` or the dataset's `to_list()` returns, converted by as_json. Raises
    CompletionsError for what cannot be read, and for a row without a prompt.
    """
    path = os.path.expanduser(benchmark)
    if os.path.isdir(path) or (HUB_NAME.match(path) and not os.path.lexists(path)):
        problems = load_dataset(path, config, split, revision)
    elif config or revision:
        raise CompletionsError(f"--config and --revision are for datasets; {path} is a file")
    else:
        problems = read_jsonl(path)
    if not problems:
        raise CompletionsError(f"{path} is empty: it holds no problem")
    if own := [name for name in OWN_FIELDS if any(name in row for row in problems)]:
        notify(f"overwritten in the output (details: with --details only): {', '.join(own)}")
    for number, row in enumerate(problems, 1):
        check_row(row, number, prompt_column)
    return problems


def read_jsonl(path: str) -> Benchmark:
    """Read the objects on a file's lines: pandas opens it, json parses it without any change."""
    import pandas

    try:
        with pandas.read_json(
            path, lines=True, chunksize=1, encoding="utf-8-sig", encoding_errors="surrogateescape"
        ) as reader:
            content = reader.data.read().encode("utf-8", "surrogateescape")
    except FileNotFoundError:
        raise CompletionsError(f"no such benchmark file: {path!r}") from None
    except Exception as error:  # each compression and each kind of address has errors of its own
        raise CompletionsError(f"cannot read {path}: {shorten(error)}") from None
    lines = enumerate(content.split(b"\n"), 1)
    return Benchmark(parse_object(line, f"{path}:{n}") for n, line in lines if line.strip())


def parse_object(line: bytes, place: str) -> dict:
    """Parse a line that holds one JSON object; raises CompletionsError with place and line."""
    try:
        row = json.loads(line.decode("utf-8-sig"), parse_constant=lambda name: None)
        problem = "" if isinstance(row, dict) else "not a JSON object"
    except (ValueError, RecursionError) as error:
        problem = f"not valid JSON: {shorten(error).replace('line 1 ', '')}"
    if problem:
        start = line[:40].decode("utf-8", "backslashreplace")
        raise CompletionsError(f"{place}: {problem}; one object a line is needed, not {start!r}")
    return row


def load_dataset(name: str, config, split: str, revision) -> Benchmark:
    """Load a dataset of the Hugging Face Hub, or of a folder."""
    import datasets

    datasets.disable_progress_bars()
    is_folder = os.path.isdir(name)
    try:
        path = os.path.abspath(name) if is_folder else name
        builder = datasets.load_dataset_builder(path, config, revision=revision)
        builder.download_and_prepare()
        rows = Benchmark(builder.as_dataset(split).to_list())
    except Exception as error:  # its errors share no class
        refused: list = [e for e in causes(error) if getattr(e, "response", None) is not None]
        cause = refused[0] if refused else error.__cause__ or error
        fix = "check the name, the network, --config, --split, and HF_TOKEN if it is not public"
        if refused and refused[0].response.status_code in (401, 403):
            fix = "check the name, and HF_TOKEN: an expired one is refused for public datasets too"
        elif isinstance(cause, OSError) and cause.filename:
            fix = "if that is the cache, set HF_HOME to a folder that can be written"
        raise CompletionsError(f"cannot load {name!r}: {shorten(cause, 1000)}; {fix}") from None
    rows.commit = None if is_folder else builder.hash
    return rows


def check_row(row: dict, number: int, prompt_column: str):
    """Convert the fields of a row by as_json; raises CompletionsError if it cannot be sent."""
    prompt = row.get(prompt_column)
    if not isinstance(prompt, str) or not prompt.strip():
        why = f"row {number} has no text in {prompt_column!r}; choose another --prompt-column of"
        raise CompletionsError(f"{why} {shorten(', '.join(row) or 'none', 200)}")
    if re.search("[\ud800-\udfff]", prompt):
        raise CompletionsError(f"row {number}: half a surrogate pair in the prompt; fix the row")
    for name, value in row.items():
        try:
            row[name] = as_json(value)
        except AttributeError as error:
            why = f"row {number}, field {name!r}: JSON has no type {type(error.obj).__name__}"
            raise CompletionsError(f"{why}; write JSONL without that column") from None


def as_json(value: Any) -> Any:
    """Convert a value to what strict JSON can hold: dates to ISO 8601 text, NaN to None.

    Raises AttributeError for what is neither JSON nor a date or time.

    >>> as_json({"born": datetime(1815, 12, 10), "score": float("nan")})
    {'born': '1815-12-10T00:00:00', 'score': None}
    """
    text = json.dumps(value, default=lambda date: date.isoformat())
    return json.loads(text, parse_constant=lambda name: None)


def problem_key(row: dict) -> bytes:
    """Return what identifies a problem: a hash of all its fields except OWN_FIELDS."""
    content = {name: row[name] for name in row if name not in OWN_FIELDS}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()


def unanswered(problems: list, keys: list, answered: Counter, options: Options) -> list[dict]:
    """List the problems that lack answers, all first samples before any second one."""
    samples, limit = options.num_samples, options.limit
    if surplus := (answered - Counter(keys * samples)).total():
        notify(f"{surplus} records more than --num-samples {samples} asks for")
    records, todo = answered.copy(), []
    for problem, key in zip(problems[:limit] * samples, keys[:limit] * samples, strict=True):
        if records[key]:
            records[key] -= 1
        else:
            todo.append(problem)
    return todo


def batches(items: Iterable, batch_size: int, *, progress: bool = True) -> Generator[list]:
    """Yield the items in lists of batch_size, the last one maybe shorter, under a tqdm bar.

    >>> list(batches("abcde", 2, progress=False))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    from tqdm import tqdm

    items = iter(tqdm(items) if progress else items)
    while batch := list(islice(items, batch_size)):
        yield batch


def make_prompt(item: dict, lang: str, prompt_column: str = "prompt") -> list[dict]:
    """Make the messages for one problem: the prompt as it is, then the language to use.

    >>> make_prompt({"prompt": "Add two numbers."}, "Lua")[0]["content"]
    'Add two numbers.\\n\\nSolve this problem using Lua.'
    """
    content = item[prompt_column] + f"\n\nSolve this problem using {lang}."
    return [{"role": "user", "content": content}]


# --- the output, and the run file beside it ----------------------------------------------------


class Output:
    """The JSONL file that a run appends to, locked until it is closed."""

    def __init__(self, path: str):
        import filelock

        self.path = Path(path).expanduser()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # By its text, where "results/" is no file: Path drops the slash.
        self.file = open(os.path.expanduser(path), "a+b", buffering=0)  # noqa: SIM115
        # Resolved once: a symbolic link may point elsewhere by the end of the run.
        self.path = self.path.resolve()
        if not self.path.is_file():
            raise CompletionsError(f"cannot write to {path}: it is not a regular file")
        try:
            if not filelock.lock_descriptor(self.file.fileno(), blocking=False):
                raise CompletionsError(f"{path} is in use by another run; wait for it or stop it")
        except OSError:
            notify("this file system has no locks: start no second run on the same output")

    def count_answers(self, problems: list[dict], keys: list[bytes]) -> Counter[bytes]:
        """Count the records of each problem; raises CompletionsError at any other line."""
        answered = Counter(dict.fromkeys(keys, 0))
        self.size = 0  # of the whole records, in bytes
        with open(self.path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if is_torn(line):
                    break
                if line.strip():
                    place = f"{self.path}:{number}"
                    record = parse_object(line, place)
                    key = problem_key(record)
                    if key not in answered or "response" not in record:
                        raise CompletionsError(f"{place}: {why_other(record, problems[0])}")
                    answered[key] += 1
                self.size += len(line)
        self.answers = answered.total()
        return answered

    def truncate_torn_line(self):
        """Leave only whole records in the file, ready for the next one."""
        if torn := self.file.seek(0, os.SEEK_END) - self.size:
            notify(f"{self.path}: truncated a torn last line of {torn} bytes")
            self.file.truncate(self.size)
        self.file.seek(max(0, self.size - 1))
        if self.file.read(1) not in (b"", b"\n"):
            self.append([b"\n"])

    def append(self, lines: Iterable[bytes]):
        """Write whole lines and sync them to disk; raises CompletionsError if they are not there.

        Where the disk is full, the lines that fit stay; the next run truncates a torn one.
        """
        rest = data = b"".join(lines)
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
            if data:
                os.fsync(self.file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        self.size += len(data)
        in_place = self.path.exists() and os.path.samefile(self.path, self.file.fileno())
        if not in_place or self.path.stat().st_size < self.size:
            why = f"{self.path} was removed, replaced or emptied during the run"
            raise CompletionsError(f"{why}; run the same command again to answer what it lacks")


def why_other(record: dict, problem: dict) -> str:
    """Say why a record is not of a benchmark, by the fields of one of its problems."""
    differ = (record.keys() ^ {*problem, "response"}) - {"program", "details"}
    fields = shorten(", ".join(sorted(differ)) or "none")
    why = f"not a record of this benchmark (fields that differ: {fields})"
    return f"{why}; choose another --output-path"


def is_torn(line: bytes) -> bool:
    """Whether a line is part of a record, or zeros, as a crash leaves at the end of a file."""
    if line.endswith(b"\n") or line.lstrip(b"\0")[:1] not in (b"", b"{"):
        return False
    with suppress(ValueError):
        json.loads(line)
        return False
    return True


SAMPLING = ("model", "temperature", "max_tokens", "top_p")
SETTINGS = (*SAMPLING, "lang", "prompt_column", "param")  # what an answer depends on
# Parameters that it does not depend on: where the server is, and how it is reached.
CONNECTION = re.compile(r"(api|aws|azure|vertex)_|base_url$|organization$|(extra_)?headers$")
TOKENS = ("prompt_tokens", "completion_tokens", "reasoning_tokens")
COUNTS = ("requests", *TOKENS, "truncated", "empty", "without_program")


def provenance(options: Options, problems: Benchmark, keys: list[bytes]) -> dict:
    """Return what the run file says of how answers are made, without secrets."""
    source = {name: getattr(options, name) for name in ("config", "split", "revision")}
    benchmark = {"name": str(options.benchmark), **source, "commit": problems.commit}
    benchmark |= {"problems": len(problems), "sha256": hashlib.sha256(b"".join(keys)).hexdigest()}
    versions = {"completions": __version__, "python": sys.version.split()[0]}
    versions |= {name: version(name) for name in ("litellm", "datasets")}
    settings = {name: getattr(options, name) for name in SETTINGS}
    return redact_param({"settings": settings, "benchmark": benchmark, "versions": versions})


class RunFile:
    """Provenance of the output, and the totals of all its runs: `<output-path>.run.json`."""

    def __init__(self, output: Output, provenance: dict, wanted: int):
        """Continue the file of earlier runs; raises CompletionsError on other settings."""
        self.path = Path(f"{output.path}.run.json")
        earlier = self.load(provenance["settings"]) if output.answers else {}
        self.totals = dict.fromkeys(COUNTS, 0) | {"cost": None} | earlier.get("totals", {})
        self.content = {
            **provenance,
            "started": earlier.get("started") or utc_now(),
            "finished": None,
            "wanted": wanted,
            "answers": output.answers,
            "totals": self.totals,
        }
        self.save()

    def load(self, settings: dict) -> dict:
        """Return the content that earlier runs left, provided that they had the same settings."""
        if not os.path.lexists(self.path):
            notify(f"resuming answers made with unknown settings: there is no {self.path}")
            return {}
        try:
            if not self.path.is_file():  # a folder, or a link to a device that never ends
                raise ValueError
            content = json.loads(self.path.read_bytes())
            sum(content["totals"][name] for name in COUNTS)
            # Each parameter is compared by its own name.
            old = content["settings"] | content["settings"]["param"] | {"param": None}
            new = settings | settings["param"] | {"param": None}
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            fix = "remove it, and the output resumes with unknown settings"
            raise CompletionsError(f"{self.path} is not as runs write it; {fix}") from None
        for name in old | new:
            if old.get(name) != new.get(name) and not CONNECTION.match(name):
                change = f"{name} {json.dumps(old.get(name))}, not {json.dumps(new.get(name))}"
                raise CompletionsError(f"{self.path} has {change}; choose another --output-path")
        return content

    def add(self, results: list):
        """Add results to the totals, and save these once a second."""
        self.totals["requests"] += len(results)
        for result in results:
            self.content["answers"] += bool(result.line)
            for name, number in result.usage.items():
                if number is not None:
                    self.totals[name] = (self.totals[name] or 0) + number
        if time.monotonic() - self.saved > 1:
            with suppress(OSError):  # it can be saved later
                self.save()

    def save(self):
        """Replace the file atomically: a reader sees the old or the new one, never a part."""
        draft = Path(f"{self.path}.tmp")
        draft.unlink(missing_ok=True)
        with open(draft, "x", encoding="utf-8") as file:  # x: through no link
            file.write(json.dumps(self.content, indent=2) + "\n")
        draft.replace(self.path)
        self.saved = time.monotonic()

    def close(self, *, finished: bool):
        """Save the totals for the last time, and when the last problem was answered."""
        self.content["finished"] = utc_now() if finished else None
        try:
            self.save()
        except OSError as error:
            notify(f"{self.path} is not up to date: {error.strerror}")


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# --- progress and summary ----------------------------------------------------------------------

SUMMARY = """{truncated} truncated, {empty} empty, {without_program} without a program
{prompt_tokens:,} tokens in, {completion_tokens:,} out ({reasoning_tokens:,} for reasoning)"""
LINE_EVERY = 60  # seconds, where there is no bar


class Progress:
    """What people see of a run on stderr: a bar or a line a minute, then a summary."""

    def __init__(self, wanted: int, missing: int, totals: dict):
        from tqdm import tqdm

        self.wanted, self.missing, self.totals = wanted, missing, totals
        self.failed = Counter[int | str]()  # by status
        self.examples: dict[int | str, str] = {}
        self.started = self.last_line = time.monotonic()
        width = 0
        with suppress(OSError, ValueError):  # no terminal
            width = os.get_terminal_size(sys.stderr.fileno()).columns
        done = wanted - missing
        self.bar = tqdm(
            total=wanted, initial=done, dynamic_ncols=True, miniters=0, disable=not width
        )
        self.bar.smoothing = 0  # answers arrive in bursts

    def update(self, results: list):
        """Count results; redraw the bar, or write a line if a minute has passed."""
        answers = [result for result in results if result.line]
        self.missing -= len(answers)
        for failure in (result for result in results if not result.line):
            if failure.status not in self.examples:
                self.examples[failure.status] = str(failure)
                if failure.retry:
                    notify(f"retrying {failure}")
            if not failure.retry:
                self.failed[failure.status] += 1
        with suppress(OSError, ValueError):  # a terminal that is gone: the run goes on
            self.bar.set_postfix_str(f"{self.failed.total()} failed, {self.cost()}", refresh=False)
            self.bar.update(len(answers))
        if self.bar.disable and time.monotonic() - self.last_line > LINE_EVERY:
            self.last_line = time.monotonic()
            notify(self.state())

    def cost(self) -> str:
        cost = self.totals["cost"]
        return "cost unknown" if cost is None else f"${cost:.4f}"

    def state(self) -> str:
        elapsed = self.bar.format_interval(time.monotonic() - self.started)
        answered = f"{self.wanted - self.missing} of {self.wanted} answered in {elapsed}"
        return f"{answered}, {self.failed.total()} failed, {self.cost()}"

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        """Print the summary; error is what ended the run, if anything did."""
        with suppress(OSError, ValueError):
            self.bar.close()
        notify(self.state())
        if self.missing < self.wanted:
            notify(SUMMARY.format(**self.totals))
        for status, example in self.examples.items():
            if self.failed[status] and redact(example) not in str(error):
                notify(f"{self.failed[status]} failed: {example}")
        if self.missing and not error:
            can_retry = TRANSIENT & self.failed.keys()
            advice = "run the same command again to retry them" if can_retry else "all rejected"
            notify(f"{self.missing} have no answer; {advice}")


# --- answers and failures ----------------------------------------------------------------------

# The status of a failure is that of its HTTP response, or one of these where there is none.
NOT_SENT, UNREACHABLE, NO_RESPONSE = "not sent", "no connection", "no response"
CERTIFICATE, UNFORESEEN = "certificate not trusted", "no record"
# A transient failure is retried, a fatal one ends the run, and any other one is a rejection.
TRANSIENT = {UNREACHABLE, NO_RESPONSE, 408, 409, 424, 425, 429, 498, 499}
TRANSIENT |= {*range(200, 300), *range(500, 1000)}
FATAL = {NOT_SENT, CERTIFICATE, 401, 402, 404, *range(300, 400)}
OMIT = "--temperature none, --top-p none and --max-tokens none omit these"
FIX_REQUEST = f"fix what it names; {OMIT}"
FIXES: dict[int | str, str] = {
    NOT_SENT: f"check --model (provider/name), the key, the address and --param; {OMIT}",
    UNREACHABLE: "is the server up, and its address right (http or https)?",
    NO_RESPONSE: "see the server's log, or raise --timeout",
    CERTIFICATE: "name the file of its authority in SSL_CERT_FILE",
    UNFORESEEN: "please report it",
    **dict.fromkeys(range(300, 400), "set that by --param api_base=, without /chat/completions"),
    401: "check the key: {key}, or --param api_key=KEY",
    402: "add to the account's balance, credit or quota",
    403: "check what the key and the account may do, or whether it refuses this content",
    404: "check --model (provider/name) and the address",
    413: "the prompt is too long for this server",
    429: "send fewer at once (--batch-size, --concurrent-batches), or check the quota",
}
# A finish_reason that says that generation broke off. Other filters litellm turns into this one.
BROKEN = "error|abort|cancel|fail|insufficient|content_filter"
BROKEN_OFF = re.compile(rf'(?i)(?:finish|stop)_?reason"\s*:\s*"(\w*(?:{BROKEN})\w*)')


class NoAnswer(Exception):
    """Raised in place of a response that is not a whole answer, or of none."""

    def __init__(self, status: int | str, text: str, address: str = "", headers: Any = None):
        where = f"{status} at {address}" if address else status
        super().__init__(f"{where}: {shorten(error_text(text)).rstrip('.')}")
        self.status, self.retry_after = status, 0.0
        for name in ("retry-after", "llm_provider-retry-after"):  # the second by a LiteLLM proxy
            with suppress(TypeError, KeyError, ValueError):  # there is none, or a date
                self.retry_after = max(self.retry_after, float(headers[name]))


def error_text(body: str) -> str:
    """Return the texts in an error's JSON, whatever its form; else the body without HTML tags."""
    with suppress(ValueError, RecursionError):
        texts = dict.fromkeys(texts_in(json.loads(body)))
        return ", ".join(texts) or body
    return re.sub(r"(?s)<(style|script)\b.*?(</\1>|\Z)|<[^<>]*>", " ", body).strip() or body


def texts_in(value: Any) -> Iterator[str]:
    """Yield the texts in a JSON value, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts_in(inner)


class Answer:
    """A record, as a line of the output, and what it adds to the totals."""

    retry = False

    def __init__(self, problem: dict, response: Any, options: Options):
        choice, usage = response.choices[0], getattr(response, "usage", None)
        usage = usage if getattr(usage, "prompt_tokens", 0) else None  # litellm makes up zeros
        of_completion = getattr(usage, "completion_tokens_details", None)
        milliseconds = getattr(response, "_response_ms", None) or 0
        details = {
            "finish_reason": choice.finish_reason,
            "reasoning": getattr(choice.message, "reasoning_content", None),
            "prompt_tokens": getattr(usage, "prompt_tokens", None),
            "completion_tokens": getattr(usage, "completion_tokens", None),
            "reasoning_tokens": getattr(of_completion, "reasoning_tokens", None),
            "cost": getattr(response, "_hidden_params", {}).get("response_cost"),
            # Not above 0 where the clock was set back.
            "seconds": milliseconds / 1000 if milliseconds > 0 else None,
        }
        text = choice.message.content or ""
        program = extract_code_from_markdown(text, options.lang)
        record = {**problem, "response": text, "program": program}
        if options.details:
            record["details"] = details
        self.line = json.dumps(record, allow_nan=False).encode() + b"\n"
        self.usage = {name: details[name] for name in (*TOKENS, "cost")}
        self.usage["truncated"] = choice.finish_reason == "length"
        self.usage["empty"] = not text
        self.usage["without_program"] = program is None


class Failure:
    """Why a problem has no answer, how to fix that, and whether to retry."""

    line, usage = b"", dict[str, Any]()  # what it adds to the output and to the totals

    def __init__(self, problem: dict, attempt: int, error: NoAnswer, options: Options):
        self.problem, self.attempt, self.error = problem, attempt, error
        self.status, self.retry_after = error.status, error.retry_after
        self.transient = self.status in TRANSIENT
        self.fatal = self.status in FATAL or (self.transient and self.retry_after > 3600)
        self.retry = self.transient and not self.fatal and attempt <= options.max_retries
        provider, slash, _ = options.model.partition("/")
        self.key_name = f"{provider.upper() if slash else 'OPENAI'}_API_KEY"

    def __str__(self) -> str:
        fix = FIXES.get(self.status, "see the server's log" if self.transient else FIX_REQUEST)
        if self.fatal and self.transient:
            fix = f"it asks to wait for {self.retry_after / 3600:.1f} hours"
        return f"{self.error}; {fix.format(key=self.key_name)}"


# --- requests ----------------------------------------------------------------------------------


class Transport:
    """Sends the HTTP requests of litellm, for every provider; raises NoAnswer.

    litellm's own errors differ by provider. A NoAnswer stays in the chain of their causes; an error
    without one was raised by litellm itself.
    """

    def __init__(self):
        import httpx
        from litellm.llms.custom_httpx.http_handler import get_ssl_configuration

        self.new_client = partial(httpx.Client, verify=get_ssl_configuration())
        # One is used by one thread at a time: a pool that threads share may close a connection as
        # stale when another thread has just taken it.
        self.idle = [self.new_client()]
        self.answered = False  # whether any whole answer has come

    def handle_request(self, request: Any) -> Any:
        """Send a request and return the whole response; raises NoAnswer for what is none."""
        import httpx

        address = str(request.url).partition("?")[0]
        timeout = request.extensions["timeout"]
        timeout["connect"] = min(10, timeout["connect"] or 10)
        try:
            client = self.idle.pop()
        except IndexError:
            client = self.new_client()
        try:
            response = client.send(request)
        except httpx.RequestError as error:
            *_, cause = causes(error)
            status = UNREACHABLE if isinstance(error, httpx.ConnectError) else NO_RESPONSE
            if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
                status = NOT_SENT
            elif isinstance(cause, ssl.SSLCertVerificationError):
                status = CERTIFICATE
            raise NoAnswer(status, f"{type(error).__name__}: {cause}", address) from error
        self.idle.append(client)
        if request.method == "POST":
            response = raise_for_no_answer(response, address)
            self.answered = True
        return response

    def close(self):
        """Stay open: litellm closes its clients now and then."""


def raise_for_no_answer(response: Any, address: str) -> Any:
    """Return the response, its content as one text; raises NoAnswer if it is not a whole answer."""
    status, headers = response.status_code, response.headers
    text = response.text.strip() or "an empty body"
    if status >= 300:
        raise NoAnswer(status, headers.get("location") or text, address, headers)
    if broken_off := BROKEN_OFF.search(text):
        raise NoAnswer(status, f"finish_reason {broken_off[1]}", address, headers)
    with suppress(ValueError, LookupError, TypeError, AttributeError):  # it has another form
        payload = response.json()
        is_chat = address.endswith("/chat/completions")
        choice = payload["choices"][0] if is_chat else {"message": {}}
        message = choice["message"]
        if isinstance(parts := message.get("content"), list):
            response = join_parts(response, payload, message, parts)
        content = message.get("content")
        refusal = "" if content else message.get("refusal")
        error = payload.get("error") or choice.get("error") or refusal
        if isinstance(content, str | None) and not error:
            return response
        text = json.dumps(error or payload)
    raise NoAnswer(status, text, address, headers)


def join_parts(response: Any, payload: dict, message: dict, parts: list) -> Any:
    """Return the response with its content as one text: litellm reads no parts."""
    parts = [{"text": part} if isinstance(part, str) else part for part in parts]
    message["content"] = "".join(part["text"] for part in parts if "thinking" not in part)
    thinking = [inner for part in parts for inner in part.get("thinking", [])]
    message["reasoning_content"] = "".join(part.get("text", "") for part in thinking) or None
    headers = {k: v for k, v in response.headers.items() if not k.startswith("content-")}
    return type(response)(response.status_code, headers=headers, json=payload)


def connect(options: Options, in_flight: int) -> Transport:
    """Import litellm with a Transport, silent, and without its request for prices.

    Raises CompletionsError where the first request could not be sent, or would be sent to OpenAI.
    """
    raise_open_file_limit(64 + 4 * in_flight)  # connections, and event loops of litellm
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LOGGING_EXECUTOR_MAX_PENDING_TASKS", "0")  # a tenth of its CPU time
    import httpx
    import litellm

    gc.freeze()  # what was imported stays: the garbage collector need not look at it again
    logging.getLogger("LiteLLM").disabled = True
    litellm.suppress_debug_info = True
    litellm.in_memory_llm_clients_cache.flush_cache()  # clients of an earlier run
    litellm.sync_transport = transport = Transport()
    litellm.client_session = httpx.Client(transport=transport)
    require_api_base(options.model, options.param)
    return transport


def require_api_base(model: str, param: dict):
    """Keep litellm from sending OpenAI what is meant for another server, and OpenAI's key to that.

    Raises CompletionsError if the address of the server is missing.
    """
    import litellm

    base, key = param.get("api_base") or param.get("base_url"), param.get("api_key")
    with suppress(litellm.BadRequestError):  # an unknown provider: shown by the first request
        _, provider, key, base = litellm.get_llm_provider(model, api_base=base, api_key=key)
        if provider in {*litellm.openai_compatible_providers, "custom_openai"}:
            if not base:
                variable = f"{provider.upper()}_API_BASE"
                raise CompletionsError(f"{provider}/ needs {variable} or --param api_base=ADDRESS")
            if not key:
                param["api_key"] = "none"


def raise_open_file_limit(needed: int):
    """Allow so many open files; raises CompletionsError if the system does not."""
    with suppress(ImportError):  # Windows
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and needed > hard:
            fix = "lower --concurrent-batches or --batch-size"
            raise CompletionsError(f"{hard} open files (ulimit -n) do not suffice; {fix}")
        if soft != resource.RLIM_INFINITY and needed > soft:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class CircuitBreaker:
    """Decides when going on is useless; `reason` then says why."""

    def __init__(self, answers: int, limit: int):
        self.answers, self.limit = answers, limit  # in the output; failures in a row
        self.in_a_row, self.reason = 0, ""

    def record(self, result: Any):
        if result.line:
            self.answers, self.in_a_row = self.answers + 1, 0
        elif result.fatal or (result.status == UNREACHABLE and not self.answers):
            result.retry = False
            self.reason = self.reason or str(result)
        elif not result.retry and (result.transient or not self.answers):
            self.in_a_row += 1
            if self.in_a_row >= self.limit:
                why = f"{self.in_a_row} requests in a row got no answer: {result}"
                self.reason = self.reason or why


@dataclass
class Batch:
    """Problems to send at once, after a delay in seconds."""

    problems: list[dict]
    attempt: int = 1
    delay: float = 0


def complete(todo: list[dict], options: Options, answers: int, transport: Any) -> Iterator[list]:
    """Request all problems in batches; yield the results that have arrived, [] while none has.

    The next batch is sent when the caller, having saved the results, asks for more. Raises
    CompletionsError when going on is useless, and KeyboardInterrupt when options.stop is set.
    """
    waiting = map(Batch, batches(todo, options.batch_size, progress=False))
    breaker = CircuitBreaker(answers, max(10, options.in_flight))
    ended = Event()
    pool = ThreadPoolExecutor(options.concurrent_batches)
    send = partial(send_batch, options=options, transport=transport, ended=ended)
    jobs = {pool.submit(send, batch) for batch in islice(waiting, options.concurrent_batches)}
    try:
        while jobs:
            done, jobs = wait(jobs, timeout=0.25, return_when=FIRST_COMPLETED)
            arrived = [job.result() for job in done]
            for result in chain.from_iterable(arrived):
                breaker.record(result)
            yield list(chain.from_iterable(arrived))
            if options.stop and options.stop.is_set():
                raise KeyboardInterrupt
            if breaker.reason and not ended.is_set():
                ended.set()
                if jobs:
                    notify(f"ending after {len(jobs)} batches in flight: {breaker.reason}")
            for results in arrived:
                batch = retry_batch(results) or next(waiting, None)
                if batch and not ended.is_set():
                    jobs.add(pool.submit(send, batch))
    finally:
        ended.set()
    if breaker.reason:
        raise CompletionsError(breaker.reason)


def retry_batch(results: list) -> Batch | None:
    """Return what to send again, after its backoff; None if there is nothing."""
    failures = [result for result in results if result.retry]
    if not failures:
        return None
    attempt, problems = failures[0].attempt, [failure.problem for failure in failures]
    retry_after = max(failure.retry_after for failure in failures)
    return Batch(problems, attempt + 1, backoff(attempt, retry_after))


def backoff(attempt: int, retry_after: float) -> float:
    """Return the seconds before the next attempt: about 2, 4, 8 ... 60, or what the server asks."""
    # Most limits are per minute. Jitter keeps clients from coming back together.
    return max(min(60, 2**attempt) * random.uniform(0.75, 1), retry_after + random.random() / 4)


def send_batch(batch: Batch, options: Options, transport: Transport, ended: Event) -> list:
    """Make one batch request, after its delay; return an Answer or a Failure of each problem."""
    import litellm

    if ended.wait(batch.delay):
        return []
    prompts = [make_prompt(row, options.lang, options.prompt_column) for row in batch.problems]
    request = {name: getattr(options, name) for name in (*SAMPLING, "timeout")}
    try:
        responses = litellm.batch_completion(
            messages=prompts, max_workers=len(prompts), max_retries=0, **request, **options.param
        )
    except Exception as error:  # vllm/ raises instead of returning exceptions
        responses = [error] * len(prompts)
    results: list[Answer | Failure] = []
    for problem, response in zip(batch.problems, responses, strict=True):
        try:
            raise_for_exception(response, transport)
            results.append(Answer(problem, response, options))
        except NoAnswer as error:
            results.append(Failure(problem, batch.attempt, error, options))
        except Exception as error:  # the other answers of the batch are not lost by it
            unforeseen = NoAnswer(UNFORESEEN, describe(error))
            results.append(Failure(problem, batch.attempt, unforeseen, options))
    return results


def raise_for_exception(response: Any, transport: Transport):
    """Raise NoAnswer for an exception of batch_completion, and for what litellm calls filtered."""
    if isinstance(response, Exception):
        for error in causes(response):
            if isinstance(error, NoAnswer):
                raise error
        # Raised by litellm itself; once an answer has come, it is another answer it cannot read.
        raise NoAnswer(200 if transport.answered else NOT_SENT, str(error))
    if not response.choices or response.choices[0].finish_reason == "content_filter":
        raise NoAnswer(200, "finish_reason content_filter, or no choices")


# --- the program -------------------------------------------------------------------------------


def main_with_args(
    *, model, benchmark, temperature, max_tokens, top_p, batch_size, lang, output_path, **others
) -> int:
    """Ask for every answer that the output lacks, append each, return how many are still missing.

    The parameters are those of Options. Raises CompletionsError if the run cannot begin or go on,
    and OSError if the output cannot be written.
    """
    options = Options(
        model, benchmark, temperature, max_tokens, top_p, batch_size, lang, output_path, **others
    )
    source = {name: getattr(options, name) for name in ("config", "split", "revision")}
    problems = load_benchmark(benchmark, **source, prompt_column=options.prompt_column)
    keys = [problem_key(problem) for problem in problems]
    output = Output(output_path)
    with output.file:
        todo = unanswered(problems, keys, output.count_answers(problems, keys), options)
        wanted = options.num_samples * len(problems[: options.limit])
        run_file = RunFile(output, provenance(options, problems, keys), wanted)
        output.truncate_torn_line()
        transport = connect(options, min(options.in_flight, len(todo))) if todo else None
        with Progress(wanted, len(todo), run_file.totals) as progress:
            try:
                for results in complete(todo, options, output.answers, transport):
                    output.append(result.line for result in results)
                    run_file.add(results)
                    progress.update(results)
            finally:
                run_file.close(finished=not progress.missing)
    return progress.missing


# --- the command line --------------------------------------------------------------------------

EXIT_CODES = """\
The key of an API comes from the environment, such as OPENAI_API_KEY.
Exit codes: 0 every problem answered, 1 some unanswered or the run could not go
on, 2 usage, 130 Ctrl-C, 143 SIGTERM."""


def not_blank(value: str) -> str:
    """Parse an option that is a text."""
    if not value.strip():
        raise argparse.ArgumentTypeError("it is blank; is a variable of the shell not set?")
    return value


def number(kind: Callable, least: float, most: float, *, none: bool = False) -> Callable:
    """Make a parser of an option: an int or a float within two bounds, or none."""

    def parse(value: str) -> Any:
        if none and value.lower() == "none":
            return None
        with suppress(ValueError):
            if least <= kind(value) <= most:
                return kind(value)
        name = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"it must be {name} from {least:,} to {most:,}")

    return parse


def key_value(text: str) -> tuple[str, object]:
    """Split KEY=VALUE; the value is JSON where it parses as JSON, else text."""
    key, equals, value = text.partition("=")
    if not (equals and key.isidentifier() and value.strip()):
        raise argparse.ArgumentTypeError("it must be KEY=VALUE, and VALUE not blank")
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        if value.startswith(("{", "[", '"')):
            raise argparse.ArgumentTypeError(f"the value of {key} is not valid JSON") from None
        if value in ("True", "False", "None"):
            raise argparse.ArgumentTypeError(f"write {key} as JSON: true, false or null") from None
        return key, value
    try:
        json.dumps(parsed, allow_nan=False)
    except ValueError:
        raise argparse.ArgumentTypeError(f"the value of {key} is not finite") from None
    return key, parsed


class Parser(argparse.ArgumentParser):
    """A parser whose errors, which may repeat an argument, show no key."""

    def error(self, message: str) -> NoReturn:
        super().error(redact(message))


def parse_args(argv: list[str] | None = None) -> Options:
    """Parse and check the command line; exits with 2, as argparse does, if it is wrong."""
    parser = Parser(
        description=__doc__,
        epilog=EXIT_CODES,
        usage="completions.py --model M --benchmark B --lang L --output-path FILE [...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    default = " (default: %(default)s)"
    count = number(int, 1, 1_000_000)

    add = parser.add_argument_group("what to run").add_argument
    add("--model", type=not_blank, required=True, help="LiteLLM's name, with the provider")
    add("--benchmark", type=not_blank, required=True, help="JSONL file, address, folder or dataset")
    add("--lang", type=not_blank, required=True, help='language to solve in: free text, as "C#"')
    add("--output-path", type=not_blank, required=True, metavar="FILE", help="JSONL to append to")
    add("--num-samples", type=count, metavar="N", help="records of each problem" + default)
    add("--limit", type=count, metavar="N", help="only the first N problems (default: all)")

    add = parser.add_argument_group("where a benchmark differs").add_argument
    add("--config", type=not_blank, help="configuration of a dataset (default: none)")
    add("--split", type=not_blank, help="split of a dataset, also test[:20]" + default)
    add("--revision", type=not_blank, help="branch, tag or commit of a dataset (default: newest)")
    add("--prompt-column", type=not_blank, metavar="NAME", help="field with the prompt" + default)

    add = parser.add_argument_group("how to sample: these change scores").add_argument
    temperature, top_p = number(float, 0, 100, none=True), number(float, 0, 1, none=True)
    length = number(int, 1, 10**8, none=True)
    none = "or none: not sent" + default
    add("--temperature", type=temperature, default=0.2, metavar="T", help=f"a number, {none}")
    add("--top-p", type=top_p, default=0.95, metavar="P", help=f"from 0 to 1, {none}")
    add("--max-tokens", type=length, default=5000, metavar="N", help=f"with reasoning, {none}")

    add = parser.add_argument_group("speed, retries and more").add_argument
    seconds, retries = number(float, 0.001, 10**6), number(int, 0, 100)
    add("--batch-size", type=count, default=10, metavar="N", help="problems in a batch" + default)
    add("--concurrent-batches", type=count, metavar="K", help="batches in flight" + default)
    add("--timeout", type=seconds, metavar="S", help="seconds of silence" + default)
    add("--max-retries", type=retries, metavar="N", help="after transient failures" + default)
    more = "passed on to litellm, repeatable; VALUE is JSON or else text: api_base, seed ..."
    add("--param", type=key_value, action="append", default=[], metavar="KEY=VALUE", help=more)
    more = "each record also gets details: finish_reason, reasoning, tokens, cost, seconds"
    add("--details", action="store_true", help=more)

    parser.set_defaults(**{f.name: f.default for f in fields(Options) if f.default is not MISSING})
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(f"unknown argument: {unknown[0].partition('=')[0]}")  # its value may be a key
    try:
        return Options(**vars(args))
    except CompletionsError as error:
        parser.error(str(error))


def main(argv: list[str] | None = None) -> int:
    """Run the command line, in a thread: a signal interrupts nothing but the waiting here."""
    logging.disable()  # what litellm and datasets log is shown by this program, where it matters
    warnings.simplefilter("ignore")
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    signals: list[int] = []
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda signum, _: signals.append(signum))
    options = parse_args(argv)
    options.stop = Event()
    running = ThreadPoolExecutor(1).submit(main_with_args, **vars(options))
    while not (running.done() or signals):
        wait([running], timeout=0.1)
    if signals:
        options.stop.set()
        wait([running], timeout=1)  # what has arrived is written, which takes no time
        name = signal.Signals(signals[0]).name.replace("SIGINT", "Ctrl-C")
        notify(f"completions.py: stopped by {name}; run the same command again to go on")
        return 128 + signals[0]
    if error := running.exception():
        notify(f"completions.py: {describe(error)}")
        return 1
    return 1 if running.result() else 0


def describe(error: BaseException) -> str:
    """Return an error in one line; what nobody foresaw with its place in the code."""
    if isinstance(error, CompletionsError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        why = f"cannot write to {error.filename or 'disk'}: {error.strerror}"
        return f"{why}; fix that, and run the same command again"
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno}"
    return f"unforeseen {type(error).__name__}: {shorten(error)} ({where})"


if __name__ == "__main__":
    os._exit(main())  # a usual exit would wait for requests that hang
