"""`stdcli distill`: train a student of few steps on a teacher's paths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from stdcli.cli.command import REQUIRED, Call, command, option, setting, show_settings
from stdcli.cli.options import shared
from stdcli.config.distill_methods import method_names
from stdcli.config.load import Resolved
from stdcli.console import Console

if TYPE_CHECKING:
    from stdcli.distill.train import Distilled


@command(
    option(
        "--out", Path, "DIR", "Folder of the run; the student: DIR/student.", short="-o", default=REQUIRED
    ),
    setting("--bank", str, "DIR", "A finished bank: stdcli bank build."),
    setting(
        "--data", list[str], "DIR|FILE", "Without a bank: pictures to walk from meanwhile.", key="paths.data"
    ),
    setting("--style-data", str, "DIR", "Style pictures of the bank or data."),
    setting("--method", str, "NAME", f"{' or '.join(method_names())}."),
    setting("--model", str, "NAME", "The teacher, where it is not as the bank names it."),
    setting("--init", str, "RUN", "Student to start from: a run, folder or file."),
    setting("--target", str, "NAME", "teacher, consistency or mix.", key="std.target"),
    setting("--student", str, "KIND", "lora or full.", key="student.kind"),
    setting("--rank", int, "N", "Of the LoRA. [default: 32]", key="student.rank"),
    setting("--train-steps", int, "N", "Training steps. [default: 1000]", key="train.steps"),
    setting("--batch-size", int, "N", "Per device. [default: 8]", key="train.batch_size"),
    setting("--accumulation", int, "N", "Batches per step. [default: 1]", key="train.accumulation"),
    setting("--learning-rate", float, "X", "[default: 0.0001]", key="train.learning_rate"),
    setting(
        "--adv-weight", float, "X", "Of the adversarial loss; 0 is off. [default: 0]", key="adversary.weight"
    ),
    setting("--adv-real", str, "NAME", "Its real pictures: x0, path-end or style.", key="adversary.real"),
    setting(
        "--sample-every", int, "N", "Steps between sheets of samples; 0: none.", key="train.sample_every"
    ),
    setting("--checkpoint-every", int, "N", "Steps between checkpoints.", key="train.checkpoint_every"),
    *shared("seed device dtype offline preset config set overwrite dry_run"),
)
def distill(call: Call, *, out: Path, overwrite: bool, dry_run: bool) -> None:
    """Train a student of few steps on a teacher's paths.

    The same command goes on with a run that was stopped, and leaves a finished one alone; more --train-steps
    make that one longer, and --init starts another run from its student. Several devices:
    `accelerate launch` or `torchrun` before it.

    \b
    Examples:
      stdcli distill --bank banks/art -o runs/art
      stdcli distill --bank banks/art --adv-weight 0.3 --train-steps 4000 -o runs/sharp
      stdcli distill --data photos/ --style-data art/ --preset std-paper -o runs/paper
      stdcli stylize photo.jpg --style painting.jpg --student runs/art
    """
    is_main = os.environ.get("RANK", "0") == "0"  # of several processes one speaks
    given = call.console
    console = given if is_main else Console("quiet", verbose=given.verbose, debug=given.debug)
    flags = call.flags
    if flags["bank"] is None:
        flags = {**flags, "paths.style_data": flags["style_data"]}
    resolved = call.resolve("distill", flags=flags)
    if dry_run:
        show_settings(resolved, console)
    from stdcli.distill.train import distill as train

    done = train(resolved.config, out=out, console=console, overwrite=overwrite, dry_run=dry_run)
    if is_main:
        _tell(done, resolved, console, out=out)


def _tell(done: Distilled, resolved: Resolved, console: Console, *, out: Path) -> None:
    if done.estimate is None:
        message = f"finished already: {done.student}" if done.was_finished else f"wrote {done.student}"
        console.result(message, path=done.student, was_finished=done.was_finished, run=done.metadata)
        return
    plain = resolved.config.model_dump(mode="json")
    estimate = done.estimate
    console.note(estimate.elsewhere())
    message = f"nothing trained (dry run): {estimate.line()}"
    there = {"gpu_bytes": estimate.gpu_bytes, "fits_24gb": estimate.fits_24gb}
    console.result(message, path=out, dry_run=True, config=plain, **vars(estimate), **there)
