"""Networks that metrics use: which there are, where their weights come from, loaded once.

Nothing is downloaded unless it was named by the caller: without a name, the local Hub cache is looked at, and
what is not there is `MissingWeights` with the line that fetches it. What each network takes and gives:

| name | `network` |
|---|---|
| `clip` | `clip.ClipEncoder`: pictures or texts to embeddings |
| `csd` | `csd.CsdEncoder`: pictures to style and content embeddings of length 1 |
| `aesthetic` | `aesthetic.AestheticHead`: CLIP embeddings to marks |
| `dino` | `self_similarity.KeyExtractor`: pictures to keys |
| `alexnet`, `gram-backbone` | `convolutions.ConvolutionStack`: pictures to features of all layers |
| `lpips-alex` | `lpips.LinearHeads`: squared differences to distances |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from stdcli.config.names import near_misses
from stdcli.disk.hashes import hash_file
from stdcli.errors import ConfigError, HubError, MissingWeights, ModelError
from stdcli.models.locate import NETWORK_FILES, locate_file, locate_network
from stdcli.models.perceptual.aesthetic import load_aesthetic
from stdcli.models.perceptual.clip import TOKENIZER_FILES, load_clip
from stdcli.models.perceptual.convolutions import load_alexnet, load_convolutions
from stdcli.models.perceptual.csd import load_csd
from stdcli.models.perceptual.lpips import load_lpips_alex
from stdcli.models.perceptual.self_similarity import load_keys
from stdcli.remote.snapshot import download_command

DINO_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
CLIP_HUB, DINO_HUB, CSD_HUB = (
    "openai/clip-vit-large-patch14",
    "facebook/dino-vitb8",
    "tomg-group-umd/CSD-ViT-L",
)
CSD_FILE = "pytorch_model.bin"
TORCHVISION = "https://download.pytorch.org/models"
HEADS = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/alex.pth"
AESTHETIC = "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/"
AESTHETIC_FILE = "sac+logos+ava1-l14-linearMSE.pth"


@dataclass(frozen=True)
class Spec:
    """A network that can be asked for.

    Attributes:
        name: as users type it.
        title: as people call it.
        hub: name that is looked for in the local Hub cache where no other is given; None if there is none.
        fetch: the line that fetches its weights, or says how.
        find: a name to the path of the weights file; keyword `offline`.
        load: that path to the network.
    """

    name: str
    title: str
    hub: str | None
    fetch: str
    find: Callable[..., Path]
    load: Callable[[Path], nn.Module]


@dataclass(frozen=True)
class Backbone:
    """A loaded network.

    Attributes:
        network: frozen, in evaluation mode, float32.
        sha256: of its weights file.
        device: where it is.
    """

    network: nn.Module
    sha256: str
    device: torch.device


def _find_folder(
    name: str, *, offline: bool, what: str, weights: tuple[str, ...], also: tuple[str, ...]
) -> Path:
    folder = locate_network(name, what=what, offline=offline, weights=weights, also=also).path
    return next(folder / file for file in weights if (folder / file).is_file())


def _find_file(name: str, *, offline: bool, what: str) -> Path:
    return locate_file(name, what=what, offline=offline).path


def _of_hub(
    name: str, title: str, hub: str, *, weights: tuple[str, ...], also: tuple[str, ...], load: Callable
) -> Spec:
    fetch = download_command(hub, None, [NETWORK_FILES[0], *weights, *also])
    find = partial(_find_folder, what=title, weights=weights, also=also)
    return Spec(name, title, hub, fetch, find, load)


def _of_file(name: str, title: str, address: str, *, load: Callable, output: str | None = None) -> Spec:
    file = output or address.rpartition("/")[2]
    fetch = f"curl -L -o {file} {address}  # then: --weights {name}={file}"
    return Spec(name, title, None, fetch, partial(_find_file, what=title), load)


SPECS = (
    _of_hub(
        "clip", "CLIP ViT-L/14", CLIP_HUB, weights=NETWORK_FILES[1:], also=TOKENIZER_FILES, load=load_clip
    ),
    Spec(
        "csd",
        "CSD ViT-L",
        f"{CSD_HUB}/{CSD_FILE}",
        download_command(CSD_HUB, None, [CSD_FILE]),
        partial(_find_file, what="CSD ViT-L"),
        load_csd,
    ),
    _of_file("aesthetic", "LAION aesthetic v2", AESTHETIC + AESTHETIC_FILE, load=load_aesthetic),
    _of_hub("dino", "DINO ViT-B/8", DINO_HUB, weights=DINO_WEIGHTS, also=(), load=load_keys),
    _of_file("alexnet", "AlexNet", f"{TORCHVISION}/alexnet-owt-7be5be79.pth", load=load_alexnet),
    _of_file("lpips-alex", "LPIPS (alex)", HEADS, load=load_lpips_alex, output="lpips-alex.pth"),
    _of_file("gram-backbone", "VGG-19", f"{TORCHVISION}/vgg19-dcbb9e9d.pth", load=load_convolutions),
)
BACKBONES: dict[str, Spec] = {spec.name: spec for spec in SPECS}


class LoadedBackbones:
    """Networks by name, each loaded when it is first asked for.

    Args:
        weights: where a network's weights are, by its name: a file or folder, or a name on the Hub.
        device: where the networks are put.
        offline: never reach the network, also for names on the Hub.

    Raises:
        ConfigError: `weights` has a name of no network.
    """

    def __init__(self, weights: Mapping[str, str], *, device: torch.device | str, offline: bool) -> None:
        problems = [
            (f"weights.{name}", near_misses(name, BACKBONES)) for name in weights if name not in BACKBONES
        ]
        if problems:
            raise ConfigError("no network of that name", problems)
        self._weights = dict(weights)
        self._device = torch.device(device)
        self._offline = offline
        self._loaded: dict[str, Backbone] = {}

    def get(self, name: str) -> Backbone:
        """The network called `name`.

        Raises:
            MissingWeights: its weights were not named and are not in the local Hub cache.
            ModelError: what was named is not there, damaged or does not fit.
            HubError: a name on the Hub that cannot be fetched.
        """
        if name not in self._loaded:
            spec = BACKBONES[name]
            path = self._find(spec)
            try:
                network = spec.load(path).eval().requires_grad_(False).to(self._device)
                self._loaded[name] = Backbone(network, hash_file(path), self._device)
            except OSError as e:
                raise ModelError("this weights file cannot be read", where=path, got=e.strerror or e) from e
        return self._loaded[name]

    def _find(self, spec: Spec) -> Path:
        if spec.name in self._weights:
            return spec.find(self._weights[spec.name], offline=self._offline)
        what = f"the weights of {spec.title} are not on this machine"
        if spec.hub is None:
            raise MissingWeights(what, fetch=spec.fetch)
        try:
            return spec.find(spec.hub, offline=True)
        except (HubError, ModelError) as e:  # not in the cache, or not all of it
            raise MissingWeights(what, fetch=spec.fetch) from e
