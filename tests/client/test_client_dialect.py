"""Each line of PROTOCOL.md 2.2 and each rule of 2.1, 2.3 and 2.4, from bytes on a socket to what the row comes to.

The cases are tables: `client_dialect_verdicts.py` (2.2), `client_dialect_hints.py` (2.3), `client_dialect_wire.py`
(broken HTTP, 2.4 and 2.1). A case's id begins with the line or rule that it holds. Each runs over both transports.
"""

from __future__ import annotations

import asyncio
import functools
import re
import socket
from typing import Any

import client_dialect_hints as hints
import client_dialect_verdicts as verdicts
import client_dialect_wire as wire
import pytest
from client_dialect import FINE, Case
from client_raw_server import Peer, RawServer, closed_port, raw_server
from client_replies import MODEL
from client_transports import chosen, transport_kind

from batchrun.client.lane import Lane
from batchrun.client.lanes import Lanes
from batchrun.client.opening import open_lane
from batchrun.execution.requesting import Requests
from batchrun.job.settings import EndpointSettings, InputSettings, Job, LimitSettings, OutputSettings
from batchrun.model.outcome import Completion, Failure, Outcome
from batchrun.model.record import Record
from batchrun.model.request import Envelope
from batchrun.prompt.prompter import Prompter
from batchrun.prompt.settings import PromptSettings
from batchrun.worker import OpenRow, Step, Worker

__all__ = ["transport_kind"]
CASES = [*verdicts.CASES, *hints.CASES, *wire.CASES]
MOST_TRIES = 12


def test_each_line_and_each_rule_can_be_pointed_to() -> None:
    """24 is the breaker's, which looks at rows, not at exchanges; 2.5 is streaming's."""
    ids = [case.id for case in CASES]
    assert len(ids) == len(set(ids))
    lines = {found[1] for one in ids if (found := re.match(r"2\.2 #(\w+) ", one))}
    assert lines == {str(number) for number in range(1, 26) if number != 24} | {"22b"}
    for section, rules in (("2.3", hints.RULES), ("2.4", wire.RULES)):
        for rule in rules:
            assert any(
                one == f"{section} {rule}" or one.startswith((f"{section} {rule}:", f"{section} {rule} "))
                for one in ids
            ), rule


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_what_a_row_comes_to(case: Case) -> None:
    asyncio.run(asyncio.wait_for(_check(case), 20))


async def _check(case: Case) -> None:
    met = 0

    async def script(peer: Peer) -> None:
        nonlocal met
        if case.at == "plain http":
            await peer.reader.read(1)
            await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        while case.at == "server":
            await peer.request()
            wires = (FINE, *case.wires) if case.after else case.wires
            reply = wires[min(met, len(wires) - 1)]
            met += 1
            await peer.send(reply.data())
            if reply.then == "reset":
                await peer.reset()
            elif reply.then == "hang":
                await peer.gone()
            if reply.then != "go on":
                return

    async with (
        raw_server(script) as server,
        open_lane(
            _job(case),
            base_url=_where(case, server),
            key="K" * 20,
            trust_env=False,
            clock=asyncio.get_running_loop().time,
        ) as lane,
    ):
        worker = _worker(lane)
        if case.after and case.at == "server":
            assert (await _advance(worker, lane, 1, {})).entry is not None
        lane._interpreter.succeeded = case.after  # where the server can't be reached, the success was another time
        before = len(server.requests)
        await _check_row(case, lane, worker)
        assert len(server.requests) - before == case.sent
        assert all(b"\r\nAccept-Encoding: gzip, deflate\r\n" in request for request in server.requests)  # 2.4


async def _check_row(case: Case, lane: Lane, worker: Worker) -> None:
    """Advance the row to its end, or as often as the case says, without the waits between its tries."""
    row = _row(0, case.ask)
    waits: list[float] = []
    for _ in range(case.sent if case.ends == "pending" else MOST_TRIES):
        step = await worker.advance(row)
        assert step.entry is not None
        assert step.entry.holds_slot
        lane.gate.leave()
        if step.wait_s is None:
            break
        waits.append(step.wait_s)
    paused_s = lane.gate.paused_s
    assert case.pause_s - 0.5 * bool(case.pause_s) <= paused_s <= case.pause_s
    if case.wait_s is not None:
        assert case.wait_s[0] <= waits[0] <= case.wait_s[1]
    _check_end(case, step, waits)


def _check_end(case: Case, step: Step, waits: list[float]) -> None:
    assert step.entry is not None
    outcome = step.entry.outcome
    if case.ends == "pending":
        assert (len(waits), outcome, step.stop) == (case.sent, None, None)
        return
    if case.ends == "stop":
        assert step.stop is not None
        assert outcome is None
        assert all(text in step.stop for text in case.says), step.stop
        return
    assert outcome is not None, step.stop
    assert (outcome.status, outcome.error_class) == (case.ends, case.error_class), outcome
    assert sorted(outcome.account.flags) == sorted(case.flags)
    _check_outcome(case, outcome)


def _check_outcome(case: Case, outcome: Outcome) -> None:
    if isinstance(outcome, Failure):
        assert outcome.message
        assert all(text in outcome.message for text in case.says), outcome.message
    else:
        assert isinstance(outcome, Completion)
    assert case.sent in {0, outcome.account.attempts}
    for path, value in case.has.items():
        assert functools.reduce(getattr, path.split("."), outcome) == value, path


def _row(number: int, ask: Any) -> OpenRow:
    prompter = Prompter(PromptSettings(params="params"), ("prompt", "params"))
    requests = Requests(prompter, Envelope(identity="x", fields={"model": MODEL}))
    return requests.row(Record(row=number, values={"prompt": "say it", "params": dict(ask)}))


async def _advance(worker: Worker, lane: Lane, number: int, ask: Any) -> Step:
    step = await worker.advance(_row(number, ask))
    lane.gate.leave()
    return step


def _worker(lane: Lane) -> Worker:
    return Worker(
        lanes=Lanes((lane,)),
        clock=asyncio.get_running_loop().time,
        wall_us=lambda: 0,
    )


def _job(case: Case) -> Job:
    return Job(
        name="n",
        input=InputSettings(path="i"),
        request={"model": MODEL},
        endpoint=EndpointSettings(
            base_url="b", api_key_env="NO_SUCH_KEY", timeout_s=case.timeout_s, transport=chosen()
        ),
        output=OutputSettings(path="o"),
        limits=LimitSettings(concurrency=4, **case.limits),
    )


def _where(case: Case, server: RawServer) -> str:
    if case.at == "closed port":
        return f"http://127.0.0.1:{closed_port()}/v1"
    if case.at == "no host":

        async def no_address(*_: Any, **__: Any) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "unknown host")

        asyncio.get_running_loop().getaddrinfo = no_address  # type: ignore[method-assign]
        return "http://nowhere.invalid/v1"
    return server.base_url.replace("http:", "https:") if case.at == "plain http" else server.base_url
