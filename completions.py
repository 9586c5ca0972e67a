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
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, redirect_stderr, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from itertools import chain, count, islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from bcb_multipl_util import extract_code_from_markdown


class CompletionsError(Exception):
    """What a user can cause or mend, said in one line."""


def notify(line: str):
    """Tell people something, above the progress bar if there is one."""
    bar = sys.modules.get("tqdm")  # not imported for this: a broken TQDM_... variable prevents it
    (bar.tqdm.write if bar and sys.stderr.isatty() else print)(line, file=sys.stderr)


def one_line(error: object, length: int = 300) -> str:
    """The text of an error, shortened between words: half a key would not be masked."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= length else text[:length].rpartition(" ")[0] + " [...]"


def variables(error: object) -> str:
    """Name the variables of the environment that an error may come from, where there are any."""
    words = {n: rf"(?<!\w){re.escape(v)}(?!\w)" for n, v in os.environ.items() if len(v) > 2}
    held = [n for n, word in words.items() if "_" in n and re.search(word, str(error), re.I)]
    names = held + [n for n in words if n.lower().endswith("_proxy") and n not in held]
    return f" (see {', '.join(names)})" if names else ""


# --- the benchmark -----------------------------------------------------------------------------

# What may be a dataset's name. All else is plainly a path: a typo in it must not go to the Hub.
HUB_NAME = re.compile(
    r"(?i)(?!.*\.(jsonl?|ndjson|txt|[ct]sv|parquet|arrow|zip|gz|bz2|xz|zst)$)\w[\w.-]*(/[\w.-]+)?$"
)
BOM = b"\xef\xbb\xbf"
# How a file begins that is not JSON Lines, and what it then is.
BEGINNINGS = {
    **{b"[": "an ordinary JSON array", b"{": "JSON spread over lines", b"<": "HTML or XML"},
    **{b"PAR1": "a Parquet file", b"ARROW1": "an Arrow file", b"\x1f\x8b": "gzip without .gz"},
    **{b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"": "a table or text"},
}


def load_benchmark(
    benchmark: str, *, config=None, split="test", revision=None, prompt_column="prompt", source=None
) -> list[dict]:
    """Load the problems of a JSONL file or its address, of a folder, or of a dataset of the Hub.

    Each row is what `json.loads` makes of its line, or `to_list()` of the dataset, but for what
    strict JSON lacks: see as_json. Notes the commit of a dataset of the Hub in the dict source.
    Raises CompletionsError, naming line or row and field, for what is no JSON or lacks a prompt.
    """
    path = os.path.expanduser(benchmark)
    folder = os.path.isdir(path) and os.path.abspath(path) != os.sep
    if folder or (HUB_NAME.match(benchmark) and not os.path.exists(path)):
        rows = load_dataset(path, config, split, revision, {} if source is None else source)
    elif config or revision:
        raise CompletionsError(f"--config and --revision are for datasets; {benchmark} is a file")
    else:
        rows = read_jsonl(path)
    if not rows:
        raise CompletionsError(f"{benchmark} is empty: it holds no problem")
    if lost := [name for name in OURS[:2] if any(name in row for row in rows)]:
        notify(f"the benchmark has {' and '.join(lost)}: overwritten in the output")
    return [checked_row(number, row, prompt_column) for number, row in enumerate(rows, 1)]


def read_jsonl(path: str) -> list[dict]:
    """List the objects on a file's lines: json parses them, for pandas alone would change some."""
    import pandas

    text: dict = {"encoding": "utf-8", "encoding_errors": "surrogateescape"}
    try:
        with pandas.read_json(path, lines=True, chunksize=1, **text) as reader:
            content = reader.data.read().encode("utf-8", "surrogateescape").removeprefix(BOM)
    except FileNotFoundError:
        raise CompletionsError(f"no such benchmark file: {path!r}") from None
    except Exception as error:  # each compression and each kind of address has errors of its own
        raise CompletionsError(f"cannot read {path}: {one_line(error)}") from None
    kind = next(kind for start, kind in BEGINNINGS.items() if content.startswith(start))
    repair = f"this looks like {kind}; write one JSON object a line (README, Benchmarks)"
    rows: list[dict] = []
    for n, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            rows.append(parse_object(line, f"{path}:{n}", "mend that line" if rows else repair))
    if len(rows) == 1 and rows[0] and all(isinstance(v, dict | list) for v in rows[0].values()):
        raise CompletionsError(f"{path}: one JSON object over all; write its values, one a line")
    return rows


def parse_object(line: bytes, place: str, repair: str) -> dict:
    """Parse a line that holds one JSON object; raises CompletionsError, naming the place."""
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=lambda _: None)
        problem = "" if isinstance(row, dict) else "not a JSON object"
    except (ValueError, RecursionError) as error:
        problem = f"not valid JSON: {one_line(error).replace('line 1 ', '')}"
    if problem:
        raise CompletionsError(f"{place}: {problem}; {repair}")
    return row


def load_dataset(name: str, config, split: str, revision, source: dict) -> list[dict]:
    """Load a dataset of the Hugging Face Hub, or of a folder; a passing failure is tried again."""
    import datasets

    datasets.disable_progress_bars()
    if os.path.isdir(name):
        name = os.path.abspath(name)
    else:
        source["commit"] = commit_on_hub(name, revision)
        revision = source["commit"] or revision
    for _ in range(2):
        try:
            return datasets.load_dataset(name, config, split=split, revision=revision).to_list()
        except Exception as error:  # its errors share no class
            vague = isinstance(error, datasets.exceptions.DatasetGenerationError)
            why = one_line(error.__cause__ if vague else error, 150)
            if getattr(getattr(error, "response", 0), "status_code", 0) < 500:
                break
    check = "check name (no file here has it), network, --config, --split, HF_TOKEN if private"
    raise CompletionsError(f"cannot load {name!r}: {why}; {check}; else write JSONL")


def commit_on_hub(name: str, revision: str | None) -> str | None:
    """The commit of a dataset's branch or tag; None if the Hub does not say."""
    import datasets
    import huggingface_hub

    try:
        return huggingface_hub.HfApi().dataset_info(name, revision=revision, timeout=10).sha
    except (huggingface_hub.errors.HfHubHTTPError, huggingface_hub.errors.HFValidationError):
        return None  # what is wrong datasets will say
    except Exception:  # out of reach: datasets would try for 23 seconds, its cache serves at once
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
        return None


