# /// script
# requires-python = ">=3.10"
# dependencies = [
#     "litellm >= 1.100, < 2",
#     "pandas >= 3.0, < 4; python_version >= '3.11'",
#     "pandas >= 2.3, < 3; python_version < '3.11'",
#     "datasets >= 4.4, < 6",
#     "tqdm >= 4.66, < 5",
#     "zstandard >= 0.23, < 1",
#     "filelock >= 3.30, < 5",
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
import platform
import random
import re
import signal
import sys
import textwrap
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, redirect_stderr, suppress
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from itertools import chain, count, islice, pairwise
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
    text = " ".join(str(error).split())[: 2 * length]
    return textwrap.shorten(text, length) or type(error).__name__


def variables(error: object) -> str:
    """Name the variables of the environment that an error may come from, where there are any."""
    values = {n: v.lower() for n, v in os.environ.items() if "_" in n and len(v) > 2}
    names = [
        n for n, v in values.items() if n.lower().endswith("_proxy") or v in str(error).lower()
    ]
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
    benchmark: str,
    *,
    config: str | None = None,
    split: str = "test",
    revision: str | None = None,
    prompt_column: str = "prompt",
    source: dict | None = None,
) -> list[dict]:
    """Load the problems of a JSONL file or its address, of a folder, or of a dataset of the Hub.

    Each row is what `json.loads` makes of its line, or `to_list()` of the dataset, but for what
    strict JSON lacks: see as_json. Notes the commit of a dataset of the Hub in source. Raises
    CompletionsError, naming line or row and field, for what is no JSON or lacks a prompt.
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
    """List the objects on the lines of a file: pandas reads it, json says what stands on a line.

    The parser of pandas changes integers beyond 64 bits and lets some broken lines pass.
    """
    import pandas

    text: dict = {"encoding": "utf-8", "encoding_errors": "surrogateescape"}
    try:
        if "://" not in path:
            os.stat(path)  # pandas before 3.0 takes a path where nothing is for JSON itself
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
        if isinstance(row, dict):
            return row
        problem = "not a JSON object"
    except UnicodeDecodeError:
        problem = "not valid UTF-8"
    except (ValueError, RecursionError) as error:
        problem = f"not valid JSON: {one_line(error).replace('line 1 ', '')}"
    raise CompletionsError(f"{place}: {problem}; {repair}")


def load_dataset(
    name: str, config: str | None, split: str, revision: str | None, source: dict
) -> list[dict]:
    """Load a dataset of the Hugging Face Hub, or of a folder; a passing failure is tried again."""
    import datasets

    datasets.disable_progress_bars()
    if os.path.isdir(name):
        name = os.path.abspath(name)
    else:
        source["commit"] = revision = commit_on_hub(name, revision) or revision
    for _ in range(2):
        try:
            return datasets.load_dataset(name, config, split=split, revision=revision).to_list()
        except Exception as error:  # its errors share no class
            vague = isinstance(error, datasets.exceptions.DatasetGenerationError)
            why = one_line(error.__cause__ if vague else error, 150)
            if getattr(getattr(error, "response", 0), "status_code", 0) < 500:
                break
    raise CompletionsError(
        f"cannot load {name!r}: {why}; check name (no file here has it), network, --config, "
        "--split, and HF_TOKEN if it is private; what datasets cannot load, write as JSONL"
    )


def commit_on_hub(name: str, revision: str | None) -> str | None:
    """The commit of a dataset's branch or tag; None if the Hub does not say."""
    import datasets
    import huggingface_hub

    try:
        return huggingface_hub.HfApi().dataset_info(name, revision=revision, timeout=10).sha
    except huggingface_hub.errors.HfHubHTTPError:
        return None  # what is wrong datasets will say
    except Exception:  # out of reach: datasets would try for 23 seconds, its cache serves at once
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
        return None


def checked_row(number: int, row: dict, prompt_column: str) -> dict:
    """The row as JSON can hold it, once it has a prompt that can be sent."""
    prompt = row.get(prompt_column)
    if not isinstance(prompt, str) or not prompt.strip():
        raise CompletionsError(
            f"row {number} has no text in the column {prompt_column!r}; name another with "
            f"--prompt-column (columns: {one_line(', '.join(row) or 'none', 200)})"
        )
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
    """The JSONL file that a run appends to, locked until it is closed, however that comes."""

    def __init__(self, path: str | Path, benchmark: str):
        import filelock

        self.path = Path(path).expanduser()
        if self.path.resolve() == Path(benchmark).expanduser().resolve():
            raise CompletionsError(f"cannot write to {path}: it is the benchmark")
        if str(path).endswith(("/", os.sep)) or (self.path.exists() and not self.path.is_file()):
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
                if is_torn(line):
                    break
                self.size += len(line)
                if not line.strip():
                    continue
                place = f"{self.path}:{number}"
                record = parse_object(line.removeprefix(BOM), place, "mend or remove that line")
                if (key := content_key(record)) not in answered or "response" not in record:
                    other = "not a record of this benchmark; choose another --output-path"
                    raise CompletionsError(f"{place}: {other}")
                answered[key] += 1
                self.empty += not record["response"]
                self.without_program += record.get("program") is None
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


