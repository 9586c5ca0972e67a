"""Runs of the script as processes of their own, most of which start in milliseconds.

litellm takes seconds to import. So a helper process imports it once for all tests, and forks for
each run: a fork has a process id, signals, limits, variables and open files of its own, and then
does what `python completions.py` does. Only what modules read while they are imported was read
before: where that matters, and where there is no fork, a run is a fresh process.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from select import select

ROOT = Path(__file__).parent.parent
SCRIPT = str(ROOT / "completions.py")
CLOSED = -1  # in place of a file for stderr


class Run:
    """A run of the script under way, or ended."""

    def __init__(self, stderr: int | None = None):
        self.out, self.err = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115
        self.files = self.out.fileno(), self.err.fileno() if stderr in (None, CLOSED) else stderr
        self.closed = stderr == CLOSED

    def send_signal(self, number: int):
        os.kill(self.pid, number)

    def end(self, seconds: float = 60) -> tuple[int, str]:
        """Wait for its end; the exit code and what it told. It never prints, nor a traceback."""
        code = self.wait(seconds)
        out, told = (self.text(file) for file in (self.out, self.err))
        assert out == "" and "Traceback" not in told, told
        return code, told

    def kill(self):
        """Kill it, unless it has ended, and forget it."""
        try:
            self.wait(0)
        except (TimeoutError, subprocess.TimeoutExpired):
            self.send_signal(signal.SIGKILL)
            self.wait(10)
        self.out.close()
        self.err.close()

    @staticmethod
    def text(file) -> str:
        file.seek(0)
        return file.read()


class Fresh(Run):
    """In an interpreter of its own."""

    def __init__(self, argv: list[str], env: dict, limits: dict, stderr: int | None = None):
        super().__init__(stderr)

        def prepare():
            limit(limits)
            if self.closed:
                os.close(2)

        out, err = self.files
        before = {"preexec_fn": prepare} if limits or self.closed else {}
        command = [sys.executable, SCRIPT, *argv]
        self.process = subprocess.Popen(command, env=env, stdout=out, stderr=err, **before)
        self.pid = self.process.pid

    def wait(self, seconds: float) -> int:
        return self.process.wait(seconds)


class Fork(Run):
    """Forked from a process that has imported what the script needs."""

    code = None

    def __init__(self, address: str, argv: list[str], env: dict, limits: dict, stderr=None):
        super().__init__(stderr)
        how = {"argv": [SCRIPT, *argv], "env": env, "limits": limits, "cwd": os.getcwd()}
        how["closed"] = self.closed
        self.reports, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        files = [theirs.fileno(), *self.files]
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as requests:
            requests.connect(f"\0{address}")
            socket.send_fds(requests, [json.dumps(how).encode()], files)
        theirs.close()
        self.pid = self.report(60)  # the first waits for the imports

    def report(self, seconds: float) -> int:
        """What comes next of the two that are reported: the process id and the status."""
        self.reports.settimeout(seconds or 0.001)
        return int(self.reports.recv(100))

    def wait(self, seconds: float) -> int:
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(self.report(seconds))
        return self.code

    def kill(self):
        super().kill()
        self.reports.close()


class Helper:
    """A process that forks for runs of all tests; it imports its modules before the first."""

    def __init__(self, modules: list[str], env: dict):
        self.alive, theirs = socket.socketpair()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, theirs:
            listener.bind("")  # a free name, and no file
            listener.listen(100)
            self.address = listener.getsockname()[1:].decode()
            numbers = [listener.fileno(), theirs.fileno()]
            command = [sys.executable, __file__, *map(str, numbers), *modules]
            self.process = subprocess.Popen(command, env=env, pass_fds=numbers)

    def close(self):
        self.alive.close()  # which ends it
        self.process.wait(10)


def limit(limits: dict):
    if limits:
        import resource

        for name, soft_and_hard in limits.items():
            resource.setrlimit(getattr(resource, name), tuple(soft_and_hard))


def serve(listener: socket.socket, alive: socket.socket, modules: list[str]) -> list[str] | None:
    """Fork for each request; return its arguments in the fork, and None once nobody is left."""
    while True:
        left = alive in select([listener, alive], [], [])[0]
        with suppress(ChildProcessError):  # so their time counts as that of the tests
            while os.waitpid(-1, 0 if left else os.WNOHANG)[0]:
                pass
        if left:
            return None
        for module in modules:
            with suppress(ImportError):
                __import__(module)
        with listener.accept()[0] as connection:
            request, files, *_ = socket.recv_fds(connection, 1_000_000, 3)
        if not os.fork():
            report, *streams = files
            if pid := os.fork():
                os.write(report, b"%d" % pid)
                os.write(report, b"%d" % os.waitpid(pid, 0)[1])
                os._exit(0)
            listener.close()
            alive.close()
            os.close(report)
            return become(streams, **json.loads(request))
        for file in files:
            os.close(file)


def become(streams: list[int], argv: list[str], env: dict, limits: dict, cwd: str, closed: bool):
    """Have the files, variables, limits and folder of a run; return its arguments."""
    for stream, place in zip(streams, (1, 2), strict=True):
        os.dup2(stream, place)
        os.close(stream)
    if closed:  # what Python does where it finds it closed
        os.close(2)
        sys.stderr = None
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    limit(limits)
    return argv


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    listener, alive = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    code = compile(Path(SCRIPT).read_bytes(), SCRIPT, "exec")
    if argv := serve(listener, alive, ["bcb_multipl_util", *sys.argv[3:]]):
        sys.argv = argv
        exec(code, {"__name__": "__main__", "__file__": SCRIPT, "__doc__": None})
