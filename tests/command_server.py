"""A process with batchrun imported that forks one of itself for each command: 20 ms a start, not half a second.

python command_server.py DESCRIPTOR

Each forked process is one command from its arguments to its exit status, with its own standard files, environment and
folder; only the imports are shared. A command may be disturbed: at the nth call of one function it ends without a
word, as by `kill -9`, or gets SIGTERM.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

CRASHED = 99
REQUEST_BYTES = 1 << 17
_USED = (
    "aiolimiter",
    "batchrun.cli.plan",
    "batchrun.cli.run",
    "batchrun.cli.simulate",
    "batchrun.client.retry",
    "batchrun.engine.local",
    "batchrun.engine.processes",
    "batchrun.job.load",
    "batchrun.prompt.template",
    "batchrun.simulator.server",
    "uvloop",
)


def main() -> None:
    for name in _USED:
        importlib.import_module(name)
    control = socket.socket(fileno=int(sys.argv[1]))
    with contextlib.ExitStack() as ours:
        ours.enter_context(control)
        if (request := _serve(control, ours)) is None:
            return
    _become(request)


def _serve(control: socket.socket, ours: contextlib.ExitStack) -> dict[str, Any] | None:
    """Fork for each request; return it in the forked process, None in this one when nobody is left to ask."""
    waking, woken = (ours.enter_context(end) for end in socket.socketpair())
    waking.settimeout(0)
    signal.set_wakeup_fd(waking.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    askers: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            woken.recv(4096)
            _tell_ended(askers)
        if control in ready:
            message, descriptors, _, _ = socket.recv_fds(control, REQUEST_BYTES, 4)
            if not message:
                return None
            asker = ours.enter_context(socket.socket(fileno=descriptors.pop()))
            if (pid := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for target, descriptor in enumerate(descriptors):
                    os.dup2(descriptor, target)
                    os.close(descriptor)
                return json.loads(message)
            for descriptor in descriptors:
                os.close(descriptor)
            askers[pid] = asker
            asker.sendall(b"%d\n" % pid)


def _tell_ended(askers: dict[int, socket.socket]) -> None:
    while askers:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with contextlib.suppress(OSError), askers.pop(pid) as asker:
            asker.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _become(request: dict[str, Any]) -> None:
    """Be the command that is asked for."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if request["step"] is not None:
        _disturb(*request["step"])
    sys.argv = ["batchrun", *request["words"]]
    from batchrun.cli.main import main as command  # noqa: PLC0415

    command()


def _disturb(target: str, when: str, nth: int) -> None:
    """End the process before or after the nth call of a function, or send it SIGTERM then.

    A function named in the module that defines it is disturbed wherever it was imported to; named in another module,
    only there.
    """
    module_name, _, qualname = target.partition(":")
    *path, name = qualname.split(".")
    holder: Any = importlib.import_module(module_name)
    for step in path:
        holder = getattr(holder, step)
    wrapped = getattr(holder, name)
    calls = 0

    @functools.wraps(wrapped)
    def crashing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if when == "before" and calls == nth:
            os._exit(CRASHED)
        if when == "sigterm" and calls == nth:
            os.kill(os.getpid(), signal.SIGTERM)
        result = wrapped(*args, **kwargs)
        if when == "after" and calls == nth:
            os._exit(CRASHED)
        return result

    setattr(holder, name, crashing)
    if not path and wrapped.__module__ == module_name:
        for module in [module for name, module in sys.modules.items() if name.startswith("batchrun.")]:
            for alias in [alias for alias, value in vars(module).items() if value is wrapped]:
                setattr(module, alias, crashing)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])
    main()