def checked_row(number: int, row: dict, prompt_column: str) -> dict:
    """The row as JSON can hold it, once it has a prompt that can be sent."""
    prompt = row.get(prompt_column)
    if not isinstance(prompt, str) or not prompt.strip():
        why = f"row {number} has no text in {prompt_column!r}; choose another --prompt-column of"
        raise CompletionsError(f"{why} {one_line(', '.join(row) or 'none', 200)}")
    if re.search("[\ud800-\udfff]", prompt):
        raise CompletionsError(f"row {number}: half a surrogate pair in the prompt; mend the row")
    for name, value in row.items():
        try:
            row[name] = as_json(value)
        except (AttributeError, TypeError, RecursionError) as error:
            raise CompletionsError(f"row {number}, field {name!r}: not JSON: {error}") from None
    return row


def as_json(value: Any) -> Any:
    """A value as strict JSON can hold it: a date or time as ISO 8601 text, NaN as None.

    >>> as_json({"born": datetime(1815, 12, 10), "score": float("nan")})
    {'born': '1815-12-10T00:00:00', 'score': None}
    """
    text = json.dumps(value, default=lambda date: date.isoformat())
    return json.loads(text, parse_constant=lambda _: None)


# --- problems, prompts and batches -------------------------------------------------------------

OURS = ("response", "program", "details")  # the fields of a record that are not the problem's


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


def content_key(row: dict) -> bytes:
    """What a problem is known by: a hash of all its fields but `response`, `program`, `details`."""
    content = {name: row[name] for name in row if name not in OURS}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()


def unanswered(problems: list[dict], keys: list[bytes], answered: Counter, num_samples: int):
    """List the problems that lack answers, all first samples before any second one."""
    wanted, todo = Counter[bytes](), []
    for _ in range(num_samples):
        for problem, key in zip(problems, keys, strict=False):
            wanted[key] += 1
            if wanted[key] > answered[key]:
                todo.append(problem)
    return todo


# --- the output file and what stands beside it -------------------------------------------------


