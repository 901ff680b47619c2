"""An attempt from request bytes to a verdict: malformed bodies, cuts, secrets, pauses (DEMAND.md R15, R17)."""

from __future__ import annotations

import asyncio
import gzip
import json
import traceback
from collections.abc import Coroutine
from typing import Any

import msgspec
import pytest
from client_raw_server import Peer, RawServer, Script, answer, closed_port, raw_server, whole
from client_replies import GOOD, MODEL, REFERENCE, body, got, lane

from batchrun.client.arriving import ExchangeError
from batchrun.client.lane import Attempt
from batchrun.client.opening import open_lane
from batchrun.events import Progress
from batchrun.job.settings import EndpointSettings, InputSettings, Job, LimitSettings, OutputSettings
from batchrun.model.attempt import Cost, Exchange, Reply, Spends, Then, Trouble
from batchrun.pricing import Price

KEY = "SENTINEL0key0of0no0known0form"
ASK = json.dumps({"model": MODEL}, separators=(",", ":")).encode()
GOT_GOOD = got(200, GOOD)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 10))


async def last(*script: Exchange | ExchangeError, **options: Any) -> Reply | Trouble:
    """What the last of these exchanges comes to."""
    made = lane(*script, **options)
    came: Attempt | None = None
    for _ in script:
        came = await made.attempt(ASK)
    assert came is not None
    return came.came_to


async def trouble_of(*script: Exchange | ExchangeError, **options: Any) -> Trouble:
    came = await last(*script, **options)
    assert isinstance(came, Trouble)
    return came


MALFORMED: list[tuple[bytes, str, Then, int | None]] = [
    (b"", "bad_reply", Then.RETRY, 2),
    (b"<html>502</html>", "bad_reply", Then.RETRY, 2),
    (GOOD[:-30], "bad_reply", Then.RETRY, 2),
    (GOOD + b"<html>", "bad_reply", Then.RETRY, 2),
    (b"[]", "bad_reply", Then.RETRY, 2),
    (b'{"id":"x"}', "bad_reply", Then.RETRY, 2),
    (b'{"choices":null}', "bad_reply", Then.RETRY, 2),
    (b'{"choices":[]}', "bad_reply", Then.RETRY, 2),
    (b'{"choices":[{}]}', "bad_reply", Then.RETRY, 1),
    (b'{"choices":' + b"[" * 100_000, "bad_reply", Then.RETRY, 2),
    (b'{"error":{"code":429,"message":"busy"}}', "rate_limited", Then.RETRY, None),
    (b'{"error":{"code":"429","message":"busy"}}', "rate_limited", Then.RETRY, None),
    (b'{"error":"something broke"}', "server", Then.RETRY, None),
    (b'[{"error":{"code":400,"message":"bad"}}]', "rejected", Then.FAIL_ROW, None),
    (b'{"error":{"message":"m","code":"context_length_exceeded"}}', "context_overflow", Then.FAIL_ROW, None),
    (b'{"error":{"message":"m","code":"insufficient_quota"}}', "rejected", Then.STOP_RUN, None),
    (b'{"choices":[{"message":{"content":"x"},"error":{"code":502,"message":"m"}}]}', "server", Then.RETRY, None),
    (body(finish="error"), "server", Then.RETRY, None),
    (body(finish="abort"), "server", Then.RETRY, None),
    (b'{"error":{"code":"' + b"9" * 5000 + b'","message":"m"}}', "server", Then.RETRY, None),
    (b'{"error":{"code":200,"message":"m"}}', "server", Then.RETRY, None),
    (b'{"error":{"code":true,"message":"\\ud800"}}', "server", Then.RETRY, None),
]


@pytest.mark.parametrize(("data", "error_class", "then", "most_tries"), MALFORMED)
def test_malformed_replies_have_one_class_each(
    data: bytes, error_class: str, then: Then, most_tries: int | None
) -> None:
    """R15, after a first success; nothing is raised, and everything can be stored."""

    async def main() -> None:
        came = await trouble_of(GOT_GOOD, got(200, data))
        assert (came.error_class, came.then, came.most_tries) == (error_class, then, most_tries)
        assert came.http_status == 200
        assert 0 < len(came.message) < 2300
        assert len(came.code or "") <= 100
        msgspec.json.encode(came)

    run(main())


def test_a_page_before_any_success_is_a_wrong_url() -> None:
    async def main() -> None:
        assert (await trouble_of(got(200, b"<html>"))).then is Then.STOP_RUN
        assert (await trouble_of(got(200, b'{"choices":[]}'))).then is Then.RETRY
        assert (await trouble_of(got(200, b""))).then is Then.RETRY

    run(main())