def is_torn(line: bytes) -> bool:
    """Whether a line is part of a record, or zeros, as a crash or a full disk leaves at the end."""
    try:
        whole = line.endswith(b"\n") or line.lstrip(b"\0")[:1] not in b"{"
        return not whole and json.loads(line) is None
    except ValueError:
        return True


SAMPLING = ("model", "temperature", "max_tokens", "top_p")
SETTINGS = (*SAMPLING, "lang", "prompt_column", "param")  # what an answer depends on
TOKENS = ("prompt_tokens", "completion_tokens", "reasoning_tokens")
COUNTS = ("requests", *TOKENS, "truncated", "empty", "without_program")
LOG_LINE = 60  # seconds between two lines in a log file
# Where the server is and how it is reached: a run may go on elsewhere with the same answers.
WHEREABOUTS = re.compile(r"(api|aws|azure|vertex)_|base_url$|organization$|(extra_)?headers$")


class Run:
    """What made an output, in `<output-path>.run.json`, and what becomes of it, on stderr."""

    def __init__(self, output: Output, made: dict, wanted: int, missing: int):
        """Go on from the file of earlier runs; raise CompletionsError on other settings."""
        from tqdm import tqdm

        self.path = Path(f"{output.path}.run.json")
        earlier = self.earlier(made["settings"], output.answers)
        self.totals: dict[str, Any] = dict.fromkeys(COUNTS, 0) | {"cost": None}
        self.totals |= earlier.get("totals", {})
        # A kill leaves totals up to a second old; what the output shows was asked as well.
        self.totals["requests"] += max(0, output.answers - earlier.get("answers", output.answers))
        self.totals |= {"empty": output.empty, "without_program": output.without_program}
        self.content: dict[str, Any] = {"started": utc_now(), **earlier, **made}
        self.content["answers"] = output.answers
        self.failures: dict[str, list[Failure]] = {}
        self.lock = threading.Lock()
        self.wanted, self.missing, self.new, self.under_way = wanted, missing, 0, 0
        self.began = self.drawn = self.saved = time.monotonic()
        self.stage, self.busy = "loading litellm", 0.0  # busy: seconds that all requests took
        look: dict = {"bar_format": "{percentage:3.0f}%|{bar}| {desc}", "dynamic_ncols": True}
        self.bar = tqdm(total=wanted, disable=not sys.stderr.isatty(), **look)

    def earlier(self, settings: dict, answers: int) -> dict:
        """The content of the file that earlier runs left, if this one goes on from it.

        With no answer there is nothing that other settings could spoil, and the file begins anew;
        so it does where the output was removed.
        """
        if not self.path.exists():
            if answers:
                notify(f"resuming {answers} answers made with unknown settings: no {self.path}")
            return {"answers_of_unknown_settings": answers} if answers else {}
        repair = "remove it, and the output resumes with unknown settings"
        content = self.path.read_bytes().replace(b"\n", b" ")
        earlier = parse_object(content, str(self.path), repair)
        try:
            changes = differences(earlier["settings"], settings)
            numbers = [earlier["totals"][name] for name in COUNTS] + [earlier.get("answers", 0)]
            sum(numbers) + sum(number or 0 for number in earlier["totals"].values())
        except (LookupError, TypeError, AttributeError):
            raise CompletionsError(f"{self.path} is not as runs write it; {repair}") from None
        if changes and answers:
            begun = f"{self.path.stem.removesuffix('.run')} was begun with {' and '.join(changes)}"
            raise CompletionsError(f"{begun}; choose another --output-path")
        return {} if changes or (not answers and earlier.get("answers")) else earlier

    def save(self, *, last: bool = False):
        """Replace the file atomically: a reader sees the old or the new one, never a part.

        A request under way counts at the last only: else, after a kill, its answer counts it.
        """
        with self.lock:
            requests = self.totals["requests"] - (0 if last else self.under_way)
        self.content["totals"] = self.totals | {"requests": requests}
        self.content["finished"] = utc_now() if last and not self.missing else None
        draft = Path(f"{self.path}.tmp")
        with open(draft, "w", encoding="utf-8") as file:
            file.write(json.dumps(self.content, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
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
            self.save(last=True)
        except OSError as error:
            notify(f"{self.path} is not up to date: {error.strerror}")

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Count a request, as under way while the block lasts."""
        with self.lock:
            self.totals["requests"] += 1
            self.under_way += 1
        try:
            yield
        finally:
            with self.lock:
                self.under_way -= 1

    def state(self) -> str:
        """What stands beside the bar, what matters most first: a narrow terminal cuts the end."""
        elapsed, cost = time.monotonic() - self.began, self.totals["cost"]
        failed = sum(map(len, self.failures.values()))
        parts = [f"{self.wanted - self.missing}/{self.wanted} answers", f"{failed} failed"]
        parts += [] if cost is None else [f"${cost:.4f}"]
        left = in_words(self.missing * elapsed / self.new) + " left" if self.new else ""
        parts += [left, f"{60 * self.new / elapsed:.0f}/min"] if left else [in_words(elapsed)]
        return ", ".join([*parts, self.stage or f"{self.under_way} under way"])

    def conclude(self, end: str, options: argparse.Namespace):
        """Print what the run came to and what would mend it; raise CompletionsError if it ended."""
        totals, elapsed = self.totals, time.monotonic() - self.began
        answered = f"{self.wanted - self.missing} of {self.wanted} answered"
        unknown = self.content.get("answers_of_unknown_settings")
        cut_off = f"{totals['truncated']} cut off" + (f" ({unknown} unknown)" if unknown else "")
        cost = "cost unknown" if totals["cost"] is None else f"${totals['cost']:.4f}"
        if self.new or not end:
            notify(
                f"{answered} in {in_words(elapsed)}; of the answers {cut_off}, "
                f"{totals['empty']} empty, {totals['without_program']} without a program\n"
                f"{totals['prompt_tokens']:,} tokens in, {totals['completion_tokens']:,} out "
                f"({totals['reasoning_tokens']:,} for reasoning), {cost}"
            )
        for line in self.hints(elapsed, options):
            notify(line)
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
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def description(options: argparse.Namespace, source: dict, keys: list[bytes]) -> dict:
    """What the run file says of how an output is made, the same for the same command."""
    sha256 = hashlib.sha256(b"".join(keys)).hexdigest()
    versions = {name: version(name) for name in ("litellm", "datasets")}
    return {
        "settings": {name: getattr(options, name) for name in SETTINGS},
        "benchmark": {"name": options.benchmark, **source, "problems": len(keys), "sha256": sha256},
        "versions": {"python": platform.python_version(), **versions},
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

    def __init__(self, stream: Any, named: Any):
        self.stream = stream
        self.secrets: set[str] = set()  # found by the name they stand under, whatever they are
        self.settings(named)

    def settings(self, value: Any, name: str = "") -> Any:
        """A copy of a JSON value with *** for secrets, all headers among them, and in addresses.

        What stood there is hidden in every text from now on.
        """
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
            for shape in filter(None, {secret.strip(), json.dumps(secret)[1:-1]}):
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
def told(secret: Any, output_path: str | Path = "") -> Iterator[Masked]:
    """Hide keys in what people are told, and have whatever ends the block be a CompletionsError."""
    masked = Masked(sys.stderr, secret)
    try:
        with redirect_stderr(masked):  # type: ignore[type-var]
            yield masked
        return
    except CompletionsError as error:
        line = str(error)
    except ModuleNotFoundError as error:
        line = f"{error}; `uv run completions.py` installs what it needs"
    except OSError as error:
        place, reason = error.filename or output_path, error.strerror or error
        line = f"cannot write to {place}: {reason}; mend that, and run the same command again"
    except Exception as error:
        file, number, *_ = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {one_line(error)}, {Path(file).name}:{number}"
        named = variables(error)
        repair = f"; install what it names, or mend or unset the variable{named}" if named else ""
        line = f"unforeseen: {what}{repair}"
    raise CompletionsError(masked.text(line))


# --- failures ----------------------------------------------------------------------------------

RUN, PROBLEM, PASSING, ANSWERED = "the whole run", "one problem", "passing", "answered"
# Words that tell a kind whatever the status: providers agree on no other sign of it.
BLOCKED = (
    r"content.?(policy|filter|management|moderation|safety)|moderat(ion|ed)|flagged|guardrail"
    r"|safety|recitation|block.?list|prohibited.content|spii|refus(al|ed to)|(policy|terms).violat"
    r"|(sensitive|inappropriate|harmful|unsafe|disallowed).{0,30}(content|information|word|text)"
    r"|(in|out)put.{0,10}sensitive|(content|considered).{0,15}risk|敏感|违规|不安全|不当内容"
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
    ("unread", RUN, r"200 content in parts",
     "change that at the server, or take a provider prefix that reads them"),
    ("redirect", RUN, r"3", "give the address that it names: --param api_base=..."),
    ("rate limit", PASSING, r"429.*(cool.?down|no deployments|overload|capacity)",
     "the servers behind that address are down or busy: see its log"),
    ("max_tokens refused", RUN, r"(4|local).*max.tokens.*(not support|unsupported|instead)"
     r"|(4|local).*(not support|unsupported|unrecogni).*max.tokens",
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
        self.problem, self.text = problem, re.sub(r"(?<!\.)\.$", "", one_line(sent or last))
        text = without_echo(str(sent or last), problem[options.prompt_column])
        # An address may hold telling words too.
        signature = re.sub(r"\w+://\S+|[_\s]+", " ", f"{status} {text}")
        row = next(row for row in FAILURES if re.match(row[2], signature, re.I))
        self.label, self.concerns, _, repair = row
        self.kind = f"{status} {self.label}" if sent and status else self.label
        given = ", ".join(f"{name}={value}" for name, value in options.param.items())
        self.repair = repair.format(param=f" (given: {one_line(given)})" if given else "")
        self.retry_after = retry_after(sent.headers, text) if sent else 0.0
        if self.concerns == PASSING and self.retry_after > 3600:
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
        found = dict.fromkeys(json.loads(text) for text, is_key in texts if not is_key)
        return ", ".join(filter(None, found)) or body
    return body


def without_echo(text: str, prompt: str) -> str:
    """The text without what it repeats of the prompt, runs of seven words: they may mean money."""
    word = re.compile(r"(?i)[a-z\d]+|[^\W_]")  # each character where words are not spaced
    text, prompt = (re.sub(r"\\+[nrt]", " ", t.lower()) for t in (text, prompt))
    said, sent = (word.findall(t) for t in (text, prompt))
    runs = set(zip(*(sent[n:] for n in range(7)), strict=False))
    echoed: set[int] = set()
    for n, run in enumerate(zip(*(said[n:] for n in range(7)), strict=False)):
        echoed.update(range(n, n + 7) if run in runs else ())
    numbers = count()
    return word.sub(lambda found: "" if next(numbers) in echoed else found[0], text)


UNITS = {"ms": 0.001, "milli": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}
TIME = (
    r"(\d+(?:\.\d+)?) ?(ms|milli|s|m|h|d)"
    r"(?:seconds?|econds?|ecs?|inutes?|ins?|ours?|rs?|ays?)?(?![a-z])"
)
AFTER = re.compile(rf"(?:again|retry|wait)\w*\D{{1,20}}?((?:{TIME}[ ,]*(?:and )?)+)")


def retry_after(headers: Any, text: str) -> float:
    """Seconds that the server asks to wait, in a header or in words, a number or a date; else 0.

    A LiteLLM proxy passes the header on as llm_provider-retry-after.
    """
    asked = next((v for k, v in headers.items() if k.lower().endswith("retry-after")), "")
    said = AFTER.search(f"retry after {asked}" if asked else text.lower())
    seconds = sum(float(n) * UNITS[unit] for n, unit in re.findall(TIME, said[1])) if said else 0.0
    with suppress(ValueError, OverflowError):
        seconds = parsedate_to_datetime(asked).timestamp() - time.time()
    with suppress(ValueError):
        seconds = float(asked) - (time.time() if float(asked) > 1e9 else 0)
    return min(max(0.0, seconds), 1e9)


def pause(attempt: int, failures: list[Failure]) -> float:
    """Seconds before the next try: about 1, 2, 4 ... 60, or what the server asks for.

    After a 429 that names no time four times as long, for most limits are per minute. Jitter keeps
    clients that failed together from coming back together.
    """
    first = 4 if any(f.label == "rate limit" and not f.retry_after for f in failures) else 1
    backoff = min(60, first * 2 ** (attempt - 1)) * random.uniform(0.75, 1)
    asked = max(failure.retry_after for failure in failures)
    return max(backoff, asked + random.random() / 4 if asked else 0)


# --- asking ------------------------------------------------------------------------------------


class Transport:
    """Carries the requests of litellm, for every provider, and says itself what went wrong.

    litellm's own classes and statuses differ by provider; what is raised here stays in the chain of
    causes of what it raises, and where nothing of here is in that chain, nothing was sent. As the
    httpx transport of all its clients it also keeps connections open, bounds a request as a whole,
    and follows no redirect of a POST, which would lose the prompt.
    """

    def __init__(self, run: Run, options: argparse.Namespace):
        import httpx
        from litellm.llms.custom_httpx.http_handler import get_ssl_configuration

        security = get_ssl_configuration()
        self.client = lambda: httpx.Client(verify=security)
        # Each is used by one thread at a time: a pool that many share looks at all its connections
        # for each request, and now and then closes one as stale just when another thread took it.
        self.idle = [self.client()]
        self.run, self.options, self.answered = run, options, False

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
            with self.run.sending(), closing(client.send(request, stream=True)) as response:
                for piece in response.iter_raw():
                    body += piece
                    if time.monotonic() > end:
                        raise httpx.ReadTimeout("no whole answer in three times --timeout")
            whole = httpx.Response(
                response.status_code, headers=response.headers, content=bytes(body)
            )
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
    given = {**os.environ, **options.param}
    bases = {name: str(base) for name, base in given.items() if "://" in str(base)}
    own = tuple(base for name, base in bases.items() if "OPENAI" not in name)
    openai = ("https://api.openai.com", *(bases[name] for name in bases if "OPENAI" in name))
    is_openai = "/" not in options.model or "openai" in provider.split("-")
    if url.startswith(openai) and not (is_openai or url.startswith(own)):
        raise CompletionsError(
            f"{provider}/ has no address, and litellm would send all to OpenAI: set "
            f"{provider.upper()}_API_BASE, or --param api_base=http://..."
        )


def checked(path: str, response: Any) -> Any:
    """The response, in OpenAI's form with its content as one text; NoAnswer if it is no answer."""
    status, headers, body = response.status_code, response.headers, response.content
    text = body.decode("utf-8", "replace").strip() or "an empty body"
    if status >= 300:
        where = headers.get("location")
        raise NoAnswer(status, f"redirected to {where}" if where else text, headers)
    is_chat = path.endswith("/chat/completions")
    is_json = headers.get("content-type", "").startswith("application/json")
    if not is_chat and not is_json and body and not text.startswith("<"):
        return response
    for reason in re.findall(r'(?i)reason"\s*:\s*"(\w+)"', text):  # whatever a provider calls it
        if NO_WHOLE.search(reason):
            raise NoAnswer(status, f"finish_reason {reason}", headers)
    try:
        payload = json.loads(body)
        choice = payload["choices"][0] if is_chat else {"message": {}}
        message, error = choice["message"], payload.get("error") or choice.get("error")
        if isinstance(parts := message.get("content"), list):
            message["content"], aside = joined(parts, "text"), joined(parts, "thinking")
            if not (error or aside or message["content"]):
                raise NoAnswer(status, "content in parts without a text", headers)
            message["reasoning_content"] = aside or message.get("reasoning_content")
            response = type(response)(status, json=payload)
        if not error and isinstance(message.get("content"), str | None):
            return response
        text = json.dumps(error or "content that is no text")
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
            "reasoning": field(choice.message, "reasoning_content", "reasoning"),
            "prompt_tokens": getattr(usage, "prompt_tokens", None),
            "completion_tokens": getattr(usage, "completion_tokens", None),
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


def field(message: Any, *names: str) -> Any:
    """The first of these fields that a message has; litellm keeps strange ones aside."""
    aside = getattr(message, "provider_specific_fields", None) or {}
    found = (getattr(message, name, None) or aside.get(name) for name in names)
    return next(filter(None, found), None)


def outcome(problem: dict, response: Any, options: argparse.Namespace, came: bool) -> Any:
    """An Answer or a Failure; came: whether the server ever sent an answer."""
    error = response if isinstance(response, Exception) else why_none(response)
    return Failure(problem, error, options, came) if error else Answer(problem, response, options)


def why_none(response: Any) -> Exception | None:
    """Why a response is no answer, as one that a provider blocked or broke off; None if it is."""
    if not getattr(response, "choices", None):
        return NoAnswer(200, "the response has no choices")
    message, reason = response.choices[0].message, str(response.choices[0].finish_reason)
    if NO_WHOLE.search(reason):
        return NoAnswer(200, f"finish_reason {reason}")
    refusal = field(message, "refusal")
    return NoAnswer(200, f"refusal: {refusal}") if refusal and not message.content else None


def connect(run: Run, options: argparse.Namespace):
    """Import litellm with no word of its own and no request for prices, over our Transport.

    All that a request rests on is set up here: what fails is told before the first one.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LOGGING_EXECUTOR_MAX_PENDING_TASKS", "0")  # a tenth of its CPU time
    logging.getLogger("LiteLLM").disabled = True
    first = "litellm" not in sys.modules
    gc.disable()  # 0.3 to 0.7 s of the import would go into looking for garbage
    try:
        import httpx
        import litellm

        if first:
            gc.freeze()  # what was imported stays, and need not be looked at again
        litellm.suppress_debug_info = True
        litellm.in_memory_llm_clients_cache.flush_cache()  # clients of an earlier run
        litellm.sync_transport = Transport(run, options)
        litellm.client_session = httpx.Client(transport=litellm.sync_transport)
    finally:
        gc.enable()


class Requests:
    """Batches under way, each in a thread that has its answers on disk before it takes the next."""

    def __init__(self, output: Output, run: Run, options: argparse.Namespace):
        self.output, self.run, self.options = output, run, options
        self.answers = output.answers  # ever, by whatever run
        self.arrived: SimpleQueue = SimpleQueue()
        self.lock, self.ended, self.end = threading.Lock(), threading.Event(), ""
        self.first: list = []  # what came of the first batches, ten requests
        self.taken = self.in_a_row = self.next_notice = 0.0
        self.closed = False

    def perform(self, batches: Iterator[list[dict]], concurrency: int):
        """Ask for all batches, so many at once, until done or ended: what is under way is awaited.

        On Ctrl-C, SIGTERM or a full disk it keeps what has arrived, and raises.
        """
        try:
            pool = ThreadPoolExecutor(concurrency)
            self.wait_for({pool.submit(connect, self.run, self.options)})
            self.run.stage = ""
            self.wait_for({pool.submit(self.work_off, batches) for _ in range(concurrency)})
        except BaseException:
            self.ended.set()
            self.keep([], last=True)
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
            with self.lock:
                batch, first = next(batches, []), self.taken < 10
                self.taken += len(batch)
            if not batch:
                return
            self.work(batch, first)

    def work(self, batch: list[dict], first: bool):
        """Ask for a batch, and after a pause again for what failed for a passing reason."""
        for attempt in count(1):
            outcomes = self.ask(batch)
            again = [o for o in outcomes if o.concerns == PASSING and attempt <= self.retries(o)]
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
        try:
            responses = litellm.batch_completion(**request)
        except Exception as error:  # vllm/ raises instead of returning exceptions
            responses = [error] * len(batch)
        answered = litellm.sync_transport.answered
        return [outcome(p, r, o, answered) for p, r in zip(batch, responses, strict=True)]

    def retries(self, failure: Failure) -> int:
        """How often to ask again: just once where nothing was ever answered, and nobody listens."""
        nobody = failure.label == "no connection" and not self.answers
        return min(1, self.options.max_retries) if nobody else self.options.max_retries

    def keep(self, outcomes: list, first: bool = False, *, last: bool = False):
        """Have outcomes kept, with all that arrived meanwhile: one fsync serves many threads."""
        for outcome in outcomes:
            self.arrived.put(outcome)
        with self.lock:
            arrived = [self.arrived.get() for _ in range(self.arrived.qsize())]
            if self.closed:
                return  # what comes now comes too late
            self.closed = last
            self.output.append(b"".join(outcome.line for outcome in arrived))
            self.run.count(arrived)
            for outcome in arrived:
                self.judge(outcome)
            self.first += outcomes if first else []
            alike = len({outcome.kind for outcome in self.first}) == 1 and not self.answers
            if len(self.first) >= 10 and alike:
                self.finish(self.first[0], "all requests fail alike: ")

    def judge(self, outcome: Any):
        """End the run at a failure that concerns all of it, or when the server is gone."""
        if outcome.concerns == ANSWERED:
            self.answers, self.in_a_row = self.answers + 1, 0
        elif outcome.concerns == RUN or (outcome.label == "no connection" and not self.answers):
            self.finish(outcome)
        elif outcome.concerns == PASSING:
            self.in_a_row += 1
            if self.in_a_row >= 10:
                self.finish(outcome, "ten requests in a row, each tried again, got no answer: ")

    def finish(self, failure: Any, why: str = ""):
        self.end = self.end or f"{why}{failure}; {failure.repair}"
        self.ended.set()


def at_once(options: argparse.Namespace) -> tuple[int, int]:
    """The problems in a batch and the batches under way, as many as may have files open.

    A request takes four: its connection, and the event loop that litellm runs after it.
    """
    size, most = options.batch_size, options.concurrent_batches
    with suppress(ImportError, ValueError, OSError):  # Windows; a limit that cannot be raised
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = max(soft, min(hard % 2**63, 10_240))  # all that macOS gives, says "unlimited"
        allowed = max(1, (files - 64) // 4)
        size = min(size, allowed)
        most = min(most, allowed // size)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    if (size, most) != (options.batch_size, options.concurrent_batches):
        allow = f"--batch-size {size} --concurrent-batches {most}"
        notify(f"{files} open files (ulimit -n) allow {allow}, no more")
    return size, most


# --- the program -------------------------------------------------------------------------------


def main_with_args(
    *,
    model: str,
    benchmark: str,
    temperature: float | None,
    max_tokens: int | None,
    top_p: float | None,
    batch_size: int,
    lang: str,
    output_path: str | Path,
    concurrent_batches: int = 1,
    num_samples: int = 1,
    limit: int | None = None,
    config: str | None = None,
    split: str = "test",
    revision: str | None = None,
    prompt_column: str = "prompt",
    details: bool = False,
    timeout: float = 600,
    max_retries: int = 5,
    param: dict | None = None,
    stop: threading.Event | None = None,
) -> int:
    """Ask for every answer that the output lacks, append each, return how many are still missing.

    The parameters are the options of the command line; None for temperature, top_p or max_tokens
    sends none. Raises CompletionsError where the run cannot begin or go on, and KeyboardInterrupt
    on Ctrl-C or when another thread sets stop; every answer that came is on disk then.
    """
    o = checked_options(**locals())
    with told(o.param, o.output_path) as masked:
        source: dict = {"config": o.config, "split": o.split, "revision": o.revision}
        where = {**source, "prompt_column": o.prompt_column, "source": source}
        problems = load_benchmark(o.benchmark, **where)
        keys = [content_key(problem) for problem in problems]
        output = Output(o.output_path, o.benchmark)
        with output.file:
            answered = output.answered(keys)
            todo = unanswered(problems[: o.limit], keys, answered, o.num_samples)
            made = masked.settings(description(o, source, keys))
            run = Run(output, made, len(problems[: o.limit]) * o.num_samples, len(todo))
            output.cut_torn_line()
            requests = Requests(output, run, o)
            with closing(run):
                run.save()
                if todo:
                    batch_size, concurrency = at_once(o)
                    requests.perform(batches(todo, batch_size, progress=False), concurrency)
        run.conclude(requests.end, o)
        return run.missing


# --- the command line --------------------------------------------------------------------------

USAGE = """completions.py --model MODEL --benchmark BENCHMARK --lang LANG \\
           --output-path FILE [option ...]"""
EXIT_CODES = """\
The key of an API comes from the environment, such as OPENAI_API_KEY.
Exit codes: 0 every problem answered, 1 some unanswered or the run could not go
on, 2 usage, 130 Ctrl-C, 143 SIGTERM."""


def number(kind: Callable, least: float, most: float, *, or_none: bool = False) -> Callable:
    """Make a type for argparse: an int or a float within two bounds."""

    def parse(text: str) -> Any:
        if or_none and text.lower() == "none":
            return None
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not within {least:g} and {most:,g}")
        return value

    parse.__name__ = "whole number" if kind is int else "number"
    return parse


def key_value(text: str) -> tuple[str, object]:
    """Split KEY=VALUE; the value is JSON where it parses as JSON, else text."""
    key, equals, value = text.partition("=")
    if not (equals and key.isidentifier()):
        raise argparse.ArgumentTypeError("it is not of the form KEY=VALUE")
    return key, json_or_text(value)


def json_or_text(value: str) -> object:
    with suppress(ValueError, RecursionError):
        return json.loads(value, parse_constant=int)  # int("NaN") fails: NaN is text
    return value


RESERVED = {"model", "messages", "temperature", "max_tokens", "top_p", "timeout", "n", "stream"}
RESERVED |= {"request_timeout", "max_retries", "num_retries", "max_workers"}
COUNT = number(int, 1, 10_000)
# fmt: off
OPTIONS = {  # of each group: name, metavar, default, type, help
    "what to run": (
        ("model", "NAME", ..., str, "LiteLLM's name of the model, with its provider"),
        ("benchmark", "NAME", ..., str, "a JSONL file (or .gz .bz2 .xz .zst .zip), its address, a "
         "folder, or a dataset of the Hugging Face Hub"),
        ("lang", "NAME", ..., str, 'language to solve in: free text, as "C#"'),
        ("output_path", "FILE", ..., str, "JSONL file to append to, with FILE.run.json beside it"),
        ("num_samples", "N", 1, COUNT, "answers to each problem, one record each"),
        ("limit", "N", None, number(int, 1, 10**9, or_none=True),
         "only the first N problems (default: all)"),
    ),
    "where a benchmark differs": (
        ("config", "NAME", None, str, "configuration of a dataset (default: none)"),
        ("split", "NAME", "test", str, "split of a dataset, also test[:20]"),
        ("revision", "NAME", None, str, "branch, tag or commit of a dataset (default: newest)"),
        ("prompt_column", "NAME", "prompt", str, "field that holds the prompt"),
    ),
    "how to sample: these change scores": (
        ("temperature", "T", 0.2, number(float, 0, 100, or_none=True),
         "a number, or none: not sent"),
        ("top_p", "P", 0.95, number(float, 0, 1, or_none=True),
         "within 0 and 1, or none: not sent"),
        ("max_tokens", "N", 5000, number(int, 1, 10**8, or_none=True),
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


def checked_options(**options: Any) -> argparse.Namespace:
    """The options of a run; raises CompletionsError for what none can have, alone or together."""
    o = argparse.Namespace(**options)
    o.param = dict(o.param or {})
    for name, _, default, parse, _ in chain(*OPTIONS.values()):
        value = options[name]
        try:
            if parse is not str:
                setattr(o, name, parse(str(value)))
            elif value is not None or default is not None:
                setattr(o, name, os.fspath(value))
        except (TypeError, ValueError, argparse.ArgumentTypeError):
            raise CompletionsError(f"{name} cannot be {value!r}") from None
    if reserved := RESERVED & o.param.keys():
        raise CompletionsError(f"--param {min(reserved)} cannot be passed on: see the options")
    for name, value in o.param.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise CompletionsError(f"--param {name} cannot be {value!r} in JSON") from None
    if o.prompt_column in OURS:
        raise CompletionsError(f"--prompt-column cannot be {o.prompt_column}: it is written")
    if o.num_samples > 1 and "seed" in o.param:
        raise CompletionsError("with seed all samples of a problem are the same: leave it out")
    if o.model.startswith(("vllm/", "aiohttp_openai/")) and o.concurrent_batches > 1:
        raise CompletionsError(
            "vllm/ runs one batch at a time: drop --concurrent-batches, or start a vLLM server and "
            "use hosted_vllm/"
        )
    return o


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line; as argparse does, exit with 2 at what is wrong."""
    look: dict = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = argparse.ArgumentParser(
        "completions.py", USAGE, __doc__, EXIT_CODES, add_help=False, **look
    )
    for group, options in OPTIONS.items():
        add = parser.add_argument_group(group).add_argument
        for name, metavar, default, kind, text in options:
            text += "" if default in (..., None) else " (default: %(default)s)"
            wanted = {"required": True} if default is ... else {"default": default}
            add("--" + name.replace("_", "-"), type=kind, metavar=metavar, help=text, **wanted)
    help = (
        "passed on to litellm, repeatable; VALUE is JSON or else text: api_base, seed, extra_body"
    )
    many: dict = {"type": key_value, "action": "append", "default": [], "metavar": "KEY=VALUE"}
    add("--param", help=help, **many)
    help = "each record also gets details: finish_reason, reasoning, tokens, cost, seconds"
    add("--details", action="store_true", help=help)
    add("-h", "--help", action="help", help="show this text")
    args = parser.parse_args(argv)
    try:
        return checked_options(**vars(args))
    except CompletionsError as error:
        parser.error(str(error))


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code.

    The run has a thread of its own, so that a signal hits nothing but the wait for it here, and is
    remembered whatever the moment.
    """
    logging.disable()  # what litellm and datasets log is told by this program, once, or is no news
    warnings.simplefilter("ignore")
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 (None where it is closed)
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.append(number))
    stop = threading.Event()
    words = sys.argv[1:] if argv is None else argv
    typed = [word.partition("=")[::2] for word in words]  # may be secrets, in a usage error too
    typed += [(word, value) for word, value in pairwise(words) if re.match("--?[^=]+$", word)]
    try:
        with told([{name: json_or_text(value)} for name, value in typed]):
            args = parse_args(argv)
            running = ThreadPoolExecutor(1).submit(main_with_args, **vars(args), stop=stop)
            while not (running.done() or signals):
                wait([running], timeout=0.1)
            if signals:
                stop.set()  # has what arrived written, which takes no time
                wait([running], timeout=1)
                name = signal.Signals(signals[0]).name.replace("SIGINT", "Ctrl-C")
                raise CompletionsError(f"stopped by {name}; run the same command again to go on")
            return 1 if running.result() else 0
    except CompletionsError as error:
        notify(f"completions.py: {error}")
    return 128 + signals[0] if signals else 1


if __name__ == "__main__":
    os._exit(main())  # a usual exit would wait for requests that hang
