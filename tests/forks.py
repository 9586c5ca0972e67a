"""Runs of the script as processes of their own, most of which start in milliseconds.

litellm takes seconds to import. So the fork server of multiprocessing imports it once, and forks
for each run: a fork has a process id, signals, limits, variables and open files of its own, and
then does what `python completions.py` does. Only what modules read while they are imported was read
before: where that matters, and where there is no such server, a run has a fresh interpreter.
"""

import multiprocessing
import os
import runpy
import sys
import tempfile
from multiprocessing.reduction import DupFd
from pathlib import Path

SCRIPT = str(Path(__file__).parent.parent / "completions.py")
CLOSED = -1  # in place of a file for stderr
FRESH = multiprocessing.get_context("spawn")
FORK = multiprocessing.get_context("forkserver") if sys.platform == "linux" else FRESH
# litellm leaves the last to its first request, if its version has that.
IMPORTED = ["pandas", "tqdm", "filelock", "litellm", "httpcore", "litellm.proxy._types"]
FORK.set_forkserver_preload(IMPORTED)


class Run:
    """A run of the script under way, or ended."""

    def __init__(self, argv: list[str], env: dict, limits: dict, fresh: bool, stderr: int | None):
        self.out, self.err = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115
        files = [self.out.fileno(), self.err.fileno() if stderr in (None, CLOSED) else stderr]
        how = (argv, env, limits, [DupFd(file) for file in files], stderr == CLOSED)
        self.process = (FRESH if fresh else FORK).Process(target=run_script, args=how)
        self.process.start()

    def send_signal(self, number: int):
        os.kill(self.process.pid, number)

    def end(self, seconds: float = 60) -> tuple[int | None, str]:
        """Wait for its end; the exit code and what it told. It never prints, nor a traceback."""
        self.process.join(seconds)
        self.out.seek(0)
        self.err.seek(0)
        out, told = self.out.read(), self.err.read()
        assert out == "" and "Traceback" not in told, told
        return self.process.exitcode, told

    def kill(self):
        self.process.kill()
        self.process.join()


def run_script(argv: list[str], env: dict, limits: dict, files: list, is_closed: bool):
    """Run it in this process, with these arguments, variables, limits and files."""
    for file, place in zip(files, (1, 2), strict=True):
        os.dup2(file.detach(), place)
    if is_closed:  # what Python does where it finds it closed
        os.close(2)
        sys.stderr = None
    os.environ.clear()
    os.environ.update(env)
    if limits:
        import resource

        for name, soft_and_hard in limits.items():
            resource.setrlimit(getattr(resource, name), soft_and_hard)
    sys.argv = [SCRIPT, *argv]
    runpy.run_path(SCRIPT, run_name="__main__")
