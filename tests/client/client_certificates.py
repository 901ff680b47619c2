"""A certificate that nobody signed, made by openssl for each run of the tests."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Certificate:
    """A certificate for 127.0.0.1 and api.example.invalid, and its key beside it."""

    path: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.path, f"{self.path}.key")
        return context

    def folder(self, folder: Path) -> Path:
        """Put it into a folder of CAs as OpenSSL looks them up: by the hash of the subject."""
        command = [_openssl(), "x509", "-hash", "-noout", "-in", str(self.path)]
        name = subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
        folder.mkdir()
        shutil.copy(self.path, folder / f"{name}.0")
        return folder


def _openssl() -> str:
    found = shutil.which("openssl")
    if found is None:
        pytest.skip("no openssl")
    return found


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    names = "subjectAltName=IP:127.0.0.1,DNS:api.example.invalid"
    command = [_openssl(), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", names, "-keyout", f"{path}.key", "-out", str(path)]
    subprocess.run(command, capture_output=True, check=True)
    return Certificate(path)