class Output:
    """The JSONL file that a run appends to, locked until it is closed, however that comes."""

    def __init__(self, path: str, benchmark: str):
        import filelock

        self.path = Path(path).expanduser()
        if self.path.resolve() == Path(benchmark).expanduser().resolve():
            raise CompletionsError(f"cannot write to {path}: it is the benchmark")
        if path.endswith(("/", os.sep)) or (self.path.exists() and not self.path.is_file()):
            raise CompletionsError(f"cannot write to {path}: name a regular file")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "a+b", buffering=0)  # noqa: SIM115
        try:
            if not filelock.lock_descriptor(self.file.fileno(), blocking=False):
                raise CompletionsError(f"{path} is in use by another run; wait for it or stop it")
        except OSError:
            notify("this file system has no locks: start no second run on the same output")

    def answered(self, keys: list[bytes]) -> Counter[bytes]:
        """Count the records of each problem; raises CompletionsError at a line that is none."""
        answered = Counter(dict.fromkeys(keys, 0))
        self.size = self.empty = self.without_program = 0  # of the whole records
        with open(self.path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    place = f"{self.path}:{number}"
                    row = record_on(line, place)
                    if row is None:
                        break
                    if (key := content_key(row)) not in answered or "response" not in row:
                        other = "not a record of this benchmark; choose another --output-path"
                        raise CompletionsError(f"{place}: {other}")
                    answered[key] += 1
                    self.empty += not row["response"]
                    self.without_program += row.get("program") is None
                self.size += len(line)
        self.answers = answered.total()
        return answered

    def cut_torn_line(self):
        """Leave the file at whole records only, ready for the next one."""
        if torn := self.file.seek(0, os.SEEK_END) - self.size:
            notify(f"{self.path}: cut off a torn last line of {torn} bytes")
            self.file.truncate(self.size)
        self.file.seek(max(0, self.size - 1))
        if self.file.read(1) not in (b"", b"\n"):
            self.append(b"\n")

    def append(self, lines: bytes):
        """Write whole lines and have the disk keep them; where they do not fit, none of them."""
        rest, end = memoryview(lines), self.file.seek(0, os.SEEK_END)
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
            os.fsync(self.file.fileno())
        except OSError:
            self.file.truncate(end)
            raise


def record_on(line: bytes, place: str) -> dict | None:
    """The record on a line; None for a part of one, or zeros, as a crash leaves at the end."""
    try:
        return parse_object(line.removeprefix(BOM), place, "mend or remove that line")
    except CompletionsError:
        if line.endswith(b"\n") or line.lstrip(b"\0")[:1] not in b"{":
            raise
        return None


SAMPLING = ("model", "temperature", "max_tokens", "top_p")
SETTINGS = (*SAMPLING, "lang", "prompt_column", "param")  # what an answer depends on
TOKENS = ("prompt_tokens", "completion_tokens", "reasoning_tokens")
COUNTS = ("requests", *TOKENS, "truncated", "empty", "without_program")
SUMMARY = """of the answers {truncated} cut off, {empty} empty, {without_program} without a program
{prompt_tokens:,} tokens in, {completion_tokens:,} out ({reasoning_tokens:,} for reasoning)"""
LOG_LINE = 60  # seconds between two lines in a log file
# Where the server is and how it is reached: a run may go on elsewhere with the same answers.
WHEREABOUTS = re.compile(r"(api|aws|azure|vertex)_|base_url$|organization$|(extra_)?headers$")


class Run:
    """What made an output, in `<output-path>.run.json`, and what becomes of it, on stderr."""

    def __init__(self, output: Output, made: dict, wanted: int, missing: int):
        """Go on from the file of earlier runs; raise CompletionsError on other settings."""
        from tqdm import tqdm

        self.path = Path(f"{output.path}.run.json")
        self.content = {"started": utc_now(), **self.earlier(made["settings"], output.answers)}
        self.content |= made
        self.totals = dict.fromkeys(COUNTS, 0) | {"cost": None} | self.content.get("totals", {})
        self.totals |= {"empty": output.empty, "without_program": output.without_program}
        self.totals["requests"] = max(self.totals["requests"], output.answers)  # after a kill
        self.content["answers"] = output.answers
        self.wanted, self.missing = wanted, missing
        self.failures: dict[str, list[Failure]] = {}
        self.began = self.drawn = self.saved = time.monotonic()
        self.stage, self.taken, self.new, self.busy = "loading litellm", 0, 0, 0.0
        look: dict = {"bar_format": "{percentage:3.0f}%|{bar}| {desc}", "dynamic_ncols": True}
        self.bar = tqdm(total=wanted, disable=not sys.stderr.isatty(), **look)

    def earlier(self, settings: dict, answers: int) -> dict:
        """The content of the file of earlier runs, if it is their answers that this one goes on."""
        if not self.path.exists():
            if answers:
                notify(f"resuming {answers} answers made with unknown settings: no {self.path}")
            return {"answers_of_unknown_settings": answers} if answers else {}
        repair = "remove it, and the output resumes with unknown settings"
        content = self.path.read_bytes().replace(b"\n", b" ")
        earlier = parse_object(content, str(self.path), repair)
        try:
            changes = differences(earlier["settings"], settings)
            sum(number or 0 for number in earlier["totals"].values())
        except (LookupError, TypeError, AttributeError):
            raise CompletionsError(f"{self.path} is not as runs write it; {repair}") from None
        if changes and answers:
            begun = f"{self.path.stem.removesuffix('.run')} was begun with {' and '.join(changes)}"
            raise CompletionsError(f"{begun}; choose another --output-path")
        return {} if changes or (earlier.get("answers") and not answers) else earlier

    def save(self, *, finished: bool = False):
        """Replace the file atomically: a reader sees the old or the new one, never a part."""
        self.content |= {"totals": self.totals, "finished": utc_now() if finished else None}
        draft = Path(f"{self.path}.tmp")
        draft.write_text(json.dumps(self.content, indent=2) + "\n", encoding="utf-8")
        draft.replace(self.path)
        self.saved = time.monotonic()

    def count(self, outcomes: list):
        """Add up what came of requests; save it once a second, or later if it cannot be now."""
        for outcome in outcomes:
            if outcome.concerns != ANSWERED:
                self.failures.setdefault(outcome.kind, []).append(outcome)
                continue
            self.missing, self.new = self.missing - 1, self.new + 1
            self.content["answers"] += 1
            self.busy += outcome.seconds
            for name in filter(outcome.counts.get, outcome.counts):
                self.totals[name] = (self.totals.get(name) or 0) + outcome.counts[name]
        if time.monotonic() - self.saved > 1:
            with suppress(OSError):
                self.save()

    def draw(self, *, last: bool = False):
        """Draw the bar, whose clock runs, twice a second; in a log file write a line a minute."""
        terminal, now = sys.stderr.isatty(), time.monotonic()
        if last or now - self.drawn > (0.5 if terminal else LOG_LINE):
            self.drawn, self.bar.n = now, self.wanted - self.missing
            self.bar.set_description_str(self.state())
            if not (terminal or last):
                notify(self.state())

    def close(self):
        """Draw the bar and save the totals for the last time."""
        self.draw(last=True)
        self.bar.close()
        try:
            self.save(finished=not self.missing)
        except OSError as error:
            notify(f"{self.path} is not up to date: {error.strerror}")

    def state(self) -> str:
        """What stands beside the bar, what matters most first: a narrow terminal cuts the end."""
        elapsed, cost = time.monotonic() - self.began, self.totals["cost"]
        failed = sum(map(len, self.failures.values()))
        parts = [f"{self.wanted - self.missing}/{self.wanted} answers", f"{failed} failed"]
        parts += [] if cost is None else [f"${cost:.4f}"]
        left = in_words(self.missing * elapsed / self.new) + " left" if self.new else ""
        parts += [left, f"{60 * self.new / elapsed:.0f}/min"] if left else [in_words(elapsed)]
        return ", ".join([*parts, self.stage or f"{self.taken - self.new - failed} under way"])

    def conclude(self, end: str, options: argparse.Namespace):
        """Print what the run came to and what would mend it; raise CompletionsError if it ended."""
        totals, elapsed = self.totals, time.monotonic() - self.began
        answered = f"{self.wanted - self.missing} of {self.wanted} answered"
        cost = "cost unknown" if totals["cost"] is None else f"${totals['cost']:.4f}"
        if self.new or not end:
            notify(f"{answered} in {in_words(elapsed)}; {SUMMARY.format(**totals)}, {cost}")
        for hint in self.hints(elapsed, options):
            notify(hint)
        for kind, (example, *others) in self.failures.items():
            if example.text not in end:
                notify(f"{1 + len(others)} failed: {kind}: {example.text}; {example.repair}")
        if end:
            raise CompletionsError(f"{end} ({answered})")
        if self.missing:
            again = "run the same command again to retry them"
            notify(f"{self.missing} of {self.wanted} have no answer; {again}")

    def hints(self, elapsed: float, options: argparse.Namespace) -> Iterator[str]:
        """Yield what the next run could do better."""
        cut_off = self.totals["truncated"] / max(1, self.content["answers"])
        if cut_off > 0.01:
            full = 2 * self.totals.get("context_full", 0) > self.totals["truncated"]
            longer = "the model's context is full before that, so serve a longer one"
            repair = longer if full else "raise it, on another output"
            yield f"{cut_off:.1%} cut off at --max-tokens {options.max_tokens}: {repair}"
        if alone := self.totals.get("reasoning_only"):
            yield f"{alone} with reasoning only: see the server's reasoning parser, --max-tokens"
        in_flight = options.batch_size * options.concurrent_batches
        if options.batch_size > 1 and elapsed > 60 and 0 < 2 * self.busy / in_flight < elapsed:
            quick = f"--batch-size 1 --concurrent-batches {in_flight}"
            yield f"{quick} would take about {in_words(self.busy / in_flight)}"


def in_words(seconds: float) -> str:
    """A time as people say it: "40 s", "3 min", "2.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def description(options: argparse.Namespace, source: dict, keys: list[bytes]) -> dict:
    """What the run file says of how an output is made, the same for the same command."""
    sha256 = hashlib.sha256(b"".join(keys)).hexdigest()
    versions = {name: version(name) for name in ("litellm", "datasets")}
    return {
        "settings": {name: getattr(options, name) for name in SETTINGS},
        "benchmark": {**source, "problems": len(keys), "sha256": sha256},
        "versions": {"python": sys.version.split()[0], **versions},
    }


def differences(earlier: dict, later: dict) -> list[str]:
    """Say in words which settings differ, parameters one by one: "temperature 0.2, not 0.8"."""
    old, new = ({**settings, **settings["param"]} for settings in (earlier, later))
    return [
        f"{name} {json.dumps(old.get(name))}, not {json.dumps(new.get(name))}"
        for name in old | new
        if name != "param" and not WHEREABOUTS.match(name) and old.get(name) != new.get(name)
    ]


# --- what nobody may read ----------------------------------------------------------------------

SECRET = re.compile(
    r"(?i)^(?!(max|min|stop)_).*(key|secret|passw|passphrase|credential|cookie|bearer|header"
    r"|auth(?!or\b)|token(?!s|iz)|_(pass|pwd|pat)$)"
)


class Masked:
    """A stream for people that shows no key, and cannot fail: a run needs nobody to read it."""

    def __init__(self, stream: Any, param: dict):
        self.stream = stream
        self.secrets: set[str] = set()  # found by the name they stand under, whatever they are
        self.settings(param)

    def settings(self, value: Any, name: str = "") -> Any:
        """A copy of a JSON value with *** for what is secret by its name, hidden from now on."""
        secret = SECRET.search(name)
        if isinstance(value, list | tuple):
            return [self.settings(inner, name) for inner in value]
        if isinstance(value, dict):
            return {key: self.settings(v, name if secret else key) for key, v in value.items()}
        if secret and value and value is not True:  # a switch is no secret
            self.secrets |= {str(value), *str(value).split()[-1:]}
            return "***"
        if isinstance(value, str):
            self.secrets |= set(re.findall(r"://[^\s?#:]*:([^\s?#]+)@", value))  # a password
            return self.text(value)
        return value

    def text(self, text: str) -> str:
        """The text with *** for keys, and for user, password and query of addresses."""
        text = re.sub(r"(\b\w+://)[^\s?#\"']*@", r"\1***@", text)
        text = re.sub(r"(/[^\s?\"']*\?)[^\s\"']+", r"\1***", text)
        # Now, not when the run began: litellm loads keys from a .env file. One of less than six
        # characters protects nothing, and hidden wherever it stands it would garble the text.
        named = {v for k, v in os.environ.items() if SECRET.search(k) and len(v) > 5}
        for secret in sorted(named | self.secrets, key=len, reverse=True):
            for shape in {secret.strip(), json.dumps(secret)[1:-1]} - {""}:
                bound = r"\b" if len(shape) < 6 else ""
                text = re.sub(bound + re.escape(shape) + bound, "***", text)
        return text

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # full, or closed at the other end
            self.stream.write(self.text(text))
            self.stream.flush()
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def told(param: dict, output_path: str) -> Iterator[Masked]:
    """Hide keys in what people are told, and have whatever ends the block be a CompletionsError."""
    masked = Masked(sys.stderr, param)
    try:
        with redirect_stderr(masked):  # type: ignore[type-var]
            yield masked
    except Exception as error:
        line = str(error)
        if isinstance(error, OSError):
            place, reason = error.filename or output_path, error.strerror or error
            line = f"cannot write to {place}: {reason}; mend that, and run the same command again"
        elif isinstance(error, ModuleNotFoundError):
            line = f"{error}; `uv run completions.py` installs what it needs"
        elif not isinstance(error, CompletionsError):
            file, number, *_ = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__}: {one_line(error)}, {Path(file).name}:{number}"
            line = f"unforeseen: {what}; install or mend what it names{variables(error)}"
        raise CompletionsError(masked.text(line)) from None


# --- failures ----------------------------------------------------------------------------------

RUN, PROBLEM, PASSING, ANSWERED = "the whole run", "one problem", "passing", "answered"
# Words that tell a kind whatever the status: providers agree on no other sign of it.
BLOCKED = (
    r"content.?(policy|filter|management|moderation|safety)|moderat(ion|ed)|flagged|guardrail"
    r"|safety|recitation|block.?list|prohibited.content|spii|refus(al|ed to)|(policy|terms).violat"
    r"|(sensitive|inappropriate|harmful|unsafe|disallowed).{0,30}(content|information|word|text)"
    r"|(in|out)put.{0,10}sensitive|sensitive$|(content|considered).{0,15}risk"
    r"|敏感|违规|不安全|不当内容"
)
MONEY = (
    r"\b(balances?|credits?|billing|recharge|top.?up|payments?|unpaid|invoices?|arrear\w*|overdue"
    r"|funds|pre.?paid|(usage|spend\w*|monthly|hard).(limits?|cap)|good standing)\b"
    r"|(insufficient|current|no).{0,15}quota|quota.{0,15}(used up|not enough)|key limit"
    r"|free.{0,15}(quota|tier).{0,40}(exceeded|exhausted)"
    r"|(over|exceeded|crossed)( \w+)? budget|budget.{0,20}exceeded|cr[ée]dito?s?\b|saldo|\bsolde"
    r"|guthaben|paiement|pagamento|zahlung|баланс|средств|余额|余額|欠费|充值|额度|残高|잔액"
)
# A finish_reason that says that the answer is no whole one.
NO_WHOLE = re.compile(
    r"(?i)error|abort|fail|cancel|interrupt|insufficient|unavailable|overload|network|timeout"
    rf"|malformed|unexpected|{BLOCKED}"
)
COMES_BACK = (
    r"rate.?limit(?!\w*error)|per.?(minute|second|min\b)|\b[rt]pm\b"
    r"|(again|retry|wait)\w* (in|after|for)\b"
)
KEY = (
    r"api.?key|credential|authenti|authoriz|no connected db|(invalid|expired|missing).{0,20}token"
    r"|(organi[sz]ation|account|user|terms).{0,40}(verified|disabled|restricted|suspended|supported"
    r"|acceptance)"
)
# The kinds of failure: the first row that fits "STATUS text", where STATUS is 0 if none came, and
# local if nothing was sent, says what it is, what it concerns, and how to mend it.
# fmt: off
FAILURES = (
    ("timeout", PASSING, r"408|0 ReadTimeout", "raise --timeout, or lower --max-tokens"),
    ("no answer", PASSING, r"409|424|425|498|499|[5-9]", "see the server's log"),
    ("blocked by the provider", PROBLEM, rf"[24](?!29).*({BLOCKED})", "it refuses this content"),
    ("credit used up", RUN, rf"402|[24](?!.*({COMES_BACK})).*({MONEY})",
     "add to the account's balance, credit or quota"),
    ("redirect", RUN, r"3", "give the address that it names: --param api_base=..."),
    ("rate limit", PASSING, r"429.*(cool.?down|no deployments|overload|capacity)",
     "the servers behind that address are down or busy: see its log"),
    ("max_tokens refused", RUN, r"(4|local).*(max.tokens.*(not support|unsupported|instead)"
     r"|(not support|unsupported|unrecogni).*max.tokens)",
     "--max-tokens none --param max_completion_tokens=5000"),
    ("too long", PROBLEM, r"413|429.*request too large|4(00|22).*(too (long|large|many tokens)"
     r"|context.{0,5}(length|window|size)"
     r"|(tokens?|len|length)\b.{0,60}(exceed|limit|max|range|less than|longer than)"
     r"|(exceed|limit|max|range|longer than|up to|at most).{0,60}(tokens?|len|length)\b)",
     "prompt and --max-tokens are too long for this model, at least together: lower --max-tokens"),
    ("rate limit", PASSING, r"429", "ask for fewer at once: --batch-size, --concurrent-batches"),
    ("sampling refused", RUN, r"(4|local).*\b(temperature|top.p)\b",
     "try --temperature none --top-p none (some models want one of the two)"),
    ("parameter refused", RUN, r"(4|local).*(unknown|unsupported|unrecogni|unexpected|extra).{0,30}"
     r"(param|argument|input|field)", "mend or leave it out{param}"),
    ("unknown model", RUN, r"404|405|410|(4|local).*((no such|invalid|unknown|not a valid) model"
     r"|llm provider not|model.{0,60}(not (found|exist|available|valid)|unknown"
     r"|invalid(?! (request|argument|param)))|模型不)",
     "check --model (provider/name) and the address"),
    ("wrong key", RUN, rf"40[137]|(4|local).*({KEY})",
     "check the provider's key (such as OPENAI_API_KEY) and what it may use"),
    ("certificate", RUN, r"0 .*(certificate|wrong version number|record layer)",
     "name its authority's file in SSL_CERT_FILE; or is the address http://, not https://?"),
    ("no connection", PASSING, r"0 (Connect|Proxy)",
     "is the server up, the address right, and http://, not https://, if it wants that?"),
    ("no answer", PASSING, r"[02]", "see the server's log"),
    ("refused", PROBLEM, r"4", "see --model, --max-tokens and --param"),
    ("not sent", RUN, r"local", "mend what it names{param}"),
)
# fmt: on


class NoAnswer(Exception):
    """What came in place of an answer: a status, 0 where there is none, a text, and headers."""

    def __init__(self, status: int, text: str, headers: Any = None):
        # A body of some MB takes long to search. Half a word may be half a key.
        text = text if len(text) < 10_000 else re.sub(r"\S+$", "", text[:10_000])
        super().__init__(readable(text))
        self.status, self.headers = status, headers or {}


class Failure:
    """Why a problem has no answer: `kind` to count it, `text` to read it, `repair` to mend it."""

    line = b""

    def __init__(self, problem: dict, error: Exception, options: argparse.Namespace, came: bool):
        *_, last = chain = list(causes(error))
        sent = next((e for e in chain if isinstance(e, NoAnswer)), None)
        # What litellm raises of its own accord it can only say of an answer, once one came.
        status = sent.status if sent else 200 if came else "local"
        self.problem, self.text = problem, one_line(sent or last).rstrip(".")
        # What a server repeats of the prompt, and an address, may hold telling words too.
        said, prompt = (
            re.sub(r"(\\+[nrt]|[\\'\"_\s])+|\w+://\S+", " ", text)
            for text in (str(sent or last), problem[options.prompt_column].strip())
        )
        signature = f"{status} {said.replace(prompt, '') if len(prompt) > 20 else said}"
        row = next(row for row in FAILURES if re.match(row[2], signature, re.I))
        self.label, self.concerns, _, repair = row
        self.kind = f"{status} {self.label}" if sent and status else self.label
        given = ", ".join(f"{name}={value}" for name, value in options.param.items())
        self.repair = repair.format(param=f" (given: {one_line(given)})" if given else "")
        self.retry_after = retry_after(sent.headers) if sent else 0.0
        if self.label == "no connection" and not (came or options.resumed):
            self.concerns = RUN  # a forgotten server
        elif self.concerns == PASSING and self.retry_after > 3600:
            back = datetime.now() + timedelta(seconds=self.retry_after)
            self.concerns, self.repair = RUN, f"it asks to wait until {back:%Y-%m-%d %H:%M}"

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, the innermost last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def readable(body: str) -> str:
    """The texts in an error's JSON, whatever its form; else the body without its HTML tags."""
    if body.strip()[:1] not in ("{", "["):
        return re.sub(r"<[^<>]*>", " ", body)
    texts = re.findall(r'("(?:[^"\\]|\\.)*")(\s*:)?', body)
    with suppress(ValueError):
        return ", ".join(dict.fromkeys(json.loads(text) for text, key in texts if not key)) or body
    return body


def retry_after(headers: Any) -> float:
    """Seconds that a Retry-After asks to wait, or a proxy's llm_provider-retry-after; else 0."""
    asked = next((v for k, v in headers.items() if k.lower().endswith("retry-after")), "")
    seconds = 0.0
    with suppress(ValueError, OverflowError):
        seconds = parsedate_to_datetime(asked).timestamp() - time.time()
    with suppress(ValueError):
        seconds = float(asked) - (time.time() if float(asked) > 1e9 else 0)
    return min(max(0.0, seconds), 1e9)


def pause(attempt: int, failures: list[Failure]) -> float:
    """Seconds before the next try: about 1, 2, 4 ... 60, or what the server asks for."""
    # Most limits are per minute. Jitter keeps clients from coming back together.
    first = 4 if any(f.label == "rate limit" and not f.retry_after for f in failures) else 1
    backoff = min(60, first * 2 ** (attempt - 1)) * random.uniform(0.75, 1)
    asked = max(failure.retry_after for failure in failures)
    return max(backoff, asked + random.random() / 4 if asked else 0)


# --- asking ------------------------------------------------------------------------------------


class Transport:
    """Carries the requests of litellm, for every provider, and says itself what went wrong.

    litellm's own errors differ by provider; what is raised here stays in the chain of their causes,
    and where nothing of here is in it, nothing was sent. It also keeps connections open, bounds a
    request as a whole, and follows no redirect of a POST, which would lose the prompt.
    """

    def __init__(self, options: argparse.Namespace):
        import httpx
        from litellm.llms.custom_httpx.http_handler import get_ssl_configuration

        security = get_ssl_configuration()
        self.client = lambda: httpx.Client(verify=security)
        # Each is used by one thread at a time: a pool that many share looks at all its connections
        # for each request, and now and then closes one as stale just when another thread took it.
        self.idle = [self.client()]
        self.options, self.answered = options, False

    def handle_request(self, request: Any) -> Any:
        """Send a request and receive the whole answer; raises NoAnswer for what is none."""
        import httpx

        refuse_other_host(str(request.url), self.options)
        request.extensions["timeout"]["connect"] = min(10, self.options.timeout)
        end, body = time.monotonic() + 3 * self.options.timeout, bytearray()
        try:
            client = self.idle.pop()
        except IndexError:
            client = self.client()
        try:
            with closing(client.send(request, stream=True)) as response:
                for piece in response.iter_raw():
                    body += piece
                    if time.monotonic() > end:
                        raise httpx.ReadTimeout("no whole answer in three times --timeout")
            headers = response.headers
            whole = httpx.Response(response.status_code, headers=headers, content=bytes(body))
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError):
            raise  # nothing was sent
        except httpx.RequestError as error:
            *_, cause = causes(error)
            text = f"{type(error).__name__} at {request.url}: {one_line(cause)}"
            raise NoAnswer(0, text + variables(text)) from error
        finally:
            self.idle.append(client)
        if request.method == "POST":
            whole, self.answered = checked(request.url.path, whole), True
        return whole

    def close(self):
        """Stay open: clients of litellm come and go."""


