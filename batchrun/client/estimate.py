"""How many tokens a request will use, before it is sent; what replies report corrects both halves. Pure."""

from __future__ import annotations

from batchrun.model.attempt import Usage

FIRST_BYTES_A_TOKEN = 4.0
FIRST_OUTPUT_TOKENS = 512.0
MOST_TOKENS = 1_000_000
"""What no prompt and no reply has: a count beyond it is an error of the server's, and must not be learned from."""
MEMORY = 0.98
"""What a reply weighs against the one after it: the last fifty count for about two thirds."""


class Estimate:
    """Learns bytes of a body for each token of its prompt, and the length of replies, from those that came lately."""

    def __init__(self, *, most_output_tokens: int | None) -> None:
        """Expect at most `most_output_tokens` a reply, where the job says so."""
        self._most_output = most_output_tokens or MOST_TOKENS
        self._output = min(FIRST_OUTPUT_TOKENS, float(self._most_output))
        self._bytes, self._tokens = FIRST_BYTES_A_TOKEN, 1.0
        self._weight = 0.0
        self._outputs = 0.0

    def tokens(self, body_bytes: int) -> float:
        """Return the tokens, input and output, that a request of this size is expected to use."""
        return body_bytes * self._tokens / self._bytes + self._output

    def learn(self, body_bytes: int, usage: Usage) -> None:
        """Take a reply into account; one without counts teaches nothing."""
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        if prompt is None or completion is None:
            return
        if prompt > MOST_TOKENS or completion > self._most_output:
            prompt, completion = min(MOST_TOKENS, prompt), min(self._most_output, completion)
        self._bytes = self._bytes * MEMORY + body_bytes
        self._tokens = self._tokens * MEMORY + prompt
        self._weight = self._weight * MEMORY + 1
        self._outputs = self._outputs * MEMORY + completion
        self._output = self._outputs / self._weight
