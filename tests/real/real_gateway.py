"""A LiteLLM proxy before the llama.cpp server, with prices and request limits of its own."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from e2e_tools import PATIENCE_S, wait_for
from real_llama import KEY, MODEL, Llama

COMMAND = Path(sys.executable).with_name("litellm")
GATEWAY_KEY = "sk-gateway-0123456789"
INPUT_USD_PER_MTOK, OUTPUT_USD_PER_MTOK = 0.12, 0.30
RPM = 5
UNLIMITED, LIMITED, PACED = "unlimited", "limited", "paced"
"""The models it offers: all are the same one behind it; two have a limit of RPM requests a minute each."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A LiteLLM proxy on this machine."""

    base_url: str


@contextlib.contextmanager
def gateway_before(llama: Llama, folder: Path) -> Iterator[Gateway]:
    """Run a proxy for as long as the block lasts; its files and what it logs stay in `folder`."""
    config = folder / "config.yaml"
    config.write_text(json.dumps(_config(llama)), encoding="utf-8")  # JSON is YAML
    port = _free_port()
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen(
            [COMMAND, "--config", config, "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"],
            cwd=folder,
            env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(lambda: _answers(f"http://127.0.0.1:{port}/health/liveliness"), process)  # type: ignore[arg-type]
        yield Gateway(f"http://127.0.0.1:{port}/v1")
    finally:
        process.terminate()
        try:
            process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _config(llama: Llama) -> dict[str, object]:
    def model(name: str, **limits: int) -> dict[str, object]:
        behind = {
            "model": f"openai/{MODEL}",
            "api_base": llama.base_url,
            "api_key": KEY,
            "input_cost_per_token": INPUT_USD_PER_MTOK / 1e6,
            "output_cost_per_token": OUTPUT_USD_PER_MTOK / 1e6,
        }
        return {"model_name": name, "litellm_params": behind | limits}

    return {
        "model_list": [model(UNLIMITED), model(LIMITED, rpm=RPM), model(PACED, rpm=RPM)],
        "router_settings": {
            "optional_pre_call_checks": ["enforce_model_rate_limits"],
            "num_retries": 0,
            "disable_cooldowns": True,
        },
        "general_settings": {"master_key": GATEWAY_KEY},
    }


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S):
            return True
    except OSError:
        return False
