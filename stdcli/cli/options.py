"""Options that several commands share, declared once so that their names and help cannot drift."""

from __future__ import annotations

from stdcli.cli.command import LAYERS, Option, option, setting, switch

_OPTIONS = (
    *LAYERS,
    switch("--dry-run", "Print the resolved settings and the plan; do nothing.", short="-n"),
    switch("--overwrite", "Replace files that exist."),
    # where and how anything runs
    setting("--seed", int, "N", "Seed of all noise."),
    setting("--device", str, "NAME", "auto, cpu, mps, cuda or cuda:N."),
    setting("--dtype", str, "NAME", "auto, float32, bfloat16 or float16."),
    setting("--offline", bool, None, "Never use the network."),
    # restyling pictures and clips
    setting("--style", list[str], "REF", "Style picture; repeat to blend several."),
    setting("--style-weights", str, "A,B", "One weight per --style."),
    option("--output", str, "PATH", "File or folder; default: beside the input.", short="-o"),
    setting("--model", str, "NAME", "embedded, a folder, a .safetensors file or a Hub id."),
    setting("--base", str, "FOLDER", "Configs and tokenizer for a single-file model."),
    setting("--student", str, "NAME", "Distilled student: a run, a folder, a LoRA file or a Hub id; none."),
    switch("--strict", "Refuse values that the student was not trained for."),
    setting("--lora", list[str], "PATH[:SCALE]", "Adapter; repeatable."),
    setting("--prompt", str, "TEXT", "What the picture should show."),
    setting("--negative-prompt", str, "TEXT", "What it should not; needs guidance over 1."),
    setting("--steps", int, "K", "Exactly this many evaluations of the model."),
    setting("--timesteps", str, "T,T,...", "Exact timesteps, instead of steps and strength."),
    setting("--strength", float, "S", "Noise fraction in (0, 1]; 1 ignores the input."),
    setting("--guidance", float, "G", "1 is off; other values double the forwards."),
    setting("--gamma", float, "G", "Fresh noise per step, 0 to 1; 0 is deterministic."),
    setting(
        "--match-style-statistics/--no-match-style-statistics",
        bool,
        None,
        "Give the start latent the style picture's mean and deviation.",
    ),
    setting("--max-size", int, "PX", "Longer side while computing; the result keeps its size."),
    setting("--batch", int, "N", "Frames per forward."),
    setting("--fps", str, "F", "Resample clips, such as 25 or 30000/1001."),
    setting("--start", str, "TIME", "Begin a clip here: seconds or h:m:s."),
    setting("--duration", str, "TIME", "So much of a clip: seconds or h:m:s."),
    setting("--temporal", str, "HOW", "Steadier clips: off, blend or flow."),
    setting("--codec", str, "NAME", "h264, hevc, vp9, av1, prores or ffv1; default: container's."),
    setting("--crf", int, "N", "Quality of clips; lower is better."),
    setting("--pix-fmt", str, "NAME", "Pixel format of clips, by ffmpeg's name."),
    setting("--no-audio", bool, None, "Leave the sound of clips out.", key="audio"),
    switch("--no-metadata", "Store no recipe in or beside the result."),
)
_BY_NAME = {each.name: each for each in _OPTIONS}


def shared(*names: str) -> tuple[Option, ...]:
    """Options by their names without dashes, in this order; one text may hold several, as "steps dry_run"."""
    return tuple(_BY_NAME[name] for name in " ".join(names).split())
