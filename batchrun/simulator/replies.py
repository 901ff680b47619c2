"""What was asked into the body of a reply, with usage and cost as DeepInfra reports it (PROTOCOL.md 0.1)."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING

import msgspec

from batchrun.errors import JobError
from batchrun.simulator.completion import Choice, Completion, FinishReason, Message, Usage, streamed
from batchrun.simulator.draws import draw, draw_bytes, draw_hex
from batchrun.simulator.example import example

if TYPE_CHECKING:
    from batchrun.job.settings import SimulatorSettings
    from batchrun.simulator.asked import Asked

# Some are not ASCII, so that whoever reads a reply has to read UTF-8.
_WORDS = """
    amber anchor autumn basket birch bridge bronze cabin candle canyon cedar cinder clover coast copper
    crystal delta desert drift eagle ember engine falcon feather fjord forest garden garnet glacier
    grain granite harbour harvest hollow island ivory jasper kettle lantern lattice linen maple marble
    mañana meadow mirror nectar north ocean orchard pebble pine quartz raven river saddle shadow silver
    thistle timber valley velvet winter café
"""
_BY_BYTE = tuple(_WORDS.split()) * 4
"""64 words four times: one for each value of a byte."""
_CHARS_PER_TOKEN = 4
_NANOUSD = 10**9


class Reply(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A reply as it is sent, and what it costs in nano-USD; a streamed one has its `events` instead of a body."""

    body: bytes
    events: tuple[bytes, ...] = ()
    prompt_tokens: int
    completion_tokens: int
    cost_nanousd: int


class Replies:
    """Writes the replies of one simulator: the same content for each try of a prompt, an id for each."""

    def __init__(self, settings: SimulatorSettings) -> None:
        """Prepare; JobError where `choices` are to be answered and there are none."""
        if settings.reply == "choices" and not settings.choices:
            raise JobError('simulator.choices: expected at least one, because simulator.reply is "choices"')
        self._settings = settings
        self._encode = msgspec.json.Encoder().encode
        self._input_nanousd = _nanousd_per_token(settings.input_usd_per_mtok)
        self._output_nanousd = _nanousd_per_token(settings.output_usd_per_mtok)

    def reply(self, asked: Asked, nth: int, *, created: int) -> Reply:
        """Return the reply to the nth try of a prompt, counted from 0; `created` is in unix seconds."""
        content = self._content(asked.digest)
        words = len(content.split())
        most = asked.most_tokens
        finish_reason: FinishReason = "stop"
        if most is not None and most < words:
            content, words, finish_reason = " ".join(content.split()[:most]), most, "length"
        prompt_tokens = max(1, asked.prompt_chars // _CHARS_PER_TOKEN)
        cost_nanousd = self.cost_nanousd(prompt_tokens, words)
        completion = Completion(
            id="chatcmpl-" + draw_hex(self._settings.seed, asked.digest, nth, "id"),
            created=created,
            model=asked.model,
            choices=(Choice(message=Message(content=content), finish_reason=finish_reason),),
            usage=Usage(
                prompt_tokens=prompt_tokens,
                total_tokens=prompt_tokens + words,
                completion_tokens=words,
                estimated_cost=msgspec.Raw(usd_text(cost_nanousd).encode()),
            ),
        )
        return Reply(
            body=b"" if asked.stream else self._encode(completion),
            events=streamed(completion, with_usage=asked.with_usage) if asked.stream else (),
            prompt_tokens=prompt_tokens,
            completion_tokens=words,
            cost_nanousd=cost_nanousd,
        )

    def cost_nanousd(self, prompt_tokens: int, completion_tokens: int) -> int:
        """Return the price of the tokens, rounded to whole nano-USD."""
        exact = prompt_tokens * self._input_nanousd + completion_tokens * self._output_nanousd
        return int(exact.to_integral_value(rounding=ROUND_HALF_EVEN))

    def _content(self, digest: str) -> str:
        settings = self._settings
        if settings.reply == "choices":
            chance = draw(settings.seed, digest, 0, "choice")
            return settings.choices[int(chance * len(settings.choices))]
        if settings.reply == "json":
            value = example(
                settings.schema or {"type": "object"},
                lambda place: draw(settings.seed, digest, 0, f"json {place}"),
            )
            return self._encode(value).decode()
        return self._text(digest)

    def _text(self, digest: str) -> str:
        """Return the digest and fillers: `completion_tokens` words, or down to three quarters of that."""
        most = self._settings.completion_tokens
        fewest = (3 * most + 3) // 4
        # The first four bytes say how many of the words that follow are taken; the digest is a word too.
        stream = draw_bytes(self._settings.seed, digest, "words", most + 3)
        more = int.from_bytes(stream[:4], "big") * (most - fewest + 1) >> 32
        return " ".join((digest, *map(_BY_BYTE.__getitem__, stream[4 : fewest + more + 3])))


def usd_text(nanousd: int) -> str:
    """Return nano-USD as USD, an exact JSON number without an exponent."""
    whole, rest = divmod(nanousd, _NANOUSD)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".")


def _nanousd_per_token(usd_per_mtok: float) -> Decimal:
    return Decimal(str(usd_per_mtok)) * 1000
