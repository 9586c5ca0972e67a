r"""Ask a model to solve every problem of a benchmark; append the answers to a file.

    python completions.py --model openai/gpt-4.1-nano \
        --benchmark problems.jsonl --lang Lua --output-path lua.jsonl

Run the same command again to answer what is still missing, or with a higher
--num-samples to get more answers to each problem.
"""

import argparse
import gc
import hashlib
import importlib
import inspect
import io
import json
import logging
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
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
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
    """Ctrl-C or SIGTERM; the argument is the number of the signal."""

    def throw(self):
        raise self


@contextmanager
def on_stop(handle: Callable[[Interrupted], None]) -> Iterator[None]:
    """Have Ctrl-C and SIGTERM call handle; only the main thread can, elsewhere nothing changes."""
    stops = (signal.SIGINT, signal.SIGTERM)
    here = threading.current_thread() is threading.main_thread()
    before = {n: signal.signal(n, lambda n, _: handle(Interrupted(n))) for n in stops if here}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def notify(line: str):
    """Tell people something, above the progress bar if there is one."""
    (tqdm.write if sys.stderr.isatty() else print)(line, file=sys.stderr)


@contextmanager
def os_errors_told(action: str, repair: str = "") -> Iterator[None]:
    """Raise an OSError as a CompletionsError: "cannot write to x: No space left on device"."""
    try:
        yield
    except OSError as error:
        raise CompletionsError(f"cannot {action}: {error.strerror or error}{repair}") from None


def one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# --- the benchmark -----------------------------------------------------------------------------

OPENERS = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma"}
# What is plainly a path: a typo in it must not be looked for on the Hub.
PATH = re.compile(
    r"[./~\\]|[a-z]:|.*\.(jsonl?|ndjson|txt|csv|parquet|gz|bz2|xz|zst)$|.*[/\\].*[/\\]", re.I
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
    path = os.path.expanduser(benchmark)
    if os.path.isdir(path) or not (os.path.exists(path) or PATH.match(benchmark)):
        rows = load_dataset(path, config, split)
    elif config:
        raise CompletionsError(f"--config is for datasets; {benchmark} is a file")
    else:
        rows = list(read_jsonl(path))
    if not rows:
        raise CompletionsError(f"{benchmark} is empty: it holds no problem")
    return [checked_row(number, row, prompt_column) for number, row in enumerate(rows, 1)]


def read_jsonl(path: str) -> Iterator[dict]:
    """Yield the object on each line that is not blank, as strictly as `json.loads` reads it.

    pandas.read_json would refuse integers beyond 64 bits, let some broken lines pass, and name no
    line in its errors.
    """
    try:
        with open_lines(path) as lines:
            for number, line in enumerate(lines, 1):
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if line.strip():
                    yield parse_object(line, f"{path}:{number}")
    except CompletionsError:
        raise
    except FileNotFoundError:
        raise CompletionsError(f"no such benchmark file: {path}") from None
    except Exception as error:  # each compression has errors of its own
        raise CompletionsError(f"cannot read {path}: {one_line(error)}") from None


def open_lines(path: str) -> io.BufferedIOBase:
    """Open a file for its lines of bytes, decompressed by its suffix; only "\\n" ends a line."""
    suffix = Path(path).suffix
    if suffix == ".zst":
        import pyarrow  # comes with datasets; the standard library has zstd from Python 3.14 on

        return io.BufferedReader(pyarrow.input_stream(path, compression="zstd"))
    return importlib.import_module(OPENERS.get(suffix, "io")).open(path, "rb")


def parse_object(line: bytes, place: str) -> dict:
    """Parse a line that holds one JSON object; raises CompletionsError, naming the place."""
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=lambda _: None)
        if isinstance(row, dict):
            return row
        problem = "not a JSON object"
    except UnicodeDecodeError:
        problem = "not valid UTF-8"
    except json.JSONDecodeError as error:
        problem = f"not valid JSON: {error.msg} in column {error.colno}"
    except (ValueError, RecursionError) as error:
        problem = f"not valid JSON: {error}"
    if line.lstrip().startswith(b"["):
        problem = "an ordinary JSON array; write one object a line (JSON Lines) instead"
    raise CompletionsError(f"{place}: {problem}")


def load_dataset(name: str, config: str | None, split: str) -> list[dict]:
    """Load a dataset of the Hugging Face Hub, or of a folder; a passing failure is tried again."""
    datasets = prepare_datasets(local=os.path.isdir(name))
    for attempt in (1, 2):
        try:
            return datasets.load_dataset(name, config, split=split).to_list()
        except Exception as error:  # its errors share no class
            status = getattr(getattr(error, "response", None), "status_code", None)
            if attempt == 2 or (status or 0) < 500:
                raise CompletionsError(f"cannot load {name}: {dataset_problem(error)}") from None
    raise AssertionError("unreachable")


