"""Ask a model to solve every problem of a benchmark, and append each answer to a JSONL file.

    python completions.py --model openai/gpt-4.1-nano --benchmark problems.jsonl \
        --lang Lua --output-path lua.jsonl

Run the same command again to answer what is still missing.
"""

import argparse
import hashlib
import importlib
import inspect
import io
import json
import logging
import lzma
import math
import os
import platform
import random
import re
import signal
import sys
import threading
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import date, datetime, timezone
from datetime import time as clock_time
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from itertools import count, islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from tqdm import tqdm

from bcb_multipl_util import extract_code_from_markdown


class CompletionsError(Exception):
    """What a user can cause or mend, said in one line."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM."""

    def __init__(self, number: int):
        name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        super().__init__(f"stopped by {name}; run the same command again to go on")
        self.number = number


STOPS = (signal.SIGINT, signal.SIGTERM)


def interrupt(number: int, frame: object):
    raise Interrupted(number)


def batches(items: Iterable, batch_size: int, *, progress: bool = True) -> Generator[list]:
    """Yield the items in lists of batch_size, the last one maybe shorter, under a tqdm bar.

    The bar counts the items handed out; without progress there is none.

    >>> list(batches("abcde", 2, progress=False))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
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


# --- the benchmark -----------------------------------------------------------------------------

COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma"}
FILE_NAME = re.compile(
    r"[./~\\]|[A-Za-z]:|.*\.(jsonl?|ndjson|txt|csv|parquet|gz|bz2|xz|zst)$|.*/.*/"
)


def load_benchmark(
    benchmark: str, *, config: str | None = None, split: str = "test", prompt_column: str = "prompt"
) -> list[dict]:
    """Load the problems of a JSONL file (.gz .bz2 .xz .zst too), a folder, or a Hub dataset.

    Each row is what `json.loads` makes of its line, or `to_list()` of the dataset, but for what
    strict JSON lacks: NaN and infinities become None, dates and times ISO 8601 text. Raises
    CompletionsError, naming file and line or row and field, for what cannot be read or written as
    JSON, and for a row without text in the prompt column.
    """
    path = Path(benchmark).expanduser()
    if path.is_dir():
        rows = load_dataset(str(path), config, split)
    elif not path.exists() and not FILE_NAME.match(benchmark):
        rows = load_dataset(benchmark, config, split)
    elif config:
        raise CompletionsError(f"--config is for datasets; {benchmark} is a file")
    else:
        rows = list(read_jsonl(path))
    if not rows:
        raise CompletionsError(f"{benchmark} is empty: it holds no problem")
    return [checked_row(number, row, prompt_column) for number, row in enumerate(rows, 1)]


def read_jsonl(path: Path) -> Iterator[dict]:
    """Yield the object on each line that is not blank, as strictly as `json.loads` reads it.

    pandas.read_json would refuse integers beyond 64 bits, let some broken lines pass, and name no
    line in its errors.
    """
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            problem = None if isinstance(row, dict) else "not a JSON object"
        except UnicodeDecodeError:
            problem = "not valid UTF-8"
        except (ValueError, RecursionError) as error:
            problem = f"not valid JSON: {error}"
        if problem and number == 1 and line.lstrip(b"\xef\xbb\xbf \t").startswith(b"["):
            problem = "an ordinary JSON array; write one object a line (JSON Lines) instead"
        if problem:
            raise CompletionsError(f"{path}:{number}: {problem}")
        yield row


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, decompressed by its suffix; only "\\n" ends a line."""
    try:
        if path.suffix == ".zst":
            import pyarrow  # datasets needs it too

            stream = io.BytesIO(pyarrow.input_stream(str(path), compression="zstd").read())
        else:
            opener = importlib.import_module(COMPRESSED.get(path.suffix) or "io")
            stream = opener.open(path, "rb")
        with stream:
            yield from stream
    except FileNotFoundError:
        raise CompletionsError(f"no such benchmark file: {path}") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise CompletionsError(f"cannot read {path}: {one_line(error)}") from None


def load_dataset(name: str, config: str | None, split: str) -> list[dict]:
    """Load a dataset of the Hugging Face Hub, or of a folder; a passing failure is tried again."""
    datasets = prepare_datasets()
    for attempt in (1, 2):
        try:
            return datasets.load_dataset(name, config, split=split).to_list()
        except Exception as error:  # its errors share no class
            status = getattr(getattr(error, "response", None), "status_code", None)
            if attempt == 2 or (status or 0) < 500:
                raise CompletionsError(f"cannot load {name}: {one_line(error)}") from None
    raise AssertionError("unreachable")