def refuse_other_host(url: str, options: argparse.Namespace):
    """Raise where a server of one's own has no address: litellm then asks OpenAI instead."""
    provider = options.model.partition("/")[0]
    given = {name: str(value) for name, value in {**os.environ, **options.param}.items()}
    openai = [value for name, value in given.items() if "OPENAI" in name and "://" in value]
    own = tuple(v for name, v in given.items() if "OPENAI" not in name and "://" in v)
    other = url.startswith(("https://api.openai.com", *openai)) and not url.startswith(own)
    if other and "/" in options.model and "openai" not in provider.split("-"):
        repair = f"set {provider.upper()}_API_BASE, or --param api_base=ADDRESS"
        raise CompletionsError(f"{provider}/ has no address, all would go to OpenAI: {repair}")


def checked(path: str, response: Any) -> Any:
    """The response, in OpenAI's form with its content as one text; NoAnswer if it is no answer."""
    status, headers, body = response.status_code, response.headers, response.content
    text = body.decode("utf-8", "replace").strip() or "an empty body"
    if status >= 300:
        where = headers.get("location")
        raise NoAnswer(status, f"redirected to {where}" if where else text, headers)
    is_chat = path.endswith("/chat/completions")
    reasons = re.findall(r'(?i)reason"\s*:\s*"(\w+)"', text)  # whatever a provider calls it
    if reason := next(filter(NO_WHOLE.search, reasons), None):
        raise NoAnswer(status, f"finish_reason {reason}", headers)
    try:
        payload = json.loads(body)
        choice = payload["choices"][0] if is_chat else {"message": {}}
        message, error = choice["message"], payload.get("error") or choice.get("error")
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        if isinstance(parts := message.get("content"), list):
            message["content"] = joined(parts, "text")
            reasoning = joined(parts, "thinking") or reasoning
        if isinstance(parts, list) or (reasoning and not message.get("reasoning_content")):
            message["reasoning_content"] = reasoning
            kept = {name: v for name, v in headers.items() if not name.startswith("content-")}
            response = type(response)(status, headers=kept, json=payload)
        content, refusal = message.get("content"), message.get("refusal")
        error = error or (not content and refusal and f"refusal: {refusal}")
        if not error and isinstance(content, str | None):
            return response
        error = error or "content that is no text"
        text = error if isinstance(error, str) else json.dumps(error)
    except ValueError:  # half an answer? The words of a model tell no kind of failure
        text = "broken JSON" if text.startswith(("{", "data:")) else text
    except (LookupError, TypeError, AttributeError, RecursionError):
        pass  # it has another form
    raise NoAnswer(status, text, headers)


