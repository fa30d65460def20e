"""The quiet door to diffusers and transformers.

Both libraries log to stderr on import and draw progress bars while loading; a command's own messages say what
matters instead (truncated prompts, missing keys and the like are checked here, not left to a log line). The
user's own `TRANSFORMERS_VERBOSITY` and `DIFFUSERS_VERBOSITY` win. Import the upstream names from this module.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

if "DIFFUSERS_VERBOSITY" not in os.environ:
    diffusers_logging.set_verbosity_error()
if "TRANSFORMERS_VERBOSITY" not in os.environ:
    transformers_logging.set_verbosity_error()

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import SingleFileComponentError
from diffusers.models import ImageProjection
from diffusers.models.embeddings import get_timestep_embedding
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from transformers import (
    CLIPImageProcessorPil,  # the plain name wants torchvision, and warns where it is missing
    CLIPModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    Dinov2Model,
    ViTModel,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

diffusers_logging.disable_progress_bar()
transformers_logging.disable_progress_bar()

FAULTS = (
    OSError,
    ValueError,
    TypeError,
    RuntimeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    ImportError,
    StrictDataclassError,
)  # upstream's ways to say that files are wrong or do not fit together

__all__ = [
    "FAULTS",
    "OPENAI_CLIP_MEAN",
    "OPENAI_CLIP_STD",
    "AutoencoderKL",
    "CLIPImageProcessorPil",
    "CLIPModel",
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "CLIPTokenizer",
    "CLIPVisionConfig",
    "CLIPVisionModel",
    "CLIPVisionModelWithProjection",
    "DDIMScheduler",
    "Dinov2Model",
    "ImageProjection",
    "LoraConfig",
    "SingleFileComponentError",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "UNet2DConditionModel",
    "ViTModel",
    "class_named",
    "first_line",
    "get_pattern_key",
    "get_timestep_embedding",
    "load_part",
]


def class_named(name: str) -> type:
    """A class of diffusers or transformers.

    Raises:
        AttributeError: neither has it.
    """
    return getattr(diffusers, name, None) or getattr(transformers, name)


def load_part(kind: type, folder: Path, *, files: Sequence[Path], dtype: torch.dtype) -> torch.nn.Module:
    """One network of a diffusers folder, from the very kind of safetensors files that is given.

    Args:
        kind: class of the network.
        folder: of the part, such as `.../unet`.
        files: the part's weights, fp16 files or plain ones.
        dtype: that the weights are to have.
    """
    variant = "fp16" if any(".fp16" in path.name for path in files) else None
    return kind.from_pretrained(
        str(folder), dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True
    )


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
