"""The key that a job names, from the environment or a file, and whether a proxy is set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

from batchrun.engine.access import access_of
from batchrun.errors import JobError
from batchrun.job.settings import EndpointSettings, InputSettings, Job, OutputSettings

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "5ENTINEL-secret"


def job(
    base_url: str = "https://host/v1",
    *,
    env: str | None = None,
    file: str | None = None,
    transport: Literal["auto", "lean", "session"] = "auto",
) -> Job:
    endpoint = EndpointSettings(base_url=base_url, api_key_env=env, api_key_file=file, transport=transport)
    source, output = InputSettings(path="/in.jsonl"), OutputSettings(path="/out")
    return Job(name="j", input=source, request={"model": "m"}, endpoint=endpoint, output=output)


@pytest.mark.parametrize("text", [SECRET, f"{SECRET}\n", f" {SECRET}\r\n", f"\t{SECRET} "])
def test_a_key_is_trimmed(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_bytes(text.encode())
    assert access_of(job(env="A_KEY"), {"A_KEY": text})[0].key == SECRET
    assert access_of(job(file=str(tmp_path / "key")), {})[0].key == SECRET


@pytest.mark.parametrize(
    "text",
    [
        f"{SECRET}\nx",
        f"{SECRET}\r\nx",
        f"{SECRET}\x00",
        f"{SECRET}\x1f",
        f"\x0b{SECRET}",
        f"{SECRET}\x7f",
        f"{SECRET}é",
        f"\u200b{SECRET}",
        f"\ufeff{SECRET}",
        f"Bearer {SECRET}",
        f"{SECRET}\tx",
    ],
)
def test_a_key_with_characters_that_none_has(tmp_path: Path, text: str) -> None:
    """A line break in a key would be a header of its own."""
    (tmp_path / "key").write_text(text, encoding="utf-8")
    for given in (job(env="A_KEY"), job(file=str(tmp_path / "key"))):
        with pytest.raises(JobError, match="holds characters that no key has") as refused:
            access_of(given, {"A_KEY": text})
        assert "5ENTINEL" not in str(refused.value)


@pytest.mark.parametrize("environ", [{}, {"A_KEY": ""}, {"A_KEY": " \n"}, {"a_key": SECRET}])
def test_a_missing_variable_is_named(environ: dict[str, str]) -> None:
    with pytest.raises(JobError, match=r"variable A_KEY named by endpoint\.api_key_env is not set or is empty"):
        access_of(job(env="A_KEY"), environ)


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, why in (("none", "No such file"), (".", "Is a directory"), ("empty", "is empty"), ("binary", "not text")):
        with pytest.raises(JobError, match=rf"named by endpoint\.api_key_file .*{why}"):
            access_of(job(file=str(tmp_path / name)), {})


def test_no_key_is_no_key() -> None:
    assert access_of(job(), {"A_KEY": SECRET})[0].key is None


def test_the_simulator_needs_neither_key_nor_proxy() -> None:
    (access,) = access_of(job("simulator", env="A_KEY"), {"HTTPS_PROXY": "http://proxy:1"})
    assert (access.key, access.trust_env) == (None, False)


def test_a_proxy_is_followed_where_one_is_set_for_the_url() -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        assert access_of(job(), {name: "http://proxy:1"})[0].trust_env
    assert not access_of(job(), {"http_proxy": "http://proxy:1"})[0].trust_env
    assert access_of(job("http://host/v1"), {"http_proxy": "http://proxy:1"})[0].trust_env
    assert not access_of(job(), {"NO_PROXY": "*", "PATH": "/bin"})[0].trust_env


def test_a_proxy_that_can_not_be_used_is_refused_before_anything_is_made() -> None:
    with pytest.raises(JobError, match="variable HTTPS_PROXY: expected") as refused:
        access_of(job(), {"HTTPS_PROXY": f"socks5://me:{SECRET}@proxy:1080"})
    assert SECRET not in str(refused.value)


def test_the_lean_transport_takes_no_proxy() -> None:
    proxied = {"https_proxy": f"http://me:{SECRET}@proxy:1"}
    with pytest.raises(JobError, match=r'^endpoint\.transport: "lean" takes no proxy') as refused:
        access_of(job(transport="lean"), proxied)
    assert SECRET not in str(refused.value)
    assert access_of(job(transport="session"), proxied)[0].trust_env
    for environ in ({}, {**proxied, "no_proxy": "host"}, {"http_proxy": "http://proxy:1"}):
        assert not access_of(job(transport="lean"), environ)[0].trust_env
    assert not access_of(job("simulator", transport="lean"), proxied)[0].trust_env