def joined(parts: list, kind: str) -> str:
    """The texts of one kind in a message whose content is a list of parts."""
    parts = [{"text": part} if isinstance(part, str) else part for part in parts]
    found = (part.get(kind) for part in parts if isinstance(part, dict))
    return "".join(joined(x, "text") if isinstance(x, list) else x or "" for x in found)


class Answer:
    """A line of the output, and what it adds to the totals."""

    kind = concerns = ANSWERED

    def __init__(self, problem: dict, response: Any, options: argparse.Namespace):
        choice, usage = response.choices[0], getattr(response, "usage", None)
        usage = usage if getattr(usage, "prompt_tokens", 0) else None  # litellm makes up zeros
        of_completion = getattr(usage, "completion_tokens_details", None)
        details = {
            "finish_reason": choice.finish_reason,
            "reasoning": getattr(choice.message, "reasoning_content", None),
            **{name: getattr(usage, name, None) for name in TOKENS[:2]},
            "reasoning_tokens": getattr(of_completion, "reasoning_tokens", None),
            "cost": getattr(response, "_hidden_params", {}).get("response_cost"),
            "seconds": (getattr(response, "_response_ms", None) or 0) / 1000 or None,
        }
        text, self.seconds = choice.message.content or "", details["seconds"] or 0
        program = extract_code_from_markdown(text, options.lang)
        record = {**problem, "response": text, "program": program}
        record |= {"details": details} if options.details else {}
        self.line = json.dumps(record, allow_nan=False).encode() + b"\n"
        cut_off, used = choice.finish_reason == "length", details["completion_tokens"]
        self.counts = {name: details[name] for name in (*TOKENS, "cost")} | {
            "truncated": cut_off,
            "context_full": cut_off and bool(used) and used < (options.max_tokens or 0),
            "reasoning_only": not text and bool(details["reasoning"]),
            "empty": not text,
            "without_program": program is None,
        }