@pytest.mark.parametrize(
    ("status", "before", "after"),
    [(401, Then.STOP_RUN, Then.RETRY), (404, Then.STOP_RUN, Then.RETRY), (403, Then.STOP_RUN, Then.FAIL_ROW)],
)
def test_a_success_changes_what_a_refusal_means(status: int, before: Then, after: Then) -> None:
    async def main() -> None:
        assert (await trouble_of(got(status))).then is before
        assert (await trouble_of(got(500), got(status))).then is before
        assert (await trouble_of(GOT_GOOD, got(status))).then is after

    run(main())


def test_what_a_useless_reply_cost_is_kept() -> None:
    async def main() -> None:
        paid = json.dumps({"choices": [], "usage": REFERENCE["usage"]}).encode()
        came = await trouble_of(GOT_GOOD, got(200, paid), keep_raw=True)
        assert came.cost == Cost(nanousd=162_360, source="server")
        assert (came.usage.completion_tokens, came.maybe_billed, came.raw) == (536, False, paid.decode())
        assert (await trouble_of(got(200, b"{"))).maybe_billed
        assert (await trouble_of(got(200, b'{"error":{"code":504}}'))).maybe_billed
        assert not (await trouble_of(got(200, b'{"error":{"code":502}}'))).maybe_billed

    run(main())


def test_a_refusal_inside_a_200_keeps_what_it_cost() -> None:
    async def main() -> None:
        error = {"code": "400", "type": "content_filter", "message": "m"}
        data = json.dumps({"error": error, "usage": REFERENCE["usage"]}).encode()
        came = await last(got(200, data), keep_raw=True)
        assert isinstance(came, Reply)
        assert (came.status, came.cost, came.raw) == ("refused", Cost(nanousd=162_360, source="server"), data.decode())

    run(main())


def test_a_content_filter_settles_the_row() -> None:
    async def main() -> None:
        came = await last(got(400, b'{"error":{"code":"content_filter","message":"m"}}'))
        assert isinstance(came, Reply)
        assert (came.status, came.text, came.finish_reason) == ("refused", None, "content_filter")

    run(main())


@pytest.mark.parametrize(
    ("error", "error_class", "spends", "then"),
    [
        (ExchangeError("connect", "m", sent=False), "connect", Spends.ERROR, Then.RETRY),
        (ExchangeError("dns", "m", sent=False), "connect", Spends.ERROR, Then.STOP_RUN),
        (ExchangeError("tls", "m", sent=False), "connect", Spends.ERROR, Then.STOP_RUN),
        (ExchangeError("proxy", "m", sent=False), "connect", Spends.ERROR, Then.STOP_RUN),
        (ExchangeError("timeout", "m", sent=True), "timeout", Spends.AMBIGUOUS, Then.RETRY),
        (ExchangeError("disconnected", "m", sent=True), "disconnected", Spends.AMBIGUOUS, Then.RETRY),
        (ExchangeError("too_large", "m", sent=True), "bad_reply", Spends.AMBIGUOUS, Then.RETRY),
    ],
)
def test_cuts(error: ExchangeError, error_class: str, spends: Spends, then: Then) -> None:
    """#18 and #19; a name, proxy or certificate that was right once is only a passing failure."""

    async def main() -> None:
        first, later = await trouble_of(error), await trouble_of(GOT_GOOD, error)
        for came in (first, later):
            assert (came.error_class, came.spends, came.sent) == (error_class, spends, error.sent)
            assert came.maybe_billed is error.sent
            assert came.http_status is None
            assert came.message
        assert (first.then, later.then) == (then, Then.RETRY)

    run(main())


def test_a_throttle_with_a_hint_pauses_the_lane_and_no_other_trouble_does() -> None:
    async def main() -> None:
        made = lane(got(429), got(503, retry_after="50"), got(429, retry_after="40"), got(429, retry_after="400"))
        for paused_s in (0, 0, 40, 40):
            came = await made.attempt(ASK)
            assert made.gate.paused_s == pytest.approx(paused_s, abs=1)
        assert isinstance(came.came_to, Trouble)
        assert (came.came_to.then, came.came_to.error_class) == (Then.STOP_RUN, "rate_limited")

    run(main())


def test_no_header_can_pause_a_lane_for_longer_than_the_job_allows() -> None:
    """Promise 5: `x-should-retry: true` beside a wait of years ends the run; it does not hang it."""

    async def main() -> None:
        made = lane(got(429, x_should_retry="true", retry_after="999999999999"))
        came = (await made.attempt(ASK)).came_to
        assert isinstance(came, Trouble)
        assert came.then is Then.STOP_RUN
        assert made.gate.paused_s == 0

    run(main())


