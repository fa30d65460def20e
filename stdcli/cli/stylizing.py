"""Options of the commands that restyle pictures and clips, declared once."""

from __future__ import annotations

from typing import Annotated

import typer

Style = Annotated[
    list[str] | None, typer.Option("--style", metavar="REF", help="Style picture; repeat to blend several.")
]
StyleWeights = Annotated[
    str | None, typer.Option("--style-weights", metavar="A,B", help="One weight per --style.")
]
Output = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="PATH", help="File or folder; default: beside the input."),
]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="embedded, a folder, a .safetensors file or a Hub id."),
]
Base = Annotated[
    str | None,
    typer.Option("--base", metavar="FOLDER", help="Configs and tokenizer for a single-file model."),
]
Student = Annotated[
    str | None,
    typer.Option(
        "--student", metavar="NAME", help="Distilled student: a run, a folder, a LoRA file or a Hub id; none."
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse values that the student was not trained for.")]
Lora = Annotated[
    list[str] | None, typer.Option("--lora", metavar="PATH[:SCALE]", help="Adapter; repeatable.")
]
Prompt = Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="What the picture should show.")]
Negative = Annotated[
    str | None,
    typer.Option("--negative-prompt", metavar="TEXT", help="What it should not; needs guidance over 1."),
]
Steps = Annotated[
    int | None, typer.Option("--steps", metavar="K", help="Exactly this many evaluations of the model.")
]
Timesteps = Annotated[
    str | None,
    typer.Option("--timesteps", metavar="T,T,...", help="Exact timesteps, instead of steps and strength."),
]
Strength = Annotated[
    float | None,
    typer.Option("--strength", metavar="S", help="Noise fraction in (0, 1]; 1 ignores the input."),
]
Guidance = Annotated[
    float | None, typer.Option("--guidance", metavar="G", help="1 is off; other values double the forwards.")
]
Gamma = Annotated[
    float | None,
    typer.Option("--gamma", metavar="G", help="Fresh noise per step, 0 to 1; 0 is deterministic."),
]
Match = Annotated[
    bool | None,
    typer.Option(
        "--match-style-statistics/--no-match-style-statistics",
        help="Give the start latent the style picture's mean and deviation.",
    ),
]
MaxSize = Annotated[
    int | None,
    typer.Option("--max-size", metavar="PX", help="Longer side while computing; the result keeps its size."),
]
Batch = Annotated[int | None, typer.Option("--batch", metavar="N", help="Frames per forward.")]
Fps = Annotated[
    str | None, typer.Option("--fps", metavar="F", help="Resample clips, such as 25 or 30000/1001.")
]
Start = Annotated[
    str | None, typer.Option("--start", metavar="TIME", help="Begin a clip here: seconds or h:m:s.")
]
Duration = Annotated[
    str | None, typer.Option("--duration", metavar="TIME", help="So much of a clip: seconds or h:m:s.")
]
Temporal = Annotated[
    str | None, typer.Option("--temporal", metavar="HOW", help="Steadier clips: off, blend or flow.")
]
Codec = Annotated[
    str | None,
    typer.Option(
        "--codec", metavar="NAME", help="h264, hevc, vp9, av1, prores or ffv1; default: container's."
    ),
]
Crf = Annotated[int | None, typer.Option("--crf", metavar="N", help="Quality of clips; lower is better.")]
PixFmt = Annotated[
    str | None, typer.Option("--pix-fmt", metavar="NAME", help="Pixel format of clips, by ffmpeg's name.")
]
NoAudio = Annotated[bool, typer.Option("--no-audio", help="Leave the sound of clips out.")]
NoMetadata = Annotated[bool, typer.Option("--no-metadata", help="Store no recipe in or beside the result.")]
