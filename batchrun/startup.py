"""How a process of batchrun's own starts: what libraries do when they are imported and no command needs is left out.

A process that is somebody else's, who calls `batchrun.run`, is left as it is. Measured in CPU time, of 540 ms that a
run over no rows took: numpy, which pyarrow imports where it is there, 72 ms; the garbage collector, which goes over
all that is being imported again and again and once more at the end, 75 ms; certificates, which aiohttp reads when it
is imported and batchrun reads for itself where the URL is https, 59 ms.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_LEFT_OUT = frozenset({"numpy", "pandas"})
"""What pyarrow imports where it is installed; pandas by the first `pa.array`, in 0.4 s."""
_READS_CERTIFICATES = "aiohttp.connector"
_YOUNG_OBJECTS = 5_000
"""What a run has in flight comes and goes by the hundreds. With 700, Python's own number, the collector ran once for
18 rows and took 9 µs of CPU a row to find nothing; with this one it ran five times in 20,000 rows."""


def start_light() -> None:
    """Have what is imported from now on do without what no command needs."""
    if _Light not in sys.meta_path:
        sys.meta_path.insert(0, _Light)


@contextmanager
def loading() -> Generator[None]:
    """Import inside, with the garbage collector at rest; what is there at the end it never looks at again.

    What comes later it looks at less often than it would have.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
        gc.set_threshold(_YOUNG_OBJECTS)
    finally:
        gc.enable()


class _Light:
    """Finds no module that is to be left out, and the reader of certificates so that it reads none."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None, /) -> ModuleSpec | None:
        """Raise ModuleNotFoundError for what is left out; know nothing of nearly any other module."""
        if name in _LEFT_OUT:
            raise ModuleNotFoundError(name, name=name)
        if name != _READS_CERTIFICATES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module
            spec.loader.exec_module = _certificates_unread()(load)  # type: ignore[method-assign]
        return spec


@contextmanager
def _certificates_unread() -> Generator[None]:
    """Have TLS contexts that are made inside trust nobody; all that they would refuse stays refused."""
    from ssl import SSLContext  # noqa: PLC0415 - `--help` needs none; who gets here is about to import it

    read = SSLContext.set_default_verify_paths
    SSLContext.set_default_verify_paths = lambda self: None  # type: ignore[method-assign]  # noqa: ARG005
    try:
        yield
    finally:
        SSLContext.set_default_verify_paths = read  # type: ignore[method-assign]
