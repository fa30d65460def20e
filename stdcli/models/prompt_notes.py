"""What the user should know about prompts: CLIP reads 77 tokens, and a negative prompt needs guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

UNUSED_NEGATIVE = "a negative prompt does nothing without guidance: --guidance over 1"


def prompt_notes(
    tokenizers: Sequence[Any], prompt: str | None, negative_prompt: str | None, *, guided: bool
) -> tuple[str, ...]:
    """A note on each prompt that is longer than the text encoders read, and on one that is not used at all.

    Args:
        tokenizers: the model's tokenizers; the first one that truncates speaks.
        prompt: as the user gave it.
        negative_prompt: as the user gave it.
        guided: whether there is an unconditional branch, which the negative prompt is for.
    """
    notes = [UNUSED_NEGATIVE] if negative_prompt and not guided else []
    used = (prompt, negative_prompt if guided else None)
    for text in filter(None, used):
        for tokenizer in tokenizers:
            room = tokenizer.model_max_length - 1  # the end mark takes the last place
            ids = tokenizer(text, truncation=False).input_ids
            if len(ids) > tokenizer.model_max_length:
                lost = tokenizer.decode(ids[room:-1]).strip()
                notes.append(
                    f'the text encoder reads {tokenizer.model_max_length} tokens; it does not see: "{lost}"'
                )
                break
    return tuple(notes)