def prepare_datasets():
    """Import datasets with no bars or warnings, and offline at once where the Hub is out of reach.

    Left alone it tries for 23 seconds; offline it still finds what it has in its cache.
    """
    import httpx

    try:
        httpx.head(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), timeout=10)
    except httpx.TransportError:
        os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets

    datasets.disable_progress_bars()
    for library in ("datasets", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    return datasets


def one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def checked_row(number: int, row: dict, prompt_column: str) -> dict:
    """The row as JSON can hold it, once it has a prompt."""
    prompt = row.get(prompt_column)
    if not isinstance(prompt, str) or not prompt.strip():
        columns = ", ".join(map(str, row)) or "none"
        raise CompletionsError(
            f"row {number} has no text in the column {prompt_column!r}; name another with "
            f"--prompt-column (columns: {columns})"
        )
    for field, value in row.items():
        try:
            row[field] = as_json(value)
        except (TypeError, RecursionError) as error:
            raise CompletionsError(f"row {number}, field {field!r}: {error}") from None
    return row


def as_json(value: object) -> object:
    """A value as strict JSON can hold it; raises TypeError where it cannot.

    >>> as_json({"born": datetime(1815, 12, 10), "score": math.nan})
    {'born': '1815-12-10T00:00:00', 'score': None}
    """
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [as_json(inner) for inner in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: as_json(inner) for key, inner in value.items()}
    if isinstance(value, (date, clock_time)):
        return value.isoformat()
    raise TypeError(f"a value of type {type(value).__name__} cannot be written as JSON")


# --- the output file and what stands beside it -------------------------------------------------


def content_key(row: dict) -> bytes:
    """What a problem is known by: a hash of all its fields but `response` and `program`."""
    content = {name: row[name] for name in row if name not in ("response", "program")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()


def parse_record(line: bytes) -> dict | None:
    """The record on a line of an output file, or None where it holds none."""
    with suppress(ValueError, RecursionError):
        record = json.loads(line.decode("utf-8-sig"), parse_constant=lambda _: None)
        if isinstance(record, dict) and "response" in record:
            return record
    return None


class Output:
    """The JSONL file that a run appends to, locked as long as it is open.

    A torn last line, as a crash or a full disk leaves, is cut off before the first append.
    """

    def __init__(self, path: str | Path, benchmark: str):
        self.path, self.size = Path(path), 0
        self.found: dict[bytes, int] = {}  # answers by their problem's key
        self.benchmark_sha256 = ""
        if self.path.exists() and Path(benchmark).exists() and self.path.samefile(benchmark):
            raise CompletionsError(f"{path} is the benchmark itself; choose another --output-path")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | O_BINARY), "r+b", 0)
            if not self.path.is_file():
                raise OSError("not a regular file")
        except OSError as error:
            raise CompletionsError(f"cannot write to {path}: {error.strerror or error}") from None
        if not lock(self.file.fileno()):
            raise CompletionsError(f"{path} is in use by another run; wait for it or stop it")

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, *exc):
        self.file.close()

    def records(self) -> Iterator[tuple[int, dict]]:
        """Yield the line number and record of each answer that the file holds."""
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                record = parse_record(line)
                if record is not None:
                    yield number, record
                elif not line.endswith(b"\n") and line.lstrip(b"\0")[:1] in (b"", b"{"):
                    return  # torn: only a last line can lack its newline
                elif line.strip():
                    raise CompletionsError(f"{self.path}:{number}: not a record; mend or remove it")
                self.size += len(line)

    def cut_torn_line(self):
        """Leave the file at whole records only, ready for the next one."""
        if torn := self.file.seek(0, os.SEEK_END) - self.size:
            notify(f"{self.path}: cut off a torn last line of {torn} bytes")
            self.file.truncate(self.size)
        self.file.seek(max(0, self.size - 1))
        if self.file.read(1) not in (b"", b"\n"):
            self.write(b"\n")

    def append(self, records: list[dict]):
        """Write records and have the disk keep them; what does not fit whole is taken back."""
        try:
            for record in records:
                self.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            os.fsync(self.file.fileno())
        except OSError as error:
            with suppress(OSError):
                self.file.truncate(self.size)
            reason = error.strerror or error
            raise CompletionsError(
                f"cannot write to {self.path}: {reason}; mend it and run the same command again"
            ) from None

    def write(self, line: bytes):
        self.file.seek(self.size)
        rest = memoryview(line)
        while rest:
            rest = rest[self.file.write(rest) :]
        self.size += len(line)


O_BINARY = getattr(os, "O_BINARY", 0)  # Windows would write "\r\n"


