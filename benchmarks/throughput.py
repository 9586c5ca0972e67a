"""Measure how well a model is kept busy: completions.py and two bare clients beside the ideal.

    uv run benchmarks/throughput.py

A server on this machine answers each problem after a time that is known beforehand (lognormal, as
response times of models are). Each way of asking runs as a command of its own, one after another;
what they took is printed as a table in Markdown. The ideal is a window that is always full: the
problems in the order of the file, each sent the moment that an earlier one is answered.

It takes five minutes, with --quick less than two. With --cpu it measures instead what the script
adds to the CPU time of litellm itself, on quick requests.
"""

import argparse
import asyncio
import heapq
import json
import math
import os
import platform
import random
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from urllib.request import urlopen

SCRIPT = Path(__file__).resolve().parent.parent / "completions.py"
WORKLOADS = ((164, 10), (1140, 64))  # problems, requests in flight
MODEL = "gpt-4.1-nano"
SAMPLING = {"temperature": 0.2, "max_tokens": 5000, "top_p": 0.95}
PROMPT = "Problem {} : write a function that adds two numbers. " + "Think it over. " * 50
ANSWER = "Here it is.\n\n```lua\n" + "local function add(a, b) return a + b end\n" * 15 + "```\n"


def latencies(problems: int, median: float) -> list[float]:
    """List how many seconds the server takes for each problem, the same in every run."""
    draw = random.Random(0)
    return [draw.lognormvariate(math.log(median), 0.8) for _ in range(problems)]


def ideal(waits: list[float], concurrency: int) -> float:
    """Compute the seconds that a window takes which stays full until no problem is left.

    >>> ideal([3, 1, 1, 1], concurrency=2)
    3.0
    """
    ends = [0.0] * concurrency
    for wait in waits:
        heapq.heapreplace(ends, ends[0] + wait)
    return max(ends)


# --- the server --------------------------------------------------------------------------------