def test_the_model_of_a_row_is_the_one_that_its_reply_is_compared_with() -> None:
    async def main() -> None:
        made = lane(*[got(200, body(model="other"))] * 2)
        flags = [(await made.attempt(ASK, model=model)).came_to.flags for model in (None, "other")]  # type: ignore[union-attr]
        assert flags == [("model_mismatch",), ()]

    run(main())


def test_messages_and_codes_are_masked_and_bounded() -> None:
    async def main() -> None:
        for error in (
            {"message": f"bad key {KEY}"},
            {"message": "m", "code": KEY},
            {"message": "m", "code": f"x{KEY}" * 1000},
            {"message": "x" * 1_000_000},
        ):
            for status in (200, 401, 500):
                came = await trouble_of(got(status, json.dumps({"error": error}).encode()), secrets=(KEY,))
                assert KEY not in repr(came)
                assert len(came.message) < 2300
                assert len(came.code or "") <= 100

    run(main())


def job(**endpoint: Any) -> Job:
    return Job(
        name="n",
        input=InputSettings(path="i"),
        request={"model": MODEL},
        endpoint=EndpointSettings(base_url="b", **endpoint),
        output=OutputSettings(path="o"),
        limits=LimitSettings(concurrency=4),
        price=Price(input=0.12, output=0.30),
    )


async def over_socket(script: Script, *, key: str | None = KEY, **endpoint: Any) -> tuple[Attempt, RawServer]:
    loop = asyncio.get_running_loop()
    async with (
        raw_server(script) as server,
        open_lane(job(**endpoint), base_url=server.base_url, key=key, trust_env=False, clock=loop.time) as made,
    ):
        assert await made.gate.enter()
        return await made.attempt(ASK), server


def test_an_attempt_over_a_socket() -> None:
    async def main() -> None:
        came, _ = await over_socket(answer(whole(GOOD)))
        assert isinstance(came.came_to, Reply)
        assert (came.came_to.text, came.came_to.flags) == ("Jalapeño.", ())
        assert came.came_to.cost == Cost(nanousd=162_360, source="server")
        assert came.http_status == 200
        assert 0 < came.latency_ms < 5000

    run(main())


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ("Authorization", f"Authorization: Bearer {KEY}"),
        ("authorization", f"authorization: Bearer {KEY}"),
        ("api-key", f"api-key: {KEY}"),
    ],
)
def test_forms_of_the_auth_header(header: str, line: str) -> None:
    async def main() -> None:
        _, server = await over_socket(
            answer(whole(GOOD)), auth_header=header, headers={"X-Extra": "1"}, query={"api-version": "1"}
        )
        head = server.requests[0].partition(b"\r\n\r\n")[0].decode().split("\r\n")
        assert line in head
        assert "X-Extra: 1" in head
        assert "?api-version=1 " in head[0]
        assert sum(KEY in one for one in head) == 1

    run(main())


def test_no_key_no_auth_header() -> None:
    async def main() -> None:
        _, server = await over_socket(answer(whole(GOOD)), key=None)
        assert b"uthorization" not in server.requests[0]

    run(main())


def test_a_server_that_wants_a_key_and_gets_none_is_told_from_one_that_refuses_it() -> None:
    async def main() -> None:
        wants = answer(whole(b'{"error":{"message":"Invalid API Key"}}', status="401 Unauthorized"))
        for key, says in ((None, "no key was sent: neither endpoint.api_key_env"), (KEY, "key from KEY_OF_TEST")):
            attempt, _ = await over_socket(wants, key=key, api_key_env=key and "KEY_OF_TEST")
            assert isinstance(attempt.came_to, Trouble)
            assert f"HTTP 401: Invalid API Key ({says}" in attempt.came_to.message

    run(main())


async def _hang(peer: Peer) -> None:
    await peer.request()
    await peer.gone()


@pytest.mark.parametrize(
    ("script", "error_class", "then"),
    [
        (answer(whole(f'{{"error":"wrong key {KEY}"}}'.encode(), status="401 No")), "rejected", Then.STOP_RUN),
        (answer(whole(f"<html>{KEY}".encode(), status="502 Bad")), "server", Then.RETRY),
        (answer(whole(b"", status="302 Moved", headers=f"Location: http://{KEY}/\r\n")), "rejected", Then.STOP_RUN),
        (answer(whole(GOOD)[:-9]), "disconnected", Then.RETRY),
        (answer(), "disconnected", Then.RETRY),
        (answer(b"HTTP/9 " + KEY.encode() + b"\r\n\r\n"), "disconnected", Then.RETRY),
        (_hang, "timeout", Then.RETRY),
    ],
)
def test_trouble_over_a_socket_never_shows_the_key(script: Script, error_class: str, then: Then) -> None:
    async def main() -> None:
        came, _ = await over_socket(script, timeout_s=0.2)
        assert isinstance(came.came_to, Trouble)
        assert (came.came_to.error_class, came.came_to.then) == (error_class, then)
        assert KEY not in repr(came)
        ambiguous = error_class in {"disconnected", "timeout"}
        assert came.came_to.maybe_billed is ambiguous
        assert (came.came_to.spends is Spends.AMBIGUOUS) is ambiguous

    run(main())


