"""The quiet door to diffusers and transformers.

Both libraries log to stderr on import and draw progress bars while loading; a command's own messages say what
matters instead (truncated prompts, missing keys and the like are checked here, not left to a log line). The
user's own `TRANSFORMERS_VERBOSITY` and `DIFFUSERS_VERBOSITY` win. Import the upstream names from this module.
"""

from __future__ import annotations

import os

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
from huggingface_hub.errors import StrictDataclassError
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import (
    CLIPImageProcessorPil,  # the plain name wants torchvision, and warns where it is missing
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
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
    "BaseTunerLayer",
    "CLIPImageProcessorPil",
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "CLIPVisionConfig",
    "CLIPVisionModelWithProjection",
    "DDIMScheduler",
    "ImageProjection",
    "SingleFileComponentError",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "UNet2DConditionModel",
    "first_line",
]


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