def outcome(problem: dict, response: Any, options: argparse.Namespace, came: bool) -> Any:
    """An Answer or a Failure; came: whether the server ever sent an answer."""
    if not isinstance(response, Exception) and response.choices:
        return Answer(problem, response, options)
    error = response if isinstance(response, Exception) else NoAnswer(200, "no choices")
    return Failure(problem, error, options, came)


def connect(options: argparse.Namespace):
    """Import litellm over our Transport, with no word of its own and no request for prices."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LOGGING_EXECUTOR_MAX_PENDING_TASKS", "0")  # a tenth of its CPU time
    logging.getLogger("LiteLLM").disabled = True
    gc.disable()  # 0.3 to 0.7 s of the import would go into looking for garbage
    try:
        import httpx
        import litellm

        gc.freeze()  # what was imported stays, and need not be looked at again
    finally:
        gc.enable()
    litellm.suppress_debug_info = True
    litellm.in_memory_llm_clients_cache.flush_cache()  # clients of an earlier run
    litellm.sync_transport = Transport(options)
    litellm.client_session = httpx.Client(transport=litellm.sync_transport)


class Requests:
    """Batches under way, each in a thread that has its answers on disk before it takes the next."""

    def __init__(self, output: Output, run: Run, options: argparse.Namespace):
        self.output, self.run, self.options = output, run, options
        self.arrived: SimpleQueue = SimpleQueue()
        self.taking, self.keeping = threading.Lock(), threading.Lock()  # batches, answers
        self.ended, self.end = threading.Event(), ""
        self.first: list = []  # what came of the first batches, ten requests
        self.in_a_row = self.next_notice = 0.0

    def perform(self, batches: Iterator[list[dict]]):
        """Ask for all batches until done or ended; keep what has arrived, whatever ends it."""
        concurrency = self.options.concurrent_batches
        pool = ThreadPoolExecutor(concurrency)
        try:
            self.wait_for({pool.submit(connect, self.options)})
            self.run.stage = ""
            self.wait_for({pool.submit(self.work_off, batches) for _ in range(concurrency)})
        except BaseException:
            self.ended.set()
            self.keep([])
            with self.keeping:
                self.output.file.close()  # what comes now comes too late
            raise

    def wait_for(self, jobs: set):
        """Draw the bar until all jobs are done; raise what one raised, and KeyboardInterrupt."""
        while jobs:
            done, jobs = wait(jobs, timeout=0.1, return_when=FIRST_EXCEPTION)
            for job in done:
                job.result()
            self.run.draw()
            if self.options.stop and self.options.stop.is_set():
                raise KeyboardInterrupt

    def work_off(self, batches: Iterator[list[dict]]):
        """Take one batch after another until none is left."""
        while not self.ended.is_set():
            with self.taking:
                batch, first = next(batches, []), self.run.taken < 10
                self.run.taken += len(batch)
            if not batch:
                return
            self.work(batch, first)

    def work(self, batch: list[dict], first: bool):
        """Ask for a batch, and after a pause again for what failed for a passing reason."""
        for attempt in count(1):
            outcomes = self.ask(batch)
            last = attempt > self.options.max_retries
            again = [o for o in outcomes if o.concerns == PASSING and not last]
            self.keep([o for o in outcomes if o not in again], first)
            delay = pause(attempt, again) if again else 0
            if delay >= 5 and time.monotonic() > self.next_notice:
                self.next_notice = time.monotonic() + 30
                notify(f"waiting {delay:.0f} s before try {attempt + 1}: {again[0]}")
            if not again or self.ended.wait(delay):
                return
            batch = [outcome.problem for outcome in again]

    def ask(self, batch: list[dict]) -> list:
        """Make one batch request; return what came of each problem."""
        import litellm

        o = self.options
        request = {name: getattr(o, name) for name in (*SAMPLING, "timeout")}
        messages = [make_prompt(problem, o.lang, o.prompt_column) for problem in batch]
        request |= {"messages": messages, "max_workers": len(batch), "max_retries": 0, **o.param}
        with self.taking:
            self.run.totals["requests"] += len(batch)
        try:
            responses = litellm.batch_completion(**request)
        except Exception as error:  # vllm/ raises instead of returning exceptions
            responses = [error] * len(batch)
        came = litellm.sync_transport.answered
        return [outcome(p, r, o, came) for p, r in zip(batch, responses, strict=True)]

    def keep(self, outcomes: list, first: bool = False):
        """Have outcomes kept, with all that arrived meanwhile: one fsync serves many threads."""
        self.arrived.put(outcomes)
        with self.keeping:
            if self.output.file.closed:
                return
            arrived = [o for _ in range(self.arrived.qsize()) for o in self.arrived.get()]
            self.output.append(b"".join(outcome.line for outcome in arrived))
            self.run.count(arrived)
            for outcome in arrived:
                self.judge(outcome)
            self.first += outcomes if first else []
            alike = len({outcome.kind for outcome in self.first}) == 1
            if alike and len(self.first) >= 10 and not self.run.content["answers"]:
                self.finish(self.first[0], "all requests fail alike: ")

    def judge(self, outcome: Any):
        """End the run at a failure that concerns all of it, or when the server is gone."""
        if outcome.concerns == ANSWERED:
            self.in_a_row = 0
        elif outcome.concerns == RUN:
            self.finish(outcome)
        elif outcome.concerns == PASSING:
            self.in_a_row += 1
            if self.in_a_row >= 10:
                self.finish(outcome, "ten requests in a row, each tried again, got no answer: ")

    def finish(self, failure: Any, why: str = ""):
        self.end = self.end or f"{why}{failure}; {failure.repair}"
        self.ended.set()


def fit_open_files(o: argparse.Namespace):
    """Allow as many open files as can be, and have no more under way than these suffice for."""
    with suppress(ImportError):  # Windows
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = max(soft, min(hard % 2**63, 10_240))  # all that macOS gives, says "unlimited"
        with suppress(ValueError, OSError):  # it cannot be raised
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0] % 2**63
        allowed = max(1, (files - 64) // 4)  # a connection, and an event loop of litellm
        if o.batch_size * o.concurrent_batches > allowed:
            o.batch_size = min(o.batch_size, allowed)
            o.concurrent_batches = allowed // o.batch_size
            allow = f"--batch-size {o.batch_size} --concurrent-batches {o.concurrent_batches}"
            notify(f"{files} open files (ulimit -n) allow {allow}, no more")


# --- the program -------------------------------------------------------------------------------


def main_with_args(
    *, model, benchmark, temperature, max_tokens, top_p, batch_size, lang, output_path, **others
) -> int:
    """Ask for every answer that the output lacks, append each, return how many are still missing.

    The parameters are the options of the command line, with their types and defaults, param as a
    dict; None for temperature, top_p or max_tokens sends none. Raises CompletionsError where the
    run cannot begin or go on, and KeyboardInterrupt on Ctrl-C or when another thread sets stop, an
    Event; every answer that came is on disk then.
    """
    given = locals()
    o = checked_options(**given.pop("others"), **given)
    with told(o.param, o.output_path) as masked:
        where = {name: getattr(o, name) for name in ("config", "split", "revision")}
        source = {"name": o.benchmark, **where}
        problems = load_benchmark(
            o.benchmark, **where, prompt_column=o.prompt_column, source=source
        )
        keys = [content_key(problem) for problem in problems]
        output = Output(o.output_path, o.benchmark)
        with output.file:
            todo = unanswered(problems[: o.limit], keys, output.answered(keys), o.num_samples)
            o.resumed = output.answers > 0
            made = masked.settings(description(o, source, keys))
            run = Run(output, made, len(problems[: o.limit]) * o.num_samples, len(todo))
            output.cut_torn_line()
            requests = Requests(output, run, o)
            with closing(run):
                run.save()
                if todo:
                    fit_open_files(o)
                    requests.perform(batches(todo, o.batch_size, progress=False))
        run.conclude(requests.end, o)
        return run.missing


# --- the command line --------------------------------------------------------------------------

USAGE = """completions.py --model MODEL --benchmark BENCHMARK --lang LANG \\
           --output-path FILE [option ...]"""
EXIT_CODES = """\
The key of an API comes from the environment, such as OPENAI_API_KEY.
Exit codes: 0 every problem answered, 1 some unanswered or the run could not go
on, 2 usage, 130 Ctrl-C, 143 SIGTERM."""


def number(kind: Callable, least: float, most: float, *, none: bool = False) -> Callable:
    """Make a parser of an option: an int or a float within two bounds."""

    def parse(value: object) -> Any:
        if none and str(value).lower() == "none":
            return None
        with suppress(ValueError):
            if least <= kind(str(value)) <= most:
                return kind(str(value))
        raise ValueError(f"not a {'whole ' * (kind is int)}number within {least} and {most:,}")

    return parse


def key_value(text: str) -> tuple[str, object]:
    """Split KEY=VALUE; the value is JSON where it parses as JSON, else text."""
    key, equals, value = text.partition("=")
    if not (equals and key.isidentifier()):
        raise argparse.ArgumentTypeError("it is not of the form KEY=VALUE")
    with suppress(ValueError, RecursionError):
        return key, json.loads(value, parse_constant=int)  # int("NaN") fails: NaN is text
    return key, value


RESERVED = {"model", "messages", "temperature", "max_tokens", "top_p", "timeout", "n", "stream"}
RESERVED |= {"request_timeout", "max_retries", "num_retries", "max_workers"}
TEXT, COUNT = os.fspath, number(int, 1, 10_000)
# fmt: off
OPTIONS = {  # of each group: name, metavar, default, parser, help
    "what to run": (
        ("model", "NAME", ..., TEXT, "LiteLLM's name of the model, with its provider"),
        ("benchmark", "NAME", ..., TEXT, "a JSONL file (or .gz .bz2 .xz .zst .zip), its address, a "
         "folder, or a dataset of the Hugging Face Hub"),
        ("lang", "NAME", ..., TEXT, 'language to solve in: free text, as "C#"'),
        ("output_path", "FILE", ..., TEXT, "JSONL file to append to, with FILE.run.json beside it"),
        ("num_samples", "N", 1, COUNT, "answers to each problem, one record each"),
        ("limit", "N", None, number(int, 1, 10**9), "only the first N problems (default: all)"),
    ),
    "where a benchmark differs": (
        ("config", "NAME", None, TEXT, "configuration of a dataset (default: none)"),
        ("split", "NAME", "test", TEXT, "split of a dataset, also test[:20]"),
        ("revision", "NAME", None, TEXT, "branch, tag or commit of a dataset (default: newest)"),
        ("prompt_column", "NAME", "prompt", TEXT, "field that holds the prompt"),
    ),
    "how to sample: these change scores": (
        ("temperature", "T", 0.2, number(float, 0, 100, none=True), "a number, or none: not sent"),
        ("top_p", "P", 0.95, number(float, 0, 1, none=True), "within 0 and 1, or none: not sent"),
        ("max_tokens", "N", 5000, number(int, 1, 10**8, none=True),
         "of one response, with its reasoning; or none: not sent"),
    ),
    "pace and patience": (
        ("batch_size", "N", 10, COUNT, "problems in one batch request"),
        ("concurrent_batches", "K", 1, COUNT, "batch requests under way at once; with "
         "--batch-size 1 so many requests are always in flight"),
        ("timeout", "SECONDS", 600, number(float, 0.001, 10**6),
         "of silence; a request gets 3 times that"),
        ("max_retries", "N", 5, number(int, 0, 100), "after a passing failure"),
    ),
}
# fmt: on


def checked_options(**given: Any) -> argparse.Namespace:
    """The options of a run; raises CompletionsError for what none can have, alone or together."""
    o, name = argparse.Namespace(**{"details": False, "stop": None, **given}), "param"
    try:
        o.param = dict(given.get(name) or {})
        for key, value in o.param.items():
            name = f"param {key}"
            json.dumps(value, allow_nan=False)
        for name, _, default, parse, _ in chain(*OPTIONS.values()):
            value = given.pop(name, default)
            setattr(o, name, value if value is default else parse(value))
    except (TypeError, ValueError) as error:
        raise CompletionsError(f"--{name.replace('_', '-')}: {error}") from None
    if unknown := given.keys() - {"param", "details", "stop"}:
        raise CompletionsError(f"there is no option {min(unknown)}")
    if reserved := RESERVED & o.param.keys():
        raise CompletionsError(f"--param {min(reserved)} cannot be passed on: see the options")
    if o.prompt_column in OURS:
        raise CompletionsError(f"--prompt-column cannot be {o.prompt_column}: it is written")
    if o.num_samples > 1 and "seed" in o.param:
        raise CompletionsError("with seed all samples of a problem are the same: leave it out")
    if o.model.startswith(("vllm/", "aiohttp_openai/")) and o.concurrent_batches > 1:
        raise CompletionsError("vllm/ takes no --concurrent-batches: see hosted_vllm/ in README")
    return o


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line; as argparse does, exit with 2 at what is wrong."""
    look: dict = {"formatter_class": argparse.RawDescriptionHelpFormatter, "add_help": False}
    look |= {"prog": "completions.py", "usage": USAGE, "epilog": EXIT_CODES}
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, **look)
    for group, options in OPTIONS.items():
        add = parser.add_argument_group(group).add_argument
        for name, metavar, default, _, text in options:
            text += "" if default in (..., None) else " (default: %(default)s)"
            wanted = {"required": True} if default is ... else {"default": default}
            add("--" + name.replace("_", "-"), metavar=metavar, help=text, **wanted)
    many: dict = {"type": key_value, "action": "append", "default": [], "metavar": "KEY=VALUE"}
    passed_on = "passed on to litellm, repeatable; VALUE is JSON or else text: api_base, seed ..."
    more = "each record also gets details: finish_reason, reasoning, tokens, cost, seconds"
    add("--param", help=passed_on, **many)
    add("--details", action="store_true", help=more)
    add("-h", "--help", action="help", help="show this text")
    args, unknown = parser.parse_known_args(argv)
    if unknown:  # which may hold a key
        parser.error(f"unrecognized argument: {unknown[0].partition('=')[0]}")
    try:
        return checked_options(**vars(args))
    except CompletionsError as error:
        parser.error(str(error))


def main(argv: list[str] | None = None) -> int:
    """Run the command line, in a thread: a signal can hit nothing but the wait for it here."""
    logging.disable()  # what litellm and datasets log is told by this program, once, or is no news
    warnings.simplefilter("ignore")
    signals: list[int] = []
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda signum, _: signals.append(signum))
    stderr: Any = Masked(sys.stderr or open(os.devnull, "w"), {})  # noqa: SIM115
    with redirect_stderr(stderr):
        args = parse_args(argv)
        args.stop = threading.Event()
        running = ThreadPoolExecutor(1).submit(main_with_args, **vars(args))
        while not (running.done() or signals):
            wait([running], timeout=0.1)
        if signals:
            args.stop.set()  # has what arrived written, which takes no time
            wait([running], timeout=1)
            name = signal.Signals(signals[0]).name.replace("SIGINT", "Ctrl-C")
            notify(f"completions.py: stopped by {name}; run the same command again to go on")
            return 128 + signals[0]
        if error := running.exception():
            notify(f"completions.py: {error}")
            return 1
        return 1 if running.result() else 0


if __name__ == "__main__":
    os._exit(main())  # a usual exit would wait for requests that hang