def test_a_gzip_stream_cut_by_its_own_length_is_a_bad_reply() -> None:
    """aiohttp takes it as whole; the JSON inside tells (#20)."""

    async def main() -> None:
        cut = whole(gzip.compress(GOOD)[:-20], headers="Content-Encoding: gzip\r\n")
        came = (await over_socket(answer(cut)))[0].came_to
        assert isinstance(came, Trouble)
        assert (came.error_class, came.then, came.most_tries) == ("bad_reply", Then.RETRY, 2)
        assert came.maybe_billed

    run(main())


def test_no_exception_chain_shows_the_key() -> None:
    """A7: what a log or a traceback would print of a broken exchange, context included."""

    async def main() -> None:
        for script in (answer(b"nonsense\r\n\r\n"), answer(whole(GOOD)[:-9])):
            async with raw_server(script) as server:
                async with open_lane(
                    job(), base_url=server.base_url, key=KEY, trust_env=False, clock=lambda: 0.0
                ) as made:
                    with pytest.raises(ExchangeError) as caught:
                        await made._transport.exchange(ASK)
                assert KEY not in "".join(traceback.format_exception(caught.value))

    run(main())


def test_nobody_listens() -> None:
    async def main() -> None:
        base_url = f"http://127.0.0.1:{closed_port()}"
        async with open_lane(job(), base_url=base_url, key=None, trust_env=False, clock=lambda: 0.0) as made:
            came = (await made.attempt(ASK)).came_to
        assert isinstance(came, Trouble)
        assert (came.error_class, came.then, came.sent, came.maybe_billed) == ("connect", Then.RETRY, False, False)

    run(main())


class Notes:
    """A Watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []

    def progressed(self, progress: Progress) -> None:
        pass

    def noted(self, event: str, **facts: Any) -> None:
        self.told.append((event, facts))


def test_what_is_not_as_it_was_asked_for_is_told_once() -> None:
    """One line for each pair of models, however many rows; a server can't make more than a hundred of them."""

    async def main() -> None:
        notes = Notes()
        answers = [body(model="a"), body(model="a", service_tier="default"), body(model="b"), GOOD]
        answers += [body(model=f"model {number}") for number in range(200)]
        made = lane(*[got(200, data) for data in answers], got(429, retry_after="soon"), watcher=notes)
        for _ in range(4):
            await made.attempt(ASK[:-1] + b',"service_tier":"flex"}')
        assert notes.told == [
            ("another model answered", {"asked": MODEL, "answered": "a"}),
            ("another service tier was used", {"asked": "flex"}),
            ("another model answered", {"asked": MODEL, "answered": "b"}),
        ]
        for _ in range(200):
            await made.attempt(ASK)
        assert len(notes.told) == 100

    run(main())


def test_a_wait_that_cannot_be_read_is_told() -> None:
    async def main() -> None:
        notes = Notes()
        made = lane(got(429, retry_after="soon"), got(429, retry_after="later"), watcher=notes)
        for _ in range(2):
            await made.attempt(ASK)
        assert notes.told == [("a wait that the server asks for can't be read", {"header": "retry-after"})]

    run(main())


def test_an_echo_of_the_prompt_is_no_part_of_a_message() -> None:
    async def main() -> None:
        prompt = 'Summarise:\n"The patient, née Müller, has a bad cough."'
        ask = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": prompt}]}).encode()
        for message in (prompt, json.dumps(prompt), json.dumps(prompt, ensure_ascii=False), repr(prompt)):
            for status in (200, 400, 500):
                data = json.dumps({"error": {"message": f"invalid: {message}!", "code": 400}}).encode()
                came = (await lane(got(status, data)).attempt(ask)).came_to
                assert isinstance(came, Trouble)
                assert "patient" not in came.message
                assert "invalid: " in came.message
                assert came.message.endswith("!")

    run(main())


def test_cancellation_passes() -> None:
    async def main() -> None:
        async with raw_server(_hang) as server:
            async with open_lane(job(), base_url=server.base_url, key=None, trust_env=False, clock=lambda: 0.0) as made:
                task = asyncio.create_task(made.attempt(ASK))
                while not server.requests:  # noqa: ASYNC110 - turns of the loop, bounded by run()
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await server.closed.wait()

    run(main())