def lock(descriptor: int) -> bool:
    """Lock a file until this process ends, however it ends; False if another one holds it."""
    try:
        try:
            import fcntl
        except ImportError:  # Windows, where a lock also bars reading: take one byte far away
            import msvcrt

            os.lseek(descriptor, 2**30, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        notify("this file system has no locks: start no second run on the same output")
    return True


class RunFile:
    """`<output-path>.run.json`: what made an output, with totals over all runs on it."""

    def __init__(self, output: Output, settings: dict, benchmark: dict):
        self.path, self.saved = Path(f"{output.path}.run.json"), 0.0
        self.content: dict[str, Any] = {
            "settings": without_secrets(settings, settings["param"]),
            "benchmark": benchmark,
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in ("litellm", "datasets")},
            "started": now(),
            "finished": None,
            "totals": dict.fromkeys(TOTALS, 0) | {"cost": None},
        }
        self.resume(sum(output.found.values()))

    @property
    def totals(self) -> dict:
        return self.content["totals"]

    def resume(self, answered: int):
        """Go on from the file of earlier runs; raise CompletionsError on other settings.

        With no answer there is nothing that other settings could spoil, and the file begins anew.
        """
        earlier = self.read()
        if earlier is None:
            if answered:
                notify(f"resuming {answered} answers made with unknown settings: no {self.path}")
                self.content["records_of_unknown_settings"] = answered
            return
        changes = differences(earlier["settings"], self.content["settings"])
        if changes and answered:
            output = self.path.name.removesuffix(".run.json")
            raise CompletionsError(
                f"{output} was begun with {' and '.join(changes)}; choose another --output-path"
            )
        if not changes:
            kept = ("started", "totals", "records_of_unknown_settings")
            self.content |= {name: earlier[name] for name in kept if name in earlier}

    def read(self) -> dict | None:
        try:
            earlier = json.loads(self.path.read_text(encoding="utf-8"))
            if {"settings", "totals", "started"} <= earlier.keys():
                return earlier
            raise ValueError
        except FileNotFoundError:
            return None
        except (OSError, ValueError, AttributeError):
            raise CompletionsError(
                f"cannot read {self.path}; move it away to resume with settings unknown"
            ) from None

    def finish(self, *, complete: bool):
        """Save what the run came to; what stops a run may bar that too, and is told already."""
        self.content["finished"] = now() if complete else None
        with suppress(CompletionsError):
            self.save()

    def save(self, *, at_most_once_a_second: bool = False):
        """Replace the file atomically: a reader sees the old or the new one, never a part."""
        if at_most_once_a_second and time.monotonic() - self.saved < 1:
            return
        draft = self.path.with_name(self.path.name + ".tmp")
        try:
            with open(draft, "w", encoding="utf-8") as file:
                file.write(json.dumps(self.content, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, self.path)
        except OSError as error:
            raise CompletionsError(
                f"cannot write to {self.path}: {error.strerror or error}"
            ) from None
        self.saved = time.monotonic()


TOTALS = (
    *("requests", "prompt_tokens", "completion_tokens", "reasoning_tokens"),
    *("cost", "truncated", "empty", "without_program"),
)
# Where the server is and how it is reached: a run may go on elsewhere with the same answers.
WHEREABOUTS = re.compile(r"(api|aws|azure|vertex)_|base_url$|organization$|(extra_)?headers$")


def differences(earlier: dict, later: dict) -> list[str]:
    """Say in words which settings differ, parameters one by one: "temperature 0.2, not 0.8"."""
    earlier, later = (
        settings | {k: v for k, v in settings["param"].items() if not WHEREABOUTS.match(k)}
        for settings in (earlier, later)
    )
    names = [name for name in earlier | later if name != "param"]
    return [
        f"{name} {shown(earlier.get(name))}, not {shown(later.get(name))}"
        for name in names
        if earlier.get(name) != later.get(name)
    ]


def shown(value: object) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def notify(line: str):
    """Tell people something, above the progress bar if there is one."""
    tqdm.write(line, file=sys.stderr)


# --- secrets -----------------------------------------------------------------------------------

SECRET = re.compile(
    r"(key|token|secret|password|credentials?|authorization|cookie)$", re.IGNORECASE
)


def secret_values(value: object, name: str = "") -> Iterator[str]:
    """Yield the texts within a parameter that stand under the name of a secret."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from secret_values(inner, name if SECRET.search(name) else key)
    elif isinstance(value, str) and SECRET.search(name):
        yield from (value, value.removeprefix("Bearer "))


def mask(text: str, param: dict) -> str:
    """Replace each secret that stands in a text: those of param and of the environment."""
    values = set(secret_values(param))
    values |= {v for k, v in os.environ.items() if re.search("KEY|TOKEN|SECRET|PASSW", k.upper())}
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= 6:  # a shorter one protects nothing, and would garble the message
            text = text.replace(value, "***")
    return re.sub(r"(://[^/@\s:]*:)[^/@\s]+@", r"\1***@", text)


def without_secrets(value: Any, param: dict, name: str = "") -> Any:
    """A copy of a JSON value with secrets masked, by name and by value."""
    if isinstance(value, dict):
        return {key: without_secrets(inner, param, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_secrets(inner, param, name) for inner in value]
    if isinstance(value, str):
        return "***" if SECRET.search(name) else mask(value, param)
    return value


# --- asking ------------------------------------------------------------------------------------

# What ends a run at once, as a pattern of "status class text", and how to mend it.
END_OF_RUN = (
    (
        r"^40[13] |missing (\w+ ){0,2}(credentials|api.?key)|api.?key.{0,9} not set"
        r"|unable to locate credentials",
        "check the provider's key (such as OPENAI_API_KEY) and what it may use",
    ),
    (
        r"^402 |insufficient_quota|exceeded your current quota(?!.*retry in)|credit balance",
        "the account's quota or credit is used up; add to it",
    ),
    (
        r"^404 |LLM Provider NOT provided|invalid model name|not a valid model|model_not_found",
        "check --model (provider/name) and the server's address",
    ),
    (
        r"^4\d\d .*(support|both|deprecated|only one).*(temperature|top_p)"
        r"|^4\d\d .*(temperature|top_p).*(support|both|deprecated|only one)|UnsupportedParams",
        "try --temperature none --top-p none (some models want one of the two)",
    ),
    (r"No module named|pip install", "install the package that it names"),
)


# What litellm adds to a message; a response would be searched for words that it only quotes.
ECHO = re.compile(r"Traceback \(most|,? (?:Received|Original) Response", re.IGNORECASE)


class NoChoices(Exception):
    """The server sent a response without a choice in it."""

    status_code = 200


class Failure:
    """Why a request has no answer: `kind` for counting, `text` for reading, `repair` to mend it."""

    def __init__(self, error: Exception, param: dict):
        status = getattr(error, "status_code", None)
        self.kind = f"{status} {type(error).__name__}" if status else type(error).__name__
        text = mask(" ".join(ECHO.split(str(error))[0].split()), param)
        text = re.sub(r"^((litellm\.)?\w*(Error|Exception|Timeout)( -|:) )+", "", text) or self.kind
        self.text = text if len(text) <= 300 else text[:300] + " ..."
        signature = f"{status} {type(error).__name__} {text}"
        refusal = status not in (200, 408, 409) and "ContentPolicy" not in self.kind
        repairs = [r for p, r in END_OF_RUN if refusal and re.search(p, signature, re.IGNORECASE)]
        self.repair = next(iter(repairs), None)
        self.passing = not self.repair and (
            not isinstance(status, int) or status in (200, 408, 409, 429) or status >= 500
        )
        self.retry_after = retry_after(error)

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def retry_after(error: Exception) -> float:
    """Seconds the server asks to wait in Retry-After (a number or a date), or 0."""
    headers = getattr(error, "litellm_response_headers", None)
    if headers is None:
        headers = getattr(getattr(error, "response", None), "headers", None)
    value = (headers or {}).get("retry-after") or "0"
    with suppress(ValueError):
        return max(0.0, float(value))
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0


def pause(attempt: int, failures: list[Failure]) -> float:
    """Seconds before try number attempt + 1: about 1, 2, 4 ... 60, or what the server asks for.

    Jitter keeps clients that failed together from coming back together.
    """
    backoff = min(60, 2 ** (attempt - 1)) * random.uniform(0.5, 1)
    asked = max(failure.retry_after for failure in failures)
    return max(backoff, asked + random.random() / 4 if asked else 0)


class Requests:
    """Batch requests under way, each in a thread of its own, whose outcomes one thread hears of.

    An outcome is litellm's response or, where there is none, a Failure.
    """

    def __init__(self, make_messages, totals, *, concurrent_batches, max_retries, param, request):
        self.make_messages, self.totals = make_messages, totals
        self.param, self.request = param, request  # param for the secrets in it
        self.concurrent_batches, self.max_retries = concurrent_batches, max_retries
        self.events: SimpleQueue = SimpleQueue()  # its put() is safe in a signal handler
        self.counting, self.ending = threading.Lock(), threading.Event()
        self.end: Failure | None = None  # what ends the whole run
        self.first_ten: Counter | None = Counter()  # their failures by kind, until one succeeds
        self.next_notice = 0.0

    def outcomes(self, batches: Iterable[list[dict]]) -> Iterator[list[tuple[dict, Any]]]:
        """Yield (problem, outcome) pairs as each call returns; then send the next batch.

        What failed for a passing reason is sent again, in the place of its batch. After a failure
        that ends the run nothing more is sent; what is under way is paid for, and awaited.
        """
        numbers = count()
        numbered = ([(next(numbers), problem) for problem in batch] for batch in batches)
        under_way = sum(self.start(batch) for batch in islice(numbered, self.concurrent_batches))
        while under_way:
            batch, attempt, outcomes = self.hear()
            again: list[tuple] = []
            done: list[tuple] = []
            for item, outcome in zip(batch, outcomes, strict=True):
                retry = isinstance(outcome, Failure) and outcome.passing
                (again if retry and attempt <= self.max_retries else done).append((item, outcome))
            self.judge(done)
            if self.ending.is_set():
                done, again = done + again, []
            yield [(problem, outcome) for (_, problem), outcome in done]
            under_way -= 1
            if again:
                batch, failures = zip(*again, strict=True)
                under_way += self.start(batch, failures, attempt + 1)
            elif not self.ending.is_set():
                under_way += sum(self.start(batch) for batch in islice(numbered, 1))
        if self.first_ten and len(self.first_ten) == 1 and not self.end:
            self.end = self.last_failure

    def start(self, batch, failures=(), attempt: int = 1) -> int:
        """Have a thread send a batch, after a pause if it failed before; return 1, for counting."""
        delay = pause(attempt - 1, failures) if failures else 0
        if delay >= 5 and time.monotonic() >= self.next_notice:
            notify(f"waiting {delay:.0f} s before try {attempt}: {failures[0]}")
            self.next_notice = time.monotonic() + 30
        args = (batch, failures, attempt, delay)
        threading.Thread(target=self.send, args=args, daemon=True).start()
        return 1

    def send(self, batch, failures, attempt: int, delay: float):
        """In a thread: wait, make one call, and pass on what came of it."""
        outcomes = failures if self.ending.wait(delay) else self.call([item[1] for item in batch])
        self.events.put((batch, attempt, outcomes))

    def call(self, problems: list[dict]) -> list:
        import litellm

        with self.counting:
            self.totals["requests"] += len(problems)
        messages = [self.make_messages(problem) for problem in problems]
        try:
            responses = litellm.batch_completion(
                messages=messages, max_workers=len(messages), **self.request
            )
        except Exception as error:  # vllm/ raises instead of returning exceptions
            responses = [error] * len(problems)
        return [self.checked(response) for response in responses]

    def checked(self, response: object) -> object:
        if not isinstance(response, Exception) and getattr(response, "choices", None):
            return response
        if not isinstance(response, Exception):
            response = NoChoices("the response has no choices")
        return Failure(response, self.param)

    def hear(self) -> tuple:
        """Wait for the next call to return; raise Interrupted if a signal came before it."""
        while True:
            with suppress(Empty):
                event = self.events.get(timeout=1)  # Windows hears no Ctrl-C in an endless wait
                if isinstance(event, Interrupted):
                    raise event
                return event

    def judge(self, done: list[tuple]):
        """Note what ends the run: a failure of that kind, or the first ten all failing alike."""
        for (number, _), outcome in done:
            if not isinstance(outcome, Failure):
                self.first_ten = None
                continue
            self.last_failure = outcome
            if self.first_ten is not None and number < 10:
                self.first_ten[outcome.kind] += 1
            if outcome.repair or (self.first_ten and self.first_ten[outcome.kind] == 10):
                self.end = self.end or outcome
        if self.end:
            self.ending.set()


@contextmanager
def signals_to(events: SimpleQueue) -> Iterator[None]:
    """Have Ctrl-C and SIGTERM wait their turn among the events; a second one ends at once."""

    def leave(number, frame):
        os._exit(128 + number)

    def pass_on(number, frame):
        for signal_number in STOPS:
            signal.signal(signal_number, leave)
        events.put(Interrupted(number))

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [(number, signal.signal(number, pass_on)) for number in STOPS]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def prepare_litellm():
    """Import litellm with no word of its own, no request for prices, and connections kept open."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    warnings.simplefilter("ignore")
    import httpx
    import litellm

    litellm.suppress_debug_info = True
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # By default httpx keeps 20 connections alive and opens at most 100: with more requests in
    # flight nearly each opens a new one. litellm's clients for all providers share this default.
    limits = inspect.signature(httpx.Client).parameters["limits"].default
    limits.max_connections = limits.max_keepalive_connections = None


# --- telling -----------------------------------------------------------------------------------


class Report:
    """What people are told: a progress bar over answers, and what became of the run."""

    def __init__(self, wanted: int, answered: int, totals: dict):
        self.wanted, self.answered, self.totals = wanted, answered, totals
        self.failures: dict[str, list[Failure]] = {}
        self.began = time.monotonic()
        self.latencies: list[float] = []
        # In a log file, a line a minute.
        log = {"mininterval": 60, "maxinterval": 60, "bar_format": "{l_bar}{r_bar}\n"}
        self.bar = tqdm(
            total=wanted, initial=answered, unit="answer", **({} if sys.stderr.isatty() else log)
        )

    def count(self, outcomes: list[tuple[dict, Any]], records: list[dict | None]):
        for (_, outcome), record in zip(outcomes, records, strict=True):
            if record is None:
                self.failures.setdefault(outcome.kind, []).append(outcome)
            else:
                self.count_answer(outcome, record)
                self.bar.update()
        failed = sum(map(len, self.failures.values()))
        tokens = self.totals["prompt_tokens"] + self.totals["completion_tokens"]
        cost = "" if self.totals["cost"] is None else f", ${self.totals['cost']:.4f}"
        self.bar.set_postfix_str(
            f"{failed} failed, {self.totals['truncated']} cut off, {tokens:,} tokens{cost}",
            refresh=False,
        )

    def count_answer(self, response, record: dict):
        usage = getattr(response, "usage", None)
        details = getattr(usage, "completion_tokens_details", None)
        cost = getattr(response, "_hidden_params", {}).get("response_cost")
        counts = {
            "prompt_tokens": getattr(usage, "prompt_tokens", None),
            "completion_tokens": getattr(usage, "completion_tokens", None),
            "reasoning_tokens": getattr(details, "reasoning_tokens", None),
            "truncated": response.choices[0].finish_reason == "length",
            "empty": not record["response"],
            "without_program": record["program"] is None,
        }
        for name, value in counts.items():
            self.totals[name] += int(value or 0)
        if cost is not None:
            self.totals["cost"] = (self.totals["cost"] or 0) + cost
        self.latencies.append((getattr(response, "_response_ms", None) or 0) / 1000)
        self.answered += 1

    def stopped(self, end: Failure) -> str:
        """One line on what ended the run, and how to mend it."""
        repair = end.repair or (
            "all requests fail so: is the server up and its address right?"
            if end.passing
            else "all requests are refused so: see --model, --max-tokens and --param"
        )
        return f"{end}; {repair} ({self.answered} of {self.wanted} answered)"

    def summary(self, concurrency: int):
        """Print what was answered and what not, what the answers are like, and what they cost."""
        totals, elapsed = self.totals, time.monotonic() - self.began
        cost = "unknown" if totals["cost"] is None else f"${totals['cost']:.4f}"
        notify(
            f"{self.answered} of {self.wanted} answered in {elapsed:.0f} s; of the answers "
            f"{totals['truncated']} cut off at --max-tokens, {totals['empty']} empty, "
            f"{totals['without_program']} without a program\n"
            f"{totals['prompt_tokens']:,} tokens in, {totals['completion_tokens']:,} out "
            f"({totals['reasoning_tokens']:,} for reasoning), cost {cost}"
        )
        for kind, failures in self.failures.items():
            notify(f"{len(failures)} failed: {kind}, such as: {failures[0].text}")
        if missing := self.wanted - self.answered:
            notify(
                f"{missing} of {self.wanted} problems have no answer; "
                "run the same command again to retry them"
            )
        ideal = max(sum(self.latencies) / concurrency, *self.latencies, 0, 0)
        if elapsed > 60 and ideal < 0.6 * elapsed:
            notify(
                f"the model was kept busy {ideal / elapsed:.0%} of what {concurrency} requests at "
                f"once could; --batch-size 1 --concurrent-batches {concurrency} does not wait for "
                "the slowest of a batch"
            )


# --- the program -------------------------------------------------------------------------------


def unanswered(problems: list[dict], output: Output, num_samples: int, limit: int | None) -> list:
    """List the problems still to be asked, each as often as its answers are missing.

    All first samples come before any second one. Raises CompletionsError on a record of another
    benchmark.
    """
    keys = [content_key(problem) for problem in problems]
    output.found = dict.fromkeys(keys, 0)
    output.benchmark_sha256 = hashlib.sha256(b"".join(keys)).hexdigest()
    for number, record in output.records():
        key = content_key(record)
        if key not in output.found:
            raise CompletionsError(
                f"{output.path}:{number}: not a record of this benchmark; "
                "choose another --output-path"
            )
        output.found[key] += 1
    left, todo = dict(output.found), []
    for _ in range(num_samples):
        for problem, key in zip(problems[:limit], keys, strict=False):
            if left[key]:
                left[key] -= 1
            else:
                todo.append(problem)
    return todo


def main_with_args(
    *,
    model: str,
    benchmark: str,
    temperature: float | None,
    max_tokens: int,
    top_p: float | None,
    batch_size: int,
    lang: str,
    output_path: str | Path,
    concurrent_batches: int = 1,
    num_samples: int = 1,
    limit: int | None = None,
    config: str | None = None,
    split: str = "test",
    prompt_column: str = "prompt",
    timeout: float = 600,
    max_retries: int = 5,
    param: dict | None = None,
) -> int:
    """Ask for every answer that the output lacks, append each, return how many are still missing.

    The parameters are the options of the command line; None for temperature or top_p sends none.
    Raises CompletionsError where the run cannot begin or go on, and Interrupted on Ctrl-C or
    SIGTERM; every answered batch is on disk then.
    """
    sampling: dict[str, Any] = {
        "temperature": temperature,
        "max_tokens": max_tokens,
        "top_p": top_p,
    }
    param = param or {}
    settings = {"model": model, "lang": lang, **sampling}
    settings |= {"prompt_column": prompt_column, "param": param}
    problems = load_benchmark(benchmark, config=config, split=split, prompt_column=prompt_column)
    with Output(output_path, benchmark) as output:
        todo = unanswered(problems, output, num_samples, limit)
        source = {"name": benchmark, "config": config, "split": split, "problems": len(problems)}
        run = RunFile(output, settings, source | {"sha256": output.benchmark_sha256})
        output.cut_torn_line()
        wanted = len(problems[:limit]) * num_samples
        if not todo:
            notify(f"all {wanted} answers are in {output_path} already")
            return 0
        run.save()
        prepare_litellm()
        requests = Requests(
            lambda problem: make_prompt(problem, lang, prompt_column),
            run.totals,
            concurrent_batches=concurrent_batches,
            max_retries=max_retries,
            param=param,
            request={"model": model, **sampling, "timeout": timeout, "max_retries": 0, **param},
        )
        report = Report(wanted, wanted - len(todo), run.totals)
        try:
            with report.bar, signals_to(requests.events):
                for outcomes in requests.outcomes(batches(todo, batch_size, progress=False)):
                    records = [make_record(problem, outcome, lang) for problem, outcome in outcomes]
                    output.append([record for record in records if record])
                    report.count(outcomes, records)
                    run.save(at_most_once_a_second=True)
        finally:
            run.finish(complete=report.answered == wanted)
        if requests.end:
            raise CompletionsError(report.stopped(requests.end))
        report.summary(batch_size * concurrent_batches)
        return wanted - report.answered


def make_record(problem: dict, outcome: Any, lang: str) -> dict | None:
    """The line of the output for a problem: its fields, the response, and the program in it."""
    if isinstance(outcome, Failure):
        return None
    response = outcome.choices[0].message.content or ""
    return {**problem, "response": response, "program": extract_code_from_markdown(response, lang)}


# --- the command line --------------------------------------------------------------------------

DESCRIPTION = """\
Ask a language model to solve every problem of a benchmark, and append each answer,
with the program extracted from it, to a JSONL file. Run the same command again to
answer what is still missing, or with a higher --num-samples for more."""

EXAMPLES = """\
examples:
  a model behind an API (its key in the environment, here OPENAI_API_KEY):
    python completions.py --model openai/gpt-4.1-nano --benchmark problems.jsonl \\
        --lang Lua --output-path lua.jsonl

  a model on a server of your own, 64 requests at once:
    python completions.py --model hosted_vllm/Qwen/Qwen3-8B --benchmark problems.jsonl \\
        --lang "C#" --output-path cs.jsonl --param api_base=http://127.0.0.1:8000/v1 \\
        --batch-size 1 --concurrent-batches 64

  a dataset of the Hugging Face Hub that needs options:
    python completions.py --model openai/gpt-4.1-nano --benchmark nuprl/MultiPL-E \\
        --config humaneval-lua --split test --lang Lua --output-path lua.jsonl

exit codes: 0 every problem answered, 1 some unanswered or the run could not go on,
2 usage, 130 Ctrl-C, 143 SIGTERM"""

RESERVED = {
    "n": "use --num-samples",
    "stream": "answers are taken whole",
    "messages": "they are made from the benchmark",
    **dict.fromkeys(
        ("model", "temperature", "max_tokens", "top_p", "timeout", "max_retries"),
        "it has an option of its own",
    ),
    **dict.fromkeys(
        ("num_retries", "request_timeout", "max_workers"), "see --max-retries, --timeout"
    ),
}


def at_least(least: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    return integer


def number_or_none(least: float, most: float) -> Callable[[str], float | None]:
    def number(text: str) -> float | None:
        return None if text.lower() == "none" else number_within(least, most)(text)

    return number


def number_within(least: float, most: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if not (least <= value <= most and math.isfinite(value)):
            raise argparse.ArgumentTypeError(f"{text} is not within {least:g} and {most:g}")
        return value

    return number


def key_value(text: str) -> tuple[str, object]:
    """Split KEY=VALUE; the value is JSON where it parses as JSON, else text."""
    key, equals, value = text.partition("=")
    if not (equals and key.isidentifier()):
        raise argparse.ArgumentTypeError(f"{text.split('=')[0]!r} is not of the form KEY=VALUE")
    if key in RESERVED:
        raise argparse.ArgumentTypeError(f"{key} cannot be passed on: {RESERVED[key]}")
    with suppress(ValueError):
        value = json.loads(value, parse_constant=int)  # int("NaN") fails: NaN is text
    return key, value


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="completions.py",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what to run")
    what.add_argument(
        "--model", required=True, help="LiteLLM's name of the model, with its provider"
    )
    what.add_argument(
        "--benchmark",
        required=True,
        help="a JSONL file (.gz .bz2 .xz .zst too), a dataset of the Hugging Face Hub, or a folder",
    )
    what.add_argument(
        "--lang", required=True, help='language to solve in: free text for the prompt, as "C#"'
    )
    what.add_argument(
        "--output-path",
        required=True,
        metavar="FILE",
        help="JSONL file to append to; FILE.run.json beside it says what made it",
    )
    what.add_argument(
        "--num-samples",
        type=at_least(1),
        default=1,
        metavar="N",
        help="answers to each problem, one record each (default: %(default)s)",
    )
    what.add_argument(
        "--limit", type=at_least(1), metavar="N", help="only the first N problems (default: all)"
    )
    where = parser.add_argument_group("where a benchmark differs")
    where.add_argument(
        "--config", metavar="NAME", help="configuration of a dataset (default: none)"
    )
    where.add_argument(
        "--split",
        default="test",
        metavar="NAME",
        help="split of a dataset, also a slice such as test[:20] (default: %(default)s)",
    )
    where.add_argument(
        "--prompt-column",
        default="prompt",
        metavar="NAME",
        help="field that holds the prompt (default: %(default)s)",
    )
    how = parser.add_argument_group("how to sample: these change scores")
    how.add_argument(
        "--temperature",
        type=number_or_none(0, math.inf),
        default=0.2,
        metavar="T",
        help="a number, at least 0, or none: not sent (default: %(default)s)",
    )
    how.add_argument(
        "--top-p",
        type=number_or_none(0, 1),
        default=0.95,
        metavar="P",
        help="a number within 0 and 1, or none: not sent (default: %(default)s)",
    )
    how.add_argument(
        "--max-tokens",
        type=at_least(1),
        default=5000,
        metavar="N",
        help="tokens of one response, reasoning included (default: %(default)s)",
    )
    how.add_argument(
        "--param",
        type=key_value,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="passed on to litellm, repeatable; VALUE is JSON or else text: api_base, seed, "
        "reasoning_effort, extra_body ...",
    )
    pace = parser.add_argument_group("pace and patience")
    pace.add_argument(
        "--batch-size",
        type=at_least(1),
        default=10,
        metavar="N",
        help="problems in one batch request (default: %(default)s)",
    )
    pace.add_argument(
        "--concurrent-batches",
        type=at_least(1),
        default=1,
        metavar="K",
        help="batch requests under way at once; --batch-size 1 with K=64 keeps 64 requests in "
        "flight with no waiting for the slowest of a batch (default: %(default)s)",
    )
    pace.add_argument(
        "--timeout",
        type=number_within(0.001, 10**7),
        default=600,
        metavar="SECONDS",
        help="for one request (default: %(default)s)",
    )
    pace.add_argument(
        "--max-retries",
        type=at_least(0),
        default=5,
        metavar="N",
        help="for a request that failed for a passing reason (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    args.param = dict(args.param)
    if args.model.startswith("vllm/") and args.concurrent_batches > 1:
        parser.error(
            "vllm/ runs in this process, one batch at a time: drop --concurrent-batches, "
            "or start a vLLM server and use hosted_vllm/"
        )
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = parse_args(argv)
    before = [(number, signal.signal(number, interrupt)) for number in STOPS]
    try:
        return 1 if main_with_args(**vars(args)) else 0
    except CompletionsError as error:
        notify(f"completions.py: {mask(str(error), args.param)}")
        return 1
    except Interrupted as stop:
        notify(f"completions.py: {stop}")
        return 128 + stop.number
    except Exception:
        notify(mask(traceback.format_exc(), args.param))
        return 1
    finally:
        for number, handler in before:
            signal.signal(number, handler)


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # a usual exit would wait for requests that hang
