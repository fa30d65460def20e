"""A report and its images: four methods, two pictures, a clip, two styles, some metrics without weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

METHODS = {  # id -> title, family, steps, guidance
    "teacher-30": ("teacher, 30 steps", "teacher", 30, 2.0),
    "teacher-4": ("teacher, 4 steps", "teacher", 4, 2.0),
    "student-4": ("student, 4 steps", "student", 4, 1.0),
    "lcm-4": ("student by LCM, 4 steps", "LCM", 4, 1.0),
}
METRICS = {  # id -> title, group, better, highest, unit
    "palette": ("palette", "style", "lower", None, ""),
    "texture": ("texture", "style", "lower", None, ""),
    "csd": ("CSD", "style", "higher", 1.0, ""),
    "edges": ("edge correlation", "content", "higher", 1.0, ""),
    "ssim": ("SSIM", "content", "higher", 1.0, ""),
    "lpips": ("LPIPS", "content", "lower", None, ""),
    "aesthetic": ("aesthetic", "looks", "higher", None, ""),
    "sharpness": ("sharpness", "looks", "higher", None, ""),
    "warping": ("warping error", "video", "lower", None, ""),
    "forwards": ("forwards", "speed", "lower", None, "per frame"),
    "ms": ("time", "speed", "lower", None, "ms"),
}
MEANS = {  # metric -> one per method
    "palette": (4.31, 5.02, 3.87, 4.64),
    "texture": (0.0812, 0.1204, 0.0764, 0.0991),
    "edges": (0.612, 0.588, 0.634, 0.571),
    "ssim": (0.483, 0.455, 0.502, 0.467),
    "sharpness": (0.71, 0.44, 0.68, 0.68),
    "warping": (0.0413, 0.0388, 0.0371, 0.0405),
    "forwards": (60.0, 8.0, 4.0, 4.0),
    "ms": (2870.4, 391.2, 197.8, 198.3),
}
FETCH = {
    "csd": ("the CSD checkpoint is not on this machine", "hf download tomg-group-umd/CSD-ViT-L"),
    "lpips": ("AlexNet's weights are not on this machine", "hf download richzhang/lpips --include alex.pth"),
    "aesthetic": ("no linear head of LAION", "hf download openai/clip-vit-large-patch14"),
}
CITES = {
    "palette": "Rabin et al. 2012, Wasserstein Barycenter and Its Application to Texture Mixing",
    "ssim": "Wang et al. 2004, Image Quality Assessment: From Error Visibility to Structural Similarity",
    "warping": "Lai et al. 2018, Learning Blind Video Temporal Consistency, arXiv:1808.00449",
}
CONTENTS = {"cat": 1, "astronaut": 1, "walk": 8}  # id -> frames
STYLES = ("ink", "night")
SEED = 7


def sha(name: str) -> str:
    """A hash that belongs to a name."""
    return hashlib.sha256(name.encode()).hexdigest()


def make_report(metrics: Sequence[str] = tuple(METRICS)) -> dict[str, Any]:
    """The report; means are those of `MEANS`, the values of results scatter about them."""
    rng = np.random.default_rng(SEED)
    methods = [
        {"id": name, "title": title, "family": family}
        | {"settings": {"steps": steps, "guidance": guidance, "strength": 0.6, "temporal": "flow"}}
        | {"hashes": {"unet": sha(f"{family} unet"), "vae": sha("vae")}}
        for name, (title, family, steps, guidance) in METHODS.items()
    ]
    results = []
    for (place, method), content, style in product(enumerate(METHODS), CONTENTS, STYLES):
        means = {
            name: row[place] for name, row in MEANS.items() if name != "warping" or CONTENTS[content] > 1
        }
        values = {name: float(mean * (1 + 0.1 * rng.standard_normal())) for name, mean in means.items()}
        suffix = "png" if CONTENTS[content] == 1 else "mp4"
        results.append(
            {"method": method, "content": content, "style": style, "values": values}
            | {"file": f"{method}/{content}-{style}.{suffix}"}
        )
    return {
        "format": "stdcli-report",
        "version": 1,
        "title": "The embedded model, teacher and students",
        "created": "2026-11-21T18:54:03+00:00",
        "seconds": 97.4,
        "command": "stdcli eval run --suite eval/embedded -o report",
        "versions": {"stdcli": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6"},
        "machine": "x86_64, 2 cores, no GPU",
        "contents": list(_contents()),
        "styles": [{"id": name, "sha256": sha(name)} for name in STYLES],
        "methods": methods,
        "metrics": [_metric(name) for name in metrics],
        "results": results,
        "table": [row for row in _table() if row["metric"] in metrics],
        "floors": [{"metric": "warping", "content": "walk", "value": 0.0214}],
        "gates": [
            {"metric": "palette", "method": "student-4", "rule": "palette<=4", "value": 3.87, "passed": True},
            {"metric": "ssim", "method": "lcm-4", "rule": "ssim>=0.5", "value": 0.467, "passed": False},
        ],
    }


def _contents() -> Iterator[dict[str, Any]]:
    for name, frames in CONTENTS.items():
        kind, fps = ("picture", None) if frames == 1 else ("clip", 25.0)
        yield {
            "id": name,
            "kind": kind,
            "sha256": sha(name),
            "size": [256, 192],
            "frames": frames,
            "fps": fps,
        }


def _metric(name: str) -> dict[str, Any]:
    title, group, better, highest, unit = METRICS[name]
    missing = dict(zip(("what", "fetch"), FETCH[name], strict=True)) if name in FETCH else None
    return {
        "id": name,
        "name": name,
        "title": title,
        "group": group,
        "better": better,
        "range": [0.0, highest],
        "unit": unit,
        "protocol": f"{title}: shorter side 256 pixels by Lanczos, sRGB, 8 bit",
        "weights": {"clip-vit-l14": sha("clip")} if name in ("csd", "aesthetic") else {},
        "cite": CITES.get(name, f"a paper about {title}"),
        "missing": missing,
    }


def _table() -> Iterator[dict[str, Any]]:
    for (place, method), name in product(enumerate(METHODS), METRICS):
        mean = MEANS[name][place] if name in MEANS else None
        count = 0 if mean is None else 2 if name == "warping" else 6
        sd = None if mean is None else round(0.1 * mean, 6)
        yield {"method": method, "metric": name, "mean": mean, "sd": sd, "count": count}


def make_images(*, size: tuple[int, int] = (48, 64)) -> dict[str, np.ndarray]:
    """An image per key that the report can have, each of another colour, no two alike."""
    rng = np.random.default_rng(SEED)
    images: dict[str, np.ndarray] = {f"style/{name}": _image(rng, size) for name in STYLES}
    for content, frames in CONTENTS.items():
        ends = [""] if frames == 1 else [f"/{index:04d}" for index in range(frames)]
        for end in ends:
            images[f"content/{content}{end}"] = _image(rng, size)
        for method, style, (index, end) in product(METHODS, STYLES, enumerate(ends)):
            images[f"result/{method}/{content}/{style}{end}"] = _image(rng, size)
            if index:
                error = rng.random(size, dtype=np.float32) ** 4
                images[f"error/{method}/{content}/{style}{end}"] = error
    return images


def _image(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    ramp = np.linspace(0, 1, size[1])[None, :, None] * np.ones((size[0], 1, 1))
    ends = rng.integers(0, 256, (2, 1, 1, 3))
    return np.round(ends[0] * (1 - ramp) + ends[1] * ramp).astype(np.uint8)


def make_sweep() -> dict[str, Any]:
    """Two families at two numbers of steps and three guidances each, with CSD and aesthetic; no images."""
    report = make_report() | {"results": [], "floors": [], "gates": [], "title": "Steps and guidance"}
    report["methods"], report["table"] = [], []
    for family, steps, guidance in product(("STD", "LCM"), (4, 8), (2.0, 4.0, 6.0)):
        name = f"{family}-{steps}-{guidance:g}"
        settings = {"steps": steps, "guidance": guidance}
        method = {"id": name, "title": f"{family}, {steps} steps, guidance {guidance:g}", "family": family}
        report["methods"].append(method | {"settings": settings, "hashes": {"unet": sha(family)}})
        lead = 0.05 if family == "STD" else 0.0
        means = {
            "csd": 0.38 + 0.02 * guidance + lead,
            "aesthetic": 5.1 + 0.3 * lead + 0.05 * steps - 0.03 * (guidance - 4) ** 2,
            "palette": 6 - 0.3 * guidance - 0.1 * steps,
            "ssim": 0.6 - 0.03 * guidance + lead,
            "edges": 0.7 - 0.02 * guidance + lead,
        }
        report["table"] += [
            {"method": name, "metric": metric, "mean": mean, "sd": 0.05 * mean, "count": 12}
            for metric, mean in means.items()
        ]
    for metric in report["metrics"]:
        if metric["id"] in ("csd", "aesthetic"):
            metric["missing"] = None
    return report
