"""What the user should know about prompts: CLIP reads 77 tokens and drops the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def truncation_notes(tokenizers: Sequence[Any], *prompts: str | None) -> tuple[str, ...]:
    """One note per prompt that is longer than the text encoders read.

    Args:
        tokenizers: the model's tokenizers; the first one that truncates speaks.
        prompts: as the user gave them.
    """
    notes = []
    for prompt in filter(None, prompts):
        for tokenizer in tokenizers:
            kept = tokenizer.model_max_length - 1  # the end mark takes the last place
            ids = tokenizer(prompt, truncation=False).input_ids
            if len(ids) > tokenizer.model_max_length:
                lost = tokenizer.decode(ids[kept:-1]).strip()
                notes.append(
                    f'the text encoder reads {tokenizer.model_max_length} tokens; it does not see: "{lost}"'
                )
                break
    return tuple(notes)
