"""TLS is verified, and the variables of OpenSSL name the CAs of one's own (issue 4, item 6)."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from client_certificates import Certificate, certificate
from client_raw_server import answer, raw_server, whole
from client_replies import GOOD
from client_transports import opened, transport_kind
from e2e_tools import job_file, write_rows

from batchrun.client.arriving import ExchangeError
from batchrun.model.attempt import Exchange

__all__ = ["certificate", "transport_kind"]
Loops = Callable[[], asyncio.AbstractEventLoop] | None


@pytest.fixture(autouse=True)
def no_own_ca(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


def run(main: Coroutine[Any, Any, None], loops: Loops) -> None:
    with asyncio.Runner(loop_factory=loops) as runner:
        runner.run(asyncio.wait_for(main, 10))


async def asked(certificate: Certificate, host: str = "127.0.0.1") -> Exchange | ExchangeError:
    """What a request comes to; a server that is not trusted sees none."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server's half of the handshake
    async with raw_server(answer(whole(GOOD)), tls=certificate.server_context()) as server:
        base_url = server.base_url.replace("127.0.0.1", host)
        async with opened(base_url) as transport:
            try:
                return await transport.exchange(b"{}")
            except ExchangeError as error:
                assert server.requests == []
                return error


@pytest.mark.parametrize("loops", [None, uvloop.new_event_loop])
def test_a_certificate_that_nobody_signed_is_refused_with_what_to_do(certificate: Certificate, loops: Loops) -> None:
    async def main() -> None:
        came = await asked(certificate)
        assert isinstance(came, ExchangeError)
        assert (came.phase, came.sent) == ("tls", False)
        assert str(came) in {
            f"TLS failed: self{dash}signed certificate; name a CA of your own in SSL_CERT_FILE" for dash in "- "
        }

    run(main(), loops)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
@pytest.mark.parametrize("loops", [None, uvloop.new_event_loop])
def test_a_ca_of_ones_own_is_trusted(
    certificate: Certificate, variable: str, loops: Loops, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    value = certificate.path if variable == "SSL_CERT_FILE" else certificate.folder(tmp_path / "cas")
    monkeypatch.setenv(variable, str(value))

    async def main() -> None:
        came = await asked(certificate)
        assert isinstance(came, Exchange)
        assert came.body == GOOD

    run(main(), loops)


def test_a_trusted_certificate_of_another_name_is_refused(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.path))

    async def main() -> None:
        came = await asked(certificate, "localhost")
        assert isinstance(came, ExchangeError)
        assert came.phase == "tls"
        assert "Hostname mismatch" in str(came)

    run(main(), None)


@pytest.mark.parametrize(("is_trusted", "status", "told"), [(True, 0, ""), (False, 3, "signed certificate")])
def test_the_command_trusts_whom_a_request_trusts(
    certificate: Certificate, tmp_path: Path, *, is_trusted: bool, status: int, told: str
) -> None:
    """A process of the command's own reads certificates later than others do: not when aiohttp is imported."""
    environment = dict(os.environ) | ({"SSL_CERT_FILE": str(certificate.path)} if is_trusted else {})
    write_rows(tmp_path, [{"prompt": "hi"}])

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server's half of the handshake
        async with raw_server(answer(whole(GOOD)), tls=certificate.server_context()) as server:
            job = job_file(tmp_path, endpoint={"base_url": server.base_url}, limits={"max_outage_s": 0.01})
            words = (sys.executable, "-m", "batchrun", "run", str(job))
            process = await asyncio.create_subprocess_exec(*words, stderr=PIPE, stdout=PIPE, env=environment)
            _, errors = await process.communicate()
            assert process.returncode == status, errors
            assert told in errors.decode()
            assert bool(server.requests) == is_trusted

    with asyncio.Runner() as runner:
        runner.run(asyncio.wait_for(main(), 60))


def test_a_proxy_behind_tls_is_trusted_by_the_same_ca(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.path))

    async def main() -> None:
        async with raw_server(answer(whole(GOOD)), tls=certificate.server_context()) as proxy:
            monkeypatch.setenv("http_proxy", proxy.base_url.rpartition("/")[0])
            async with opened("http://endpoint.invalid/v1", trust_env=True) as transport:
                assert (await transport.exchange(b"{}")).body == GOOD

    run(main(), None)
