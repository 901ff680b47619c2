"""A secret in a job file or an override is refused, and no message repeats it (DEMAND.md R32)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from job_files import SMALL, loaded, refusal

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "sk-" + "5ENTINELsecret0123456789abcdef"  # no key: in two pieces, so that no scan takes it for one
BARE = "aB3dEfGhIjKlMnOpQrStUvWxYz012345"


@pytest.mark.parametrize(
    ("override", "at"),
    [
        (f'endpoint.api_key="{SECRET}"', "endpoint.api_key"),
        (f'endpoint.key="{BARE}"', "endpoint.key"),
        (f'endpoint.Token="{BARE}"', "endpoint.Token"),
        (f'request.api_key="{BARE}"', "request.api_key"),
        (f'endpoint.headers.Authorization="Basic {BARE}"', "endpoint.headers.Authorization"),
        (f'endpoint.headers.api-key="{BARE}"', "endpoint.headers.api-key"),
        (f'endpoint.headers.X-API-Key="{BARE}"', "endpoint.headers.X-API-Key"),
        (f'endpoint.headers.apikey="{BARE}"', "endpoint.headers.apikey"),
        (f'endpoint.headers.cf-aig-authorization="{BARE}"', "endpoint.headers.cf-aig-authorization"),
        (f'endpoint.headers.Ocp-Apim-Subscription-Key="{BARE}"', "endpoint.headers.Ocp-Apim-Subscription-Key"),
        (f'endpoint.headers.Cookie="session={BARE}"', "endpoint.headers.Cookie"),
        (f'endpoint.headers.X-Title="Bearer {BARE}"', "endpoint.headers.X-Title"),
        (f'endpoint.query.key="{BARE}"', "endpoint.query.key"),
        (f'endpoint.query.API_KEY="{BARE}"', "endpoint.query.API_KEY"),
        (f"endpoint.api_key_env={SECRET}", "endpoint.api_key_env"),
        (f"endpoint.api_key_env={BARE}", "endpoint.api_key_env"),
        ("endpoint.api_key_env=${5ENTINELsecret}", "endpoint.api_key_env"),
        ("endpoint.api_key_env=", "endpoint.api_key_env"),
        (f"prompt.system=Use {SECRET}.", "prompt.system"),
        (f"request.user={SECRET}", "request.user"),
        (f'request.metadata={{a=["x", "{SECRET}"]}}', "request.metadata.a[1]"),
        (f"name={SECRET}", "name"),
        ("request.user=AKIA5ENTINEL00000000", "request.user"),
        ("request.user=AIza5ENTINEL" + "x" * 30, "request.user"),
        ("request.user=hf_5ENTINEL0123456789abcdef", "request.user"),
    ],
)
def test_a_secret_is_refused_by_its_place_or_its_form(tmp_path: Path, override: str, at: str) -> None:
    message = refusal(tmp_path, override)
    assert message.startswith(f"{at}: ")
    assert "environment variable" in message
    assert BARE not in message
    assert "5ENTINEL" not in message


@pytest.mark.parametrize("url", [f"https://user:{BARE}@host/v1", f"https://{BARE}@host/v1", f"https://:{BARE}@host/v1"])
def test_a_secret_in_the_base_url(tmp_path: Path, url: str) -> None:
    message = refusal(tmp_path, f"endpoint.base_url={url}")
    assert message.startswith("endpoint.base_url: a secret must not stand in the job file")
    assert BARE not in message


def test_the_header_of_the_key_is_not_given_twice(tmp_path: Path) -> None:
    message = refusal(tmp_path, "endpoint.auth_header=X-Mine", f'endpoint.headers.x-mine="{BARE}"')
    assert message.startswith("endpoint.headers.x-mine: a secret must not stand")
    assert BARE not in message


@pytest.mark.parametrize(
    "override",
    [
        SECRET,
        f"endpoint.api_key:{SECRET}",
        f"={SECRET}",
        f"name.x={SECRET}",
        f"..={SECRET}",
        f"request.{SECRET}=1",
        f"endpoint.{SECRET}.x=1",
        f'request.stop=["{SECRET}"',
        f"endpoint.transport={SECRET}",
        f"limits.max_failed={SECRET}",
        f"limits.deadline={SECRET}",
        f"output.path=s3://{SECRET}@bucket",
        f"endpoint.base_url=ftp://{SECRET}",
    ],
)
def test_no_message_repeats_a_secret(tmp_path: Path, override: str) -> None:
    assert "5ENTINEL" not in refusal(tmp_path, override)


@pytest.mark.parametrize(
    "text",
    [
        SMALL + f'api_key = "{SECRET}\n',
        SMALL + f"api_key = {SECRET}\n",
        SMALL + f'"{SECRET}" = 1\n',
        SMALL + f'["{SECRET}"]\n',
        f'"{SECRET}" = 1\n"{SECRET}" = 2\n',
    ],
)
def test_no_message_repeats_a_secret_of_the_file(tmp_path: Path, text: str) -> None:
    assert "5ENTINEL" not in refusal(tmp_path, text=text)


@pytest.mark.parametrize(
    "override",
    [
        "prompt.system=Explain Bearer authentication and bearer certificates.",
        "prompt.system=A risk-averse task-oriented desk-bound clerk; use scikit-learn.",
        "request.model=hf:meta-llama/Llama-3.3-70B-Instruct",
        "endpoint.api_key_env=DEEPINFRA_API_KEY",
        "endpoint.api_key_env=my_provider_key_2",
        "endpoint.headers={X-Title='batchrun', HTTP-Referer='https://example.org', X-Max-Tokens='8'}",
        "endpoint.query={api-version='2024-10-21'}",
        "request.max_tokens=8",
        "simulator.schema={type='object', properties={api_key={type='string'}, token={type='string'}}}",
    ],
)
def test_what_is_no_secret(tmp_path: Path, override: str) -> None:
    loaded(tmp_path, override)