def serve(problems: int, median: float):
    """Print the port, then answer as the OpenAI API does until stdin ends.

    GET /seen reports the requests since the last report.
    """
    from aiohttp import web

    waits = latencies(problems, median)
    seen: dict = {}

    def forget():
        seen.update(requests=0, in_flight=0, peak=0, first=None, last=None, connections=set())

    async def complete(request: web.Request) -> web.Response:
        seen["first"] = seen["first"] or time.monotonic()
        seen["requests"] += 1
        seen["in_flight"] += 1
        seen["peak"] = max(seen["peak"], seen["in_flight"])
        seen["connections"].add(request.transport.get_extra_info("peername"))
        body = await request.json()
        await asyncio.sleep(waits[int(body["messages"][0]["content"].split()[1])])
        seen["in_flight"] -= 1
        seen["last"] = time.monotonic()
        return web.json_response(chat_completion(body["model"]))

    async def report(request: web.Request) -> web.Response:
        counts = seen | {"connections": len(seen["connections"])}
        forget()
        return web.json_response(counts)

    async def run():
        app = web.Application()
        app.add_routes([web.post("/v1/chat/completions", complete), web.get("/seen", report)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.to_thread(sys.stdin.read)

    forget()
    asyncio.run(run())


def chat_completion(model: str) -> dict:
    message = {"role": "assistant", "content": ANSWER}
    return {
        "id": "chat-1",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 200, "total_tokens": 300},
    }


# --- the other clients: bare loops, with no resuming, retries or accounting ----------------------


def litellm_pool(url: str, prompts: list[str], concurrency: int) -> list[str]:
    """Ask with litellm.completion in a thread pool."""
    from concurrent.futures import ThreadPoolExecutor

    import litellm

    def ask(prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        model = f"openai/{MODEL}"
        response = litellm.completion(model=model, messages=messages, api_base=url, **SAMPLING)
        return response.choices[0].message.content

    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(ask, prompts))


def async_openai(url: str, prompts: list[str], concurrency: int) -> list[str]:
    """Ask with AsyncOpenAI and a semaphore."""
    from openai import AsyncOpenAI

    async def ask_all() -> list[str]:
        client, free = AsyncOpenAI(base_url=url), asyncio.Semaphore(concurrency)

        async def ask(prompt: str) -> str:
            messages = [{"role": "user", "content": prompt}]
            async with free:
                response = await client.chat.completions.create(
                    model=MODEL, messages=messages, **SAMPLING
                )
            return response.choices[0].message.content

        return await asyncio.gather(*map(ask, prompts))

    return asyncio.run(ask_all())


def litellm_batches(url: str, prompts: list[str], concurrency: int) -> list[str]:
    """Ask with litellm.batch_completion alone, 100 messages a call."""
    import litellm

    messages = [[{"role": "user", "content": prompt}] for prompt in prompts]
    options: dict = {"model": f"openai/{MODEL}", "api_base": url, "max_workers": concurrency}
    answers = []
    for n in range(0, len(messages), 100):
        batch = messages[n : n + 100]
        answers += litellm.batch_completion(messages=batch, max_retries=0, **options, **SAMPLING)
    return [answer.choices[0].message.content for answer in answers]


CLIENTS = {"litellm": litellm_pool, "openai": async_openai, "batches": litellm_batches}


def run_client(name: str, url: str, benchmark: str, output: str, concurrency: str):
    """Ask for all answers with one of the two, and write them."""
    with open(benchmark, encoding="utf-8") as lines:
        prompts = [json.loads(line)["prompt"] for line in lines]
    with open(output, "w", encoding="utf-8") as out:
        for response in CLIENTS[name](url, prompts, int(concurrency)):
            out.write(json.dumps({"response": response}) + "\n")


# --- the measurement ---------------------------------------------------------------------------


def ways(url: str, benchmark: Path, output: Path, concurrency: int) -> Iterator[tuple[str, list]]:
    """Yield what to compare: its name in the table, and the command."""
    few = max(1, concurrency // 4)
    script = [sys.executable, SCRIPT, "--model", f"openai/{MODEL}", "--lang", "Lua"]
    script += ["--param", f"api_base={url}", "--benchmark", benchmark, "--output-path", output]
    sizes = ((concurrency, 1), (concurrency // few, few), (1, concurrency))
    for size, batches in dict.fromkeys(sizes):
        pace = f"--batch-size {size} --concurrent-batches {batches}"
        yield f"`{pace}`", [*script, *pace.split()]
    for name, way in (
        ("litellm", "litellm.completion in a thread pool"),
        ("openai", "AsyncOpenAI with a semaphore"),
    ):
        client = [sys.executable, __file__, "--client", name, url, benchmark, output]
        yield way, [*client, str(concurrency)]


@contextmanager
def serving(problems: int, median: float) -> Iterator[str]:
    """Run the server in a process of its own, which ends with this one at the latest."""
    command = [sys.executable, __file__, "--server", str(problems), str(median)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as server:
        assert server.stdout
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"


def compare(problems: int, concurrency: int, median: float):
    """Run all ways on one workload, and print the table of what they took."""
    waits = latencies(problems, median)
    best = ideal(waits, concurrency)
    print(
        f"\n{problems:,} problems, {concurrency} in flight; a response takes {median:g} s "
        f"(median) to {max(waits):.1f} s\n\n"
        "| way | first request to last response | times the ideal | command to exit | connections "
        f"| most in flight |\n|---|--:|--:|--:|--:|--:|\n| ideal | {best:.1f} s | 1.00 | | | |",
        flush=True,
    )
    with serving(problems, median) as url, tempfile.TemporaryDirectory() as folder:
        benchmark, output = Path(folder, "problems.jsonl"), Path(folder, "answers.jsonl")
        rows = [{"name": number, "prompt": PROMPT.format(number)} for number in range(problems)]
        benchmark.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        for way, command in ways(f"{url}/v1", benchmark, output, concurrency):
            seconds, seen = measure(command, url)
            with open(output, encoding="utf-8") as lines:
                assert sum(1 for line in lines) == seen["requests"] == problems, way
            for file in Path(folder).glob("answers*"):
                file.unlink()
            busy = seen["last"] - seen["first"]
            print(
                f"| {way} | {busy:.1f} s | {busy / best:.2f} | {seconds:.1f} s | "
                f"{seen['connections']:,} | {seen['peak']} |",
                flush=True,
            )


def compare_cpu(requests: int = 2000, concurrency: int = 64, rounds: int = 3):
    """Print the CPU time of a request, its start left out: litellm alone, and the script."""
    script: list = [sys.executable, SCRIPT, "--model", f"openai/{MODEL}", "--lang", "Lua"]
    script += ["--batch-size", "1", "--concurrent-batches", str(concurrency)]
    times: dict[str, list[float]] = {"litellm.batch_completion alone": [], "completions.py": []}
    with serving(requests + 200, 0.01) as url, tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{count}.jsonl") for count in (200, requests + 200)]
        for file in files:
            rows = ({"prompt": PROMPT.format(n)} for n in range(int(file.stem)))
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        for number in range(rounds):
            used = []
            for file in files:
                output = Path(folder, f"answers-{number}-{file.name}")
                alone: list = [sys.executable, __file__, "--client", "batches", f"{url}/v1", file]
                used.append(cpu_seconds([*alone, Path(folder, "alone.jsonl"), str(concurrency)]))
                param = ["--param", f"api_base={url}/v1"]
                ours = [*script, *param, "--benchmark", file, "--output-path", output]
                used.append(cpu_seconds(ours))
            few_alone, few_ours, many_alone, many_ours = used
            times["litellm.batch_completion alone"].append((many_alone - few_alone) / requests)
            times["completions.py"].append((many_ours - few_ours) / requests)
    print(f"\n{requests:,} quick requests, {concurrency} in flight, median of {rounds} runs each\n")
    print("| way | CPU time a request |\n|---|--:|")
    least, used_by_us = (statistics.median(seconds) for seconds in times.values())
    print(f"| litellm.batch_completion alone, 100 messages a call | {1000 * least:.1f} ms |")
    print(f"| completions.py | {1000 * used_by_us:.1f} ms, {used_by_us / least:.2f} times that |")


def cpu_seconds(command: list) -> float:
    """Run a command; return the seconds of CPU that its process used, in user and system mode."""
    before = os.times()
    subprocess.run(command, stderr=subprocess.DEVNULL, check=True)
    after = os.times()
    return (
        after.children_user + after.children_system - before.children_user - before.children_system
    )


def measure(command: list, url: str) -> tuple[float, dict]:
    """Run a command; return the seconds it took, and what the server saw of it."""
    began = time.monotonic()
    run = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    seconds = time.monotonic() - began
    if run.returncode:
        sys.exit(f"{shlex.join(map(str, command))}: exit code {run.returncode}\n{run.stderr}")
    with urlopen(f"{url}/seen") as response:
        return seconds, json.load(response)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a quarter of the problems")
    parser.add_argument("--cpu", action="store_true", help="what the script adds to litellm's own")
    parser.add_argument("--problems", type=int, metavar="N", help="one workload of N problems")
    parser.add_argument(
        "--concurrency",
        type=int,
        default=64,
        metavar="N",
        help="its requests in flight (%(default)s)",
    )
    parser.add_argument(
        "--median", type=float, default=0.5, metavar="SECONDS", help="response time (%(default)s)"
    )
    parser.add_argument("--server", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--client", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.server:
        return serve(int(args.server[0]), float(args.server[1]))
    if args.client:
        return run_client(*args.client)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    os.environ |= {"OPENAI_API_KEY": "none", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    os.environ |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    workloads = [(problems // 4 if args.quick else problems, c) for problems, c in WORKLOADS]
    with tempfile.TemporaryDirectory() as bytecode:
        # All start as on a second run, which finds what it imports compiled.
        os.environ |= {"PYTHONPYCACHEPREFIX": bytecode, "PYTHONDONTWRITEBYTECODE": ""}
        subprocess.run([sys.executable, "-c", "import litellm, openai; litellm.completion"])
        workloads = [(args.problems, args.concurrency)] if args.problems else workloads
        for problems, concurrency in [] if args.cpu else workloads:
            compare(problems, concurrency, args.median)
        if args.cpu:
            compare_cpu()
    command = shlex.join(["benchmarks/throughput.py", *sys.argv[1:]])
    print(
        f"\n{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, "
        f"litellm {version('litellm')}, {date.today()}: `uv run {command}`"
    )


if __name__ == "__main__":
    main()
