"""Style conditioning from pictures, by IP-Adapter.

A style picture becomes one embedding (CLIP's image projection); several become their weighted mean. Adapter
files come from the model's own `ip_adapter/` folder, or, for SD1.5 and SDXL, from the table entry of the
family. Knows nothing of prompts or sampling.

Legend: N style pictures after averaging (1), S width of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from stdcli.errors import ConfigError, ModelError
from stdcli.models.diffusers_api import (
    FAULTS,
    CLIPImageProcessorPil,
    CLIPVisionModelWithProjection,
    ImageProjection,
    first_line,
)
from stdcli.models.folder import ModelFolder
from stdcli.models.weights import read_shapes
from stdcli.remote import snapshot

ADAPTER_FOLDER = "ip_adapter"
HUB = "h94/IP-Adapter"  # the published adapters and their image encoders
ENCODERS = {1024: "models/image_encoder (CLIP ViT-H)", 1280: "sdxl_models/image_encoder (CLIP ViT-bigG)"}


@dataclass(frozen=True)
class AdapterFiles:
    """Where a style adapter is.

    Attributes:
        weights: adapter weights; a path, or a name inside `repo`.
        encoder: folder of the image encoder, likewise; None where the model has its own.
        processor: local folder of the picture preprocessor's config; None takes CLIP's at the encoder's size.
        repo: Hub id, None for local files.
    """

    weights: str
    encoder: str | None
    processor: str | None = None
    repo: str | None = None


@dataclass(frozen=True)
class StyleEmbeds:
    """One style, ready for the denoiser.

    Attributes:
        cond: embedding of the style [1, N, S].
        uncond: its unconditional counterpart, [1, N, S]: zeros (for a Plus adapter, which reads hidden states
            [1, N, tokens, S], those of a black picture after normalisation, as upstream does).
    """

    cond: Tensor
    uncond: Tensor


def folder_adapter(folder: ModelFolder) -> AdapterFiles | None:
    """The style adapter in a model's folder, or None.

    Raises:
        ModelError: there is more than one.
    """
    path = folder.path / ADAPTER_FOLDER
    found = sorted(path.glob("*.safetensors"))
    if len(found) > 1:
        names = ", ".join(p.name for p in found)
        raise ModelError(
            "more than one style adapter", where=path, got=names, expected="one .safetensors file"
        )
    if not found:
        return None
    encoder = path / "image_encoder"
    processor = folder.path / "feature_extractor"
    return AdapterFiles(
        weights=str(found[0]),
        encoder=str(encoder) if encoder.is_dir() else None,
        processor=str(processor) if "feature_extractor" in folder.components else None,
    )


def find_adapter(files: AdapterFiles | None, *, offline: bool) -> AdapterFiles:
    """The same adapter with local paths, fetched if it is on the Hub and not here yet.

    Raises:
        ModelError: no adapter for this model, or not all of it is in the local Hub cache.
        HubError: it is not here and cannot be fetched.
    """
    if files is None:
        raise ModelError("this model takes no style picture", hint="describe the style with --prompt")
    if files.repo is None:
        return files
    names = [files.weights, f"{files.encoder}/config.json", f"{files.encoder}/model.safetensors"]
    folder = snapshot.files(files.repo, None, names, offline=offline)
    for name in names:
        if not (folder / name).is_file():
            raise ModelError(
                "the style adapter is not complete in the local Hub cache",
                where=folder,
                got=f"no {name}",
                hint=snapshot.download_command(files.repo, None, names),
            )
    weights, encoder = folder / files.weights, folder / str(files.encoder)
    return AdapterFiles(str(weights), str(encoder), files.processor)


class StyleAdapter:
    """The IP-Adapter of a pipeline, loaded when it is first needed.

    Args:
        pipe: diffusers pipeline with `load_ip_adapter`.
        files: where the adapter is; None for a family without one.
        scale: strength, one number or diffusers' per-block dict.
        offline: never reach the network.
        own_encoder: folder of the model's own image encoder, where the pipeline was loaded without it.
    """

    def __init__(
        self,
        pipe: Any,
        *,
        files: AdapterFiles | None,
        scale: float | dict,
        offline: bool,
        own_encoder: Path | None = None,
    ) -> None:
        self._pipe = pipe
        self._pipe_encoder = own_encoder
        self._files = files
        self._scale = scale
        self._offline = offline
        self.loaded = False
        self.weight_files: Mapping[str, Sequence[Path]] = {}

    def load(self, *, encoder: bool = True) -> None:
        """Install the adapter in the UNet; a second call does nothing.

        Load LoRAs before and inject trainable ones after: this replaces the UNet's attention processors.

        Args:
            encoder: whether the image encoder is loaded too; without it nothing can be embedded.

        Raises:
            ModelError: no adapter for this model, or it does not fit the UNet or the image encoder.
            HubError: it is not here and cannot be fetched.
        """
        if self.loaded:
            return
        weights, folder = self._find()
        if encoder:
            self._load_encoder(folder)
        pipe = self._pipe
        others = {id(p) for p in pipe.unet.parameters()}
        try:
            pipe.load_ip_adapter(
                str(weights.parent),
                subfolder="",
                weight_name=weights.name,
                image_encoder_folder=None,
                local_files_only=True,
            )
        except FAULTS as e:
            got = first_line(e)
            raise ModelError("this style adapter does not fit the model", where=weights, got=got) from e
        pipe.set_ip_adapter_scale(self._scale)
        for parameter in pipe.unet.parameters():
            if id(parameter) not in others:
                parameter.requires_grad_(False)
        self._note(weights, folder)

    def _find(self) -> tuple[Path, Path | None]:
        """The adapter's weights and the folder of its image encoder, which fit the networks."""
        files = find_adapter(self._files, offline=self._offline)
        weights, folder = Path(files.weights), None if files.encoder is None else Path(files.encoder)
        self._check_fit(weights, folder or self._pipe_encoder)
        return weights, folder

    def _note(self, weights: Path, folder: Path | None) -> None:
        encoder_files = {} if folder is None else {"style_encoder": sorted(folder.glob("*.safetensors"))}
        self.weight_files = {"style": [weights], **encoder_files}
        self.loaded = True

    def _load_encoder(self, folder: Path | None) -> None:
        pipe = self._pipe
        if folder is not None:
            with _damage(folder):
                model = CLIPVisionModelWithProjection.from_pretrained(
                    folder, dtype=pipe.unet.dtype, use_safetensors=True, local_files_only=True
                )
            pipe.register_modules(image_encoder=model.to(pipe.unet.device).requires_grad_(False))
        pipe.register_modules(feature_extractor=self._make_processor())

    def embed(self, styles: Sequence[Image.Image], weights: Sequence[float] | None = None) -> StyleEmbeds:
        """Embed style pictures and average them; loads the adapter.

        Args:
            styles: RGB pictures of any size; none gives zero embeds, which mean "no style".
            weights: one per picture, finite, sum > 0; None is equal weights.

        Raises:
            ConfigError: the weights do not fit the pictures.
            ModelError: see `load`.
            HubError: see `load`.
        """
        share = shares(len(styles), weights)
        self.load()
        pipe = self._pipe
        pictures = [s.convert("RGB") for s in styles] or [Image.new("RGB", (8, 8))]
        hidden = not isinstance(self._projection, ImageProjection)  # a Plus adapter reads hidden states
        with torch.no_grad():
            cond, uncond = pipe.encode_image(pictures, pipe.unet.device, 1, output_hidden_states=hidden)
        uncond = uncond[:1].unsqueeze(1)
        if not styles:
            return StyleEmbeds(uncond, uncond)
        share = share.to(cond.device).view(-1, *[1] * (cond.ndim - 1))
        mean = (cond.float() * share).sum(dim=0, keepdim=True)
        return StyleEmbeds(mean.unsqueeze(1), uncond.float())

    @property
    def _projection(self) -> torch.nn.Module:
        return self._pipe.unet.encoder_hid_proj.image_projection_layers[0]

    def _make_processor(self) -> CLIPImageProcessorPil:
        folder = self._files.processor
        if folder is not None:
            with _damage(folder):
                return CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
        pixels = self._pipe.image_encoder.config.image_size
        return CLIPImageProcessorPil(size=pixels, crop_size=pixels)

    def _check_fit(self, weights: Path, encoder: Path | None) -> None:
        """Compare the adapter's shapes with the UNet's and the image encoder's before anything is built."""
        shapes = read_shapes(weights)
        keys = sorted(k for k in shapes if k.startswith("ip_adapter.") and k.endswith("to_k_ip.weight"))
        unet = self._pipe.unet
        wanted = sum(not name.endswith("attn1.processor") for name in unet.attn_processors)
        if len(keys) != wanted:
            raise ModelError(
                "this style adapter is for another model family",
                where=weights,
                got=f"{len(keys)} cross-attentions",
                expected=f"{wanted}, as the UNet has",
            )
        width, cross = shapes[keys[0]][1], unet.config.cross_attention_dim
        if width != cross:
            raise ModelError(
                "this style adapter is for another model family",
                where=weights,
                got=f"width {width}",
                expected=cross,
            )
        reads, config = embedding_width(shapes), self._encoder_config(encoder)
        gives = config.projection_dim if "image_proj.proj.weight" in shapes else config.hidden_size
        if reads != gives:
            needs = ENCODERS.get(reads, f"an encoder of width {reads}")
            raise ModelError(
                "this style adapter was trained with another image encoder",
                where=weights,
                got=f"embeddings of width {gives}",
                expected=f"{reads}: {needs}",
                hint=snapshot.download_command(HUB, None, [f"{needs.split()[0]}/*"])
                if reads in ENCODERS
                else None,
            )

    def _encoder_config(self, encoder: Path | None) -> Any:
        if encoder is not None:
            with _damage(encoder):
                kind = CLIPVisionModelWithProjection.config_class
                return kind.from_pretrained(encoder, local_files_only=True)
        if self._pipe.image_encoder is None:
            raise ModelError(
                "this model has an ip_adapter folder but no image encoder", expected="image_encoder/"
            )
        return self._pipe.image_encoder.config