def prepare_datasets(*, local: bool):
    """Import datasets without its bars, and offline at once where the Hub is out of reach.

    Left alone it tries for 23 seconds, which no setting shortens. Offline, as with
    HF_HUB_OFFLINE=1, it uses what it has in its cache.
    """
    import datasets
    import huggingface_hub

    datasets.disable_progress_bars()
    if not local:
        try:  # with the client that datasets uses: same proxy, same certificates
            huggingface_hub.get_session().head(datasets.config.HF_ENDPOINT, timeout=10)
        except Exception:  # whose class depends on the version; also raised when offline already
            datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    return datasets


DATASET_REPAIRS = {
    "Unknown split": "choose one with --split",
    "onfig": "choose one with --config",  # missing, not found, or not in the cache
    "Couldn't reach": "check the network, or load the dataset once while there is one",
    "authenticated": "set HF_TOKEN to a token of an account that was let in",
    "cannot be accessed": "check the name; if the dataset is private, set HF_TOKEN",
}


def dataset_problem(error: BaseException) -> str:
    """What datasets says, in one line, and the option or setting that mends it."""
    if type(error).__name__ == "DatasetGenerationError":  # only its cause says why
        error = error.__cause__ or error
    text = one_line(error).partition(" Example of usage")[0]  # of its Python function
    repairs = [repair for words, repair in DATASET_REPAIRS.items() if words in text]
    return "; ".join([text, *repairs[:1]])


def checked_row(number: int, row: dict, prompt_column: str) -> dict:
    """The row as JSON can hold it, once it has a prompt."""
    prompt = row.get(prompt_column)
    if not isinstance(prompt, str) or not prompt.strip():
        columns = one_line(", ".join(row) or "none")
        raise CompletionsError(
            f"row {number} has no text in the column {prompt_column!r}; name another with "
            f"--prompt-column (columns: {columns})"
        )
    for name, value in row.items():
        try:
            row[name] = as_json(value)
        except (TypeError, RecursionError) as error:
            raise CompletionsError(f"row {number}, field {name!r}: {error}") from None
    return row


def as_json(value: object) -> object:
    """A value as strict JSON can hold it; raises TypeError where it cannot.

    >>> as_json({"born": datetime(1815, 12, 10), "score": math.nan})
    {'born': '1815-12-10T00:00:00', 'score': None}
    """
    return json.loads(json.dumps(value, default=iso_text), parse_constant=lambda _: None)


def iso_text(value: object) -> str:
    if isinstance(value, (date, clock_time)):
        return value.isoformat()
    raise TypeError(f"a value of type {type(value).__name__} cannot be written as JSON")


# --- problems, prompts and batches -------------------------------------------------------------


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


def make_record(problem: dict, response: Any, lang: str) -> dict:
    """Make a line of the output: the problem's fields, the response, and the program in it."""
    text = response.choices[0].message.content or ""
    return {**problem, "response": text, "program": extract_code_from_markdown(text, lang)}


def content_key(row: dict) -> bytes:
    """What a problem is known by: a hash of all its fields but `response` and `program`."""
    content = {name: row[name] for name in row if name not in ("response", "program")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()


def unanswered(problems: list[dict], keys: list[bytes], answered: Counter, num_samples: int):
    """List the problems still to be asked, each as often as its answers are missing.

    All first samples come before any second one.
    """
    left, todo = answered.copy(), []
    for _ in range(num_samples):
        for problem, key in zip(problems, keys, strict=False):
            if left[key]:
                left[key] -= 1
            else:
                todo.append(problem)
    return todo


# --- the output file and what stands beside it -------------------------------------------------


class Output:
    """The JSONL file that a run appends to, locked as long as it is open."""

    def __init__(self, path: str | Path):
        self.path, self.size = Path(path), 0  # size: of the whole records
        with os_errors_told(f"write to {path}"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.path, "a+b", buffering=0)  # noqa: SIM115
            if not self.path.is_file():
                raise OSError("not a regular file")
        if not lock(self.file.fileno()):
            raise CompletionsError(f"{path} is in use by another run; wait for it or stop it")

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, *exc):
        self.file.close()

    def answered(self, keys: list[bytes]) -> Counter[bytes]:
        """Count the records of each problem; raises CompletionsError at a line that is none."""
        found = Counter(dict.fromkeys(keys, 0))
        with open(self.path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if is_torn(line):
                    break
                if line.strip():
                    place = f"{self.path}:{number}"
                    record = parse_object(line, place)
                    key = content_key(record)
                    if key not in found or "response" not in record:
                        raise CompletionsError(
                            f"{place}: not a record of this benchmark; choose another --output-path"
                        )
                    found[key] += 1
                self.size += len(line)
        return found

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
        repair = "; mend that, and run the same command again to go on"
        with os_errors_told(f"write to {self.path}", repair):
            try:
                for record in records:
                    self.write(json.dumps(record, allow_nan=False).encode() + b"\n")
                os.fsync(self.file.fileno())
            except OSError:
                self.file.truncate(self.size)
                raise

    def write(self, line: bytes):
        rest = memoryview(line)
        while rest:
            rest = rest[self.file.write(rest) :]
        self.size += len(line)


def is_torn(line: bytes) -> bool:
    """Whether a line is part of a record, or zeros, as a crash or a full disk leaves at the end."""
    if line.endswith(b"\n") or line.lstrip(b"\0")[:1] not in (b"", b"{"):
        return False
    with suppress(ValueError):
        json.loads(line)
        return False
    return True


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


TOTALS = (
    *("requests", "prompt_tokens", "completion_tokens", "reasoning_tokens"),
    *("cost", "truncated", "empty", "without_program"),
)
# Where the server is and how it is reached: a run may go on elsewhere with the same answers.
WHEREABOUTS = re.compile(r"(api|aws|azure|vertex)_|base_url$|organization$|(extra_)?headers$")


class RunFile:
    """`<output-path>.run.json`: what made an output, with totals over all runs on it."""

    def __init__(self, output_path: str | Path, settings: dict, benchmark: dict):
        self.path, self.saved = Path(f"{output_path}.run.json"), 0.0
        self.totals: dict[str, Any] = dict.fromkeys(TOTALS, 0) | {"cost": None}
        self.content: dict[str, Any] = {
            "settings": settings,
            "benchmark": benchmark,
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in ("litellm", "datasets")},
            "started": now(),
            "finished": None,
            "totals": self.totals,
        }

    def resume(self, answered: int):
        """Go on from the file of earlier runs; raise CompletionsError on other settings.

        With no answer there is nothing that other settings could spoil, and the file begins anew.
        """
        if not self.path.exists():
            if answered:
                notify(f"resuming {answered} answers made with unknown settings: no {self.path}")
                self.content["records_of_unknown_settings"] = answered
            return
        with os_errors_told(f"read {self.path}"):
            earlier = parse_object(self.path.read_bytes(), str(self.path))
        changes = differences(earlier.get("settings", {}), self.content["settings"])
        if changes and answered:
            output = self.path.name.removesuffix(".run.json")
            raise CompletionsError(
                f"{output} was begun with {' and '.join(changes)}; choose another --output-path"
            )
        if not changes:
            self.totals.update(earlier.get("totals", {}))
            kept = ("started", "records_of_unknown_settings")
            self.content |= {name: earlier[name] for name in kept if name in earlier}

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
        with os_errors_told(f"write to {self.path}"):
            try:
                with open(draft, "w", encoding="utf-8") as file:
                    file.write(json.dumps(self.content, indent=2) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(draft, self.path)
            except OSError:
                draft.unlink(missing_ok=True)
                raise
        self.saved = time.monotonic()


def differences(earlier: dict, later: dict) -> list[str]:
    """Say in words which settings differ, parameters one by one: "temperature 0.2, not 0.8"."""
    earlier, later = (
        settings | {k: v for k, v in settings.get("param", {}).items() if not WHEREABOUTS.match(k)}
        for settings in (earlier, later)
    )
    return [
        f"{name} {shown(earlier.get(name))}, not {shown(later.get(name))}"
        for name in earlier | later
        if name != "param" and earlier.get(name) != later.get(name)
    ]


def shown(value: object) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class Secrets:
    """Keys that must not be shown or stored: those in the parameters and in the environment."""

    name = re.compile(r"key|token(?!iz)|secret|passw|credential|authorization|cookie", re.I)

    def __init__(self, param: dict):
        values = {value.strip() for name, value in os.environ.items() if self.name.search(name)}
        values.update(self.within(param))
        # A shorter one protects nothing, and would garble the message.
        self.values = sorted((value for value in values if len(value) >= 6), key=len, reverse=True)

    def within(self, value: object, name: str = "") -> Iterator[str]:
        """Yield the texts that stand under the name of a secret; of "Bearer KEY" also KEY."""
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from self.within(inner, name if self.name.search(name) else key)
        elif isinstance(value, str) and self.name.search(name):
            yield from (value, value.split(" ")[-1])

    def mask(self, text: str) -> str:
        for value in self.values:
            text = text.replace(value, "***")
        return re.sub(r"(://[^/@\s:]*:)[^/@\s]+@", r"\1***@", text)

    def masked(self, value: Any, name: str = "") -> Any:
        """A copy of a JSON value with secrets masked, by name and by value."""
        if isinstance(value, dict):
            return {key: self.masked(inner, key) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.masked(inner, name) for inner in value]
        if isinstance(value, str):
            return "***" if self.name.search(name) else self.mask(value)
        return value


# --- failures ----------------------------------------------------------------------------------

RUN, PROBLEM, PASSING = "the whole run", "one problem", "passing"
# What a failure concerns and how to mend it, by the first pattern found in "status class: text".
# fmt: off
FAILURES = (
    (PASSING, r"^(200|409) ", "the server's answers are broken: see its log"),
    (PASSING, r"^408 |^\S+ Timeout", "raise --timeout, or lower --max-tokens"),
    (PROBLEM, r"ContentPolicy", "the provider refuses this content"),
    (RUN, r"^40[13] |missing (\w+ ){0,2}(credentials|api.?key)|api.?key.{0,9} not set"
          r"|unable to locate credentials",
     "check the provider's key (such as OPENAI_API_KEY) and what it may use"),
    # Gemini says "quota" of a rate limit too, and when to come again.
    (RUN, r"^402 |insufficient_quota|exceeded your current quota(?!.*retry in)|credit balance",
     "the account's quota or credit is used up; add to it"),
    (RUN, r"^404 |LLM Provider NOT provided|invalid model name|not a valid model|model_not_found",
     "check --model (provider/name) and the server's address"),
    (RUN, r"^4\d\d .*(support|both|deprecated|only one).*(temperature|top_p)"
          r"|^4\d\d .*(temperature|top_p).*(support|both|deprecated|only one)",
     "try --temperature none --top-p none (some models want one of the two)"),
    (RUN, r"UnsupportedParams|^400 .*unsupported parameter", "leave out the --param that it names"),
    (RUN, r"No module named|pip install", "install the package that it names"),
    (PASSING, r"^429 ", "ask for fewer at once: --batch-size, --concurrent-batches"),
    (PASSING, r"^(5|\D)", "is the server up and its address right?"),
    (PROBLEM, r"context.?(window|length)|too long", "it is too long for this model"),
    (PROBLEM, r"", "see --model, --max-tokens and --param"),
)
# fmt: on


class NoChoices(Exception):
    """The server sent a response without a choice in it."""

    status_code = 200


class Failure:
    """Why a request has no answer: `kind` for counting, `text` for reading, `repair` to mend it."""

    # What litellm adds may quote anything, and must not decide what a failure concerns.
    added = re.compile(r"Traceback \(most|,? (?:Received|Original) Response", re.I)
    prefix = re.compile(r"^((litellm\.)?\w*(Error|Exception|Timeout)( -|:) )+")

    def __init__(self, error: Exception, secrets: Secrets):
        status = getattr(error, "status_code", None) or "no-status"
        self.kind = f"{status} {type(error).__name__}".removeprefix("no-status ")
        text = secrets.mask(" ".join(self.added.split(str(error))[0].split()))
        text = self.prefix.sub("", text) or self.kind
        self.text = text.rstrip(".") if len(text) <= 300 else text[:300] + " ..."
        signature = f"{status} {type(error).__name__}: {text}"
        self.concerns, _, self.repair = next(
            row for row in FAILURES if re.search(row[1], signature, re.I)
        )
        self.retry_after = retry_after(error)

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def retry_after(error: Exception) -> float:
    """Seconds the server asks to wait in Retry-After (a number or a date), a day at most, or 0."""
    headers = getattr(error, "litellm_response_headers", None)
    if headers is None:
        headers = getattr(getattr(error, "response", None), "headers", None)
    value = (headers or {}).get("retry-after") or "0"
    seconds = 0.0
    with suppress(ValueError):
        seconds = parsedate_to_datetime(value).timestamp() - time.time()
    with suppress(ValueError):
        seconds = float(value)
    return min(max(0.0, seconds), 86_400)


def pause(attempt: int, failures: list[Failure]) -> float:
    """Seconds before the next try after attempt: about 1, 2, 4 ... 60, or what the server asks for.

    Jitter keeps clients that failed together from coming back together.
    """
    backoff = min(60, 2 ** (attempt - 1)) * random.uniform(0.5, 1)
    asked = max(failure.retry_after for failure in failures)
    return max(backoff, asked + random.random() / 4 if asked else 0)


# --- asking ------------------------------------------------------------------------------------


def ask(messages: list[list[dict]], request: dict, secrets: Secrets) -> list:
    """Make one batch request; return a response or a Failure for each prompt."""
    import litellm

    try:
        outcomes = litellm.batch_completion(messages=messages, max_workers=len(messages), **request)
    except Exception as error:  # vllm/ raises instead of returning exceptions
        outcomes = [error] * len(messages)
    return [checked(outcome, secrets) for outcome in outcomes]


def checked(outcome: Any, secrets: Secrets) -> Any:
    """The response as it is, or a Failure where there is none to use."""
    if isinstance(outcome, Exception):
        return Failure(outcome, secrets)
    if getattr(outcome, "choices", None):
        return outcome
    return Failure(NoChoices("the response has no choices"), secrets)


@dataclass
class Call:
    """A batch request: its numbered problems, and what came of each, a response or a Failure."""

    batch: list[tuple[int, dict]]
    attempt: int = 1
    outcomes: list = field(default_factory=list)  # of the attempt before, until it returns


class Requests:
    """Batch requests under way, each in a thread of its own, that the main thread hears of."""

    def __init__(self, ask: Callable[[list[dict]], list], totals: dict, max_retries: int):
        self.ask, self.totals, self.max_retries = ask, totals, max_retries
        self.returned: SimpleQueue[Call | None] = SimpleQueue()
        self.counting, self.ending = threading.Lock(), threading.Event()
        self.first_ten: list[Failure | None] = []
        self.end: Failure | None = None  # what ends the whole run
        self.stop: Interrupted | None = None
        self.next_notice = 0.0

    def interrupt(self, stop: Interrupted):
        """Have a signal wait its turn: called in its handler, where put() is safe."""
        self.stop = stop
        self.returned.put(None)

    def outcomes(self, batches: Iterable[list[dict]], concurrent_batches: int) -> Iterator[tuple]:
        """Yield (problem, response) pairs and Failures as calls return, then send the next ones.

        What failed for a passing reason is sent again, in the place of its batch. After a failure
        that ends the run nothing more is sent; what is under way is paid for, and awaited.
        """
        numbers = count()
        todo = (Call([(next(numbers), problem) for problem in batch]) for batch in batches)
        sent = list(islice(todo, concurrent_batches))
        under_way = len(sent)
        while under_way:
            for call in sent:
                self.start(call)
            returned = self.wait()
            answers, failures, again = self.sort(returned)
            yield answers, failures
            if self.stop:
                raise self.stop
            sent = again + list(islice(todo, 0 if self.end else len(returned) - len(again)))
            under_way += len(sent) - len(returned)
        self.end = self.end or self.alike()

    def start(self, call: Call):
        """Have a thread send a batch, after a pause if it failed before."""
        delay = pause(call.attempt - 1, call.outcomes) if call.outcomes else 0
        if delay >= 5 and time.monotonic() >= self.next_notice:
            notify(f"waiting {delay:.0f} s before try {call.attempt}: {call.outcomes[0]}")
            self.next_notice = time.monotonic() + 30
        threading.Thread(target=self.send, args=(call, delay), daemon=True).start()

    def send(self, call: Call, delay: float):
        if not self.ending.wait(delay):
            with self.counting:
                self.totals["requests"] += len(call.batch)
            call.outcomes = self.ask([problem for _, problem in call.batch])
        self.returned.put(call)

    def wait(self) -> list[Call]:
        """Wait for calls to return, and take all that have; none if a signal came first."""
        heard: list = []
        while not heard or not self.returned.empty():
            with suppress(Empty):  # on Windows an endless wait would hear no Ctrl-C
                heard.append(self.returned.get(timeout=1))
        return [call for call in heard if call]

    def sort(self, returned: list[Call]) -> tuple[list, list[Failure], list[Call]]:
        """Tell answers, failures, and calls that are to be made again."""
        answers, failures, again = [], [], []
        for call in returned:
            passing = []
            # No outcomes: the run ended before it was sent.
            for (number, problem), outcome in zip(call.batch, call.outcomes, strict=False):
                if self.may_try_again(call, outcome):
                    passing.append(((number, problem), outcome))
                    continue
                self.judge(number, outcome)
                if isinstance(outcome, Failure):
                    failures.append(outcome)
                else:
                    answers.append((problem, outcome))
            if passing:
                batch, causes = map(list, zip(*passing, strict=True))
                again.append(Call(batch, call.attempt + 1, causes))
        return answers, failures, again

    def may_try_again(self, call: Call, outcome: Any) -> bool:
        passing = isinstance(outcome, Failure) and outcome.concerns == PASSING
        return passing and call.attempt <= self.max_retries and not self.ending.is_set()

    def judge(self, number: int, outcome: Any):
        """Note what ends the run: a failure of that kind, or the first ten all failing alike."""
        failure = outcome if isinstance(outcome, Failure) else None
        if number < 10:
            self.first_ten.append(failure)
        if failure and failure.concerns == RUN:
            self.end = self.end or failure
        elif number < 10 and len(self.first_ten) == 10:
            self.end = self.end or self.alike()
        if self.end:
            self.ending.set()

    def alike(self) -> Failure | None:
        """The failure that all of the first ten requests met, if it is one and the same."""
        kinds = {failure and failure.kind for failure in self.first_ten}
        return self.first_ten[0] if len(kinds) == 1 else None


def prepare_litellm():
    """Import litellm with no word of its own, no request for prices, and connections kept open."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    gc.disable()  # the import makes half a million objects that stay: a fifth of its time
    import httpx
    import litellm
    from litellm.llms.custom_httpx.http_handler import get_ssl_configuration

    gc.freeze()
    gc.enable()
    litellm.suppress_debug_info = True
    # By default httpx keeps 20 connections alive and opens at most 100: with more requests in
    # flight nearly each opens a new one. litellm's clients for all providers share this default;
    # for openai/ one client can be given, so that the first requests do not make one each.
    limits = inspect.signature(httpx.Client).parameters["limits"].default
    limits.max_connections = limits.max_keepalive_connections = None
    litellm.client_session = httpx.Client(verify=get_ssl_configuration(), follow_redirects=True)


# --- telling -----------------------------------------------------------------------------------


class Report:
    """What people are told: a progress bar over answers, and what became of the run."""

    def __init__(self, wanted: int, answered: int, totals: dict):
        self.wanted, self.before, self.answered = wanted, answered, answered
        self.totals = totals
        self.failed: Counter[str] = Counter()
        self.examples: dict[str, Failure] = {}
        self.began = time.monotonic()
        self.busy = self.longest = 0.0  # seconds that requests took: all together, and the longest
        # In a log file, a line a minute.
        line = "{n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]\n"
        log = {"mininterval": 60, "maxinterval": 60, "bar_format": line}
        self.bar = tqdm(
            total=wanted, initial=answered, unit=" answers", **({} if sys.stderr.isatty() else log)
        )

    def count(self, answers: list[tuple], records: list[dict], failures: list[Failure]):
        for (_, response), record in zip(answers, records, strict=True):
            self.count_answer(response, record)
        for failure in failures:
            self.failed[failure.kind] += 1
            self.examples.setdefault(failure.kind, failure)
        tokens = self.totals["prompt_tokens"] + self.totals["completion_tokens"]
        self.bar.set_postfix_str(
            f"{self.failed.total()} failed, {self.totals['truncated']} cut off, {tokens:,} tokens, "
            f"{self.cost()}",
            refresh=False,
        )
        self.bar.update(len(records))

    def count_answer(self, response: Any, record: dict):
        usage = getattr(response, "usage", None)
        details = getattr(usage, "completion_tokens_details", None)
        counts = {
            "prompt_tokens": getattr(usage, "prompt_tokens", None),
            "completion_tokens": getattr(usage, "completion_tokens", None),
            "reasoning_tokens": getattr(details, "reasoning_tokens", None),
            "truncated": getattr(response.choices[0], "finish_reason", None) == "length",
            "empty": not record["response"],
            "without_program": record["program"] is None,
        }
        for name, value in counts.items():
            self.totals[name] += int(value or 0)
        cost = getattr(response, "_hidden_params", {}).get("response_cost")
        if cost is not None:
            self.totals["cost"] = (self.totals["cost"] or 0) + cost
        seconds = (getattr(response, "_response_ms", None) or 0) / 1000
        self.busy, self.longest = self.busy + seconds, max(self.longest, seconds)
        self.answered += 1

    def cost(self) -> str:
        cost = self.totals["cost"]
        return "cost unknown" if cost is None else f"${cost:.4f}"

    def conclude(self, end: Failure | None, concurrency: int):
        """Print what the run came to; raise CompletionsError if a failure ended it."""
        if self.answered > self.before or not end:
            self.summary(concurrency)
        if end:
            alike = "" if end.concerns == RUN else "all requests fail alike: "
            raise CompletionsError(
                f"{alike}{end}; {end.repair} ({self.answered} of {self.wanted} answered)"
            )

    def summary(self, concurrency: int):
        """Print what was answered and what not, what the answers are like, and what they cost."""
        totals, elapsed = self.totals, time.monotonic() - self.began
        notify(
            f"{self.answered} of {self.wanted} answered in {elapsed:.0f} s; of the answers "
            f"{totals['truncated']} cut off at --max-tokens, {totals['empty']} empty, "
            f"{totals['without_program']} without a program\n"
            f"{totals['prompt_tokens']:,} tokens in, {totals['completion_tokens']:,} out "
            f"({totals['reasoning_tokens']:,} for reasoning), {self.cost()}"
        )
        for kind, number in self.failed.items():
            example = self.examples[kind]
            notify(f"{number} failed: {kind}, such as: {example.text}; {example.repair}")
        if missing := self.wanted - self.answered:
            notify(
                f"{missing} of {self.wanted} have no answer; "
                "run the same command again to retry them"
            )
        ideal = max(self.busy / concurrency, self.longest)
        if elapsed > 60 and 0 < ideal < 0.6 * elapsed:
            notify(
                f"the model was kept busy {ideal / elapsed:.0%} of what {concurrency} requests at "
                f"once could; --batch-size 1 --concurrent-batches {concurrency} does not wait for "
                "the slowest of a batch"
            )


# --- the program -------------------------------------------------------------------------------


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
    param = param or {}
    secrets = Secrets(param)
    sampling = dict(model=model, temperature=temperature, max_tokens=max_tokens, top_p=top_p)
    settings = {**sampling, "lang": lang, "prompt_column": prompt_column, "param": param}
    request = {**sampling, "timeout": timeout, "max_retries": 0, **param}
    problems = load_benchmark(benchmark, config=config, split=split, prompt_column=prompt_column)
    keys = [content_key(problem) for problem in problems]
    source = {"name": benchmark, "config": config, "split": split, "problems": len(problems)}
    source["sha256"] = hashlib.sha256(b"".join(keys)).hexdigest()
    with Output(output_path) as output:
        answered = output.answered(keys)
        run_file = RunFile(output_path, secrets.masked(settings), source)
        run_file.resume(answered.total())
        output.cut_torn_line()
        todo = unanswered(problems[:limit], keys, answered, num_samples)
        wanted = len(problems[:limit]) * num_samples
        if not todo:
            notify(f"all {wanted} answers are in {output_path} already")
            return 0
        run_file.save()
        prepare_litellm()
        report = Report(wanted, wanted - len(todo), run_file.totals)

        def ask_batch(batch: list[dict]) -> list:
            prompts = [make_prompt(problem, lang, prompt_column) for problem in batch]
            return ask(prompts, request, secrets)

        requests = Requests(ask_batch, run_file.totals, max_retries)
        try:
            with report.bar, on_stop(requests.interrupt):
                todo_in_batches = batches(todo, batch_size, progress=False)
                for answers, failures in requests.outcomes(todo_in_batches, concurrent_batches):
                    records = [
                        make_record(problem, response, lang) for problem, response in answers
                    ]
                    output.append(records)
                    report.count(answers, records, failures)
                    run_file.save(at_most_once_a_second=True)
        finally:
            run_file.finish(complete=report.answered == wanted)
        report.conclude(requests.end, batch_size * concurrent_batches)
        return wanted - report.answered


# --- the command line --------------------------------------------------------------------------

EXAMPLES = """\
The key of an API comes from the environment, here OPENAI_API_KEY. On a server
of your own, with 64 requests at once:

    python completions.py --model hosted_vllm/Qwen/Qwen3-8B \\
        --benchmark problems.jsonl --lang "C#" --output-path cs.jsonl \\
        --param api_base=http://127.0.0.1:8000/v1 \\
        --batch-size 1 --concurrent-batches 64

A dataset of the Hugging Face Hub that needs options:

    python completions.py --model openai/gpt-4.1-nano \\
        --benchmark nuprl/MultiPL-E --config humaneval-lua --split test \\
        --lang Lua --output-path lua.jsonl

Exit codes: 0 every problem answered, 1 some unanswered or the run could not go
on, 2 usage, 130 Ctrl-C, 143 SIGTERM."""

RESERVED = (
    *("model", "messages", "temperature", "max_tokens", "top_p", "timeout", "request_timeout"),
    *("max_retries", "num_retries", "max_workers", "n", "stream"),
)


def number(kind: Callable, least: float, most: float = math.inf, *, or_none: bool = False):
    """Make a type for argparse: an int or a finite float within two bounds."""

    def parse(text: str) -> Any:
        if or_none and text.lower() == "none":
            return None
        value = kind(text)
        if not (least <= value <= most and math.isfinite(value)):
            bounds = f"within {least:g} and {most:g}" if most < math.inf else f"{least:g} or more"
            raise argparse.ArgumentTypeError(f"{text} is not {bounds}")
        return value

    parse.__name__ = "whole number" if kind is int else "number"
    return parse


def key_value(text: str) -> tuple[str, object]:
    """Split KEY=VALUE; the value is JSON where it parses as JSON, else text."""
    key, equals, value = text.partition("=")
    if not (equals and key.isidentifier()):
        raise argparse.ArgumentTypeError(f"{text.split('=')[0]!r} is not of the form KEY=VALUE")
    if key in RESERVED:
        raise argparse.ArgumentTypeError(f"{key} cannot be passed on: see the options for it")
    with suppress(ValueError):
        value = json.loads(value, parse_constant=int)  # int("NaN") fails: NaN is text
    return key, value


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="completions.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    # fmt: off
    option = parser.add_argument_group("what to run").add_argument
    option("--model", required=True, help="LiteLLM's name of the model, with its provider")
    option("--benchmark", required=True,
           help="a JSONL file (.gz .bz2 .xz .zst too), a dataset of the Hugging Face Hub, or a "
                "folder")
    option("--lang", required=True, help='language to solve in: free text for the prompt, as "C#"')
    option("--output-path", required=True, metavar="FILE",
           help="JSONL file to append to; FILE.run.json beside it says what made it")
    option("--num-samples", type=number(int, 1), default=1, metavar="N",
           help="answers to each problem, one record each (default: %(default)s)")
    option("--limit", type=number(int, 1), metavar="N",
           help="only the first N problems (default: all)")

    option = parser.add_argument_group("where a benchmark differs").add_argument
    option("--config", metavar="NAME", help="configuration of a dataset (default: none)")
    option("--split", default="test", metavar="NAME",
           help="split of a dataset, also a slice such as test[:20] (default: %(default)s)")
    option("--prompt-column", default="prompt", metavar="NAME",
           help="field that holds the prompt (default: %(default)s)")

    option = parser.add_argument_group("how to sample: these change scores").add_argument
    option("--temperature", type=number(float, 0, or_none=True), default=0.2, metavar="T",
           help="a number, at least 0, or none: not sent (default: %(default)s)")
    option("--top-p", type=number(float, 0, 1, or_none=True), default=0.95, metavar="P",
           help="a number within 0 and 1, or none: not sent (default: %(default)s)")
    option("--max-tokens", type=number(int, 1), default=5000, metavar="N",
           help="tokens of one response, reasoning included (default: %(default)s)")
    option("--param", type=key_value, action="append", default=[], metavar="KEY=VALUE",
           help="passed on to litellm, repeatable; VALUE is JSON or else text: api_base, seed, "
                "reasoning_effort, extra_body ...")

    option = parser.add_argument_group("pace and patience").add_argument
    option("--batch-size", type=number(int, 1), default=10, metavar="N",
           help="problems in one batch request (default: %(default)s)")
    option("--concurrent-batches", type=number(int, 1), default=1, metavar="K",
           help="batch requests under way at once; --batch-size 1 with K=64 keeps 64 requests in "
                "flight with no waiting for the slowest of a batch (default: %(default)s)")
    option("--timeout", type=number(float, 0.001, 1e7), default=600, metavar="SECONDS",
           help="for one request (default: %(default)s)")
    option("--max-retries", type=number(int, 0), default=5, metavar="N",
           help="for a request that failed for a passing reason (default: %(default)s)")
    # fmt: on

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
    secrets = Secrets(args.param)
    logging.disable()  # what litellm and datasets log is told by this program, once, or is no news
    warnings.simplefilter("ignore")
    try:
        with on_stop(Interrupted.throw):
            return 1 if main_with_args(**vars(args)) else 0
    except CompletionsError as error:
        notify(f"completions.py: {secrets.mask(str(error))}")
    except Interrupted as stop:
        name = signal.Signals(stop.args[0]).name.replace("SIGINT", "Ctrl-C")
        notify(f"completions.py: stopped by {name}; run the same command again to go on")
        return 128 + stop.args[0]
    except Exception:
        notify(secrets.mask(traceback.format_exc()))
    return 1


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # a usual exit would wait for requests that hang