@contextmanager
def _damage(folder: Path | str) -> Iterator[None]:
    """Say where it is that upstream cannot read."""
    try:
        yield
    except FAULTS as e:
        what = "this part of the style adapter is damaged, or its files do not fit together"
        raise ModelError(what, where=folder, got=first_line(e)) from e


def embedding_width(shapes: Mapping[str, Sequence[int]]) -> int:
    """Width of the image embeddings that an adapter reads. Raises ModelError: it is none."""
    for key in ("image_proj.proj.weight", "image_proj.proj_in.weight", "image_proj.proj.0.weight"):
        if key in shapes:
            return shapes[key][1]
    raise ModelError(
        "not an IP-Adapter",
        got="no image_proj.proj.weight or image_proj.proj_in.weight",
        expected="IP-Adapter or its Plus form",
    )


def shares(count: int, weights: Sequence[float] | None) -> Tensor:
    """Weights of `count` style pictures, [count], sum 1. Raises ConfigError: they do not fit the pictures."""
    values = torch.ones(count) if weights is None else torch.tensor(list(weights), dtype=torch.float32)
    if len(values) != count:
        raise ConfigError("--style-weights must have one weight per --style", got=len(values), expected=count)
    if count and not (values.isfinite().all() and values.sum() > 0):
        raise ConfigError("--style-weights must be finite and sum to more than 0", got=values.tolist())
    return values / values.sum()
