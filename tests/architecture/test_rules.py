"""Each rule finds what it is there to find: planted violations, and innocent lookalikes beside them."""

from pathlib import Path

import pytest

from tests.architecture import rules
from tests.architecture.collection import collected_files, files_of_tests


def planted(lines: str) -> str:
    """A module with these lines in a function and a harmless rest."""
    body = "\n".join(f"    {line}" for line in lines.splitlines())
    return f'"""Doc."""\n\nimport torch\n\n\ndef work(x):\n{body}\n    return x\n'


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("stdcli.diffusion.levels", "from stdcli.models import load", "layer 2 may not import layer 3"),
        ("stdcli.diffusion.levels", "from stdcli import models", "layer 2 may not import layer 3"),
        ("stdcli.diffusion.levels", "def f():\n    import stdcli.cli.main", "layer 2 may not import layer 5"),
        ("stdcli.errors", "import stdcli.console", "layer 0 may not import layer 1"),
        (
            "stdcli.inference.video",
            "from stdcli.teacher.codec_fitting import x",
            "siblings in layer 4 share nothing",
        ),
        (
            "stdcli.inference.video",
            "from stdcli.evaluate.suite import x",
            "siblings in layer 4 share nothing",
        ),
        ("stdcli.models.load", "from stdcli.media.image import x", "may only import remote and runtime"),
        ("stdcli.runtime.devices", "from stdcli.models.load import x", "may only import remote and runtime"),
        ("stdcli.inference.video", "from . import image", "relative imports hide the layer"),
        ("stdcli.cli.stylize", "from stdcli.inference.stylize import x", "only inside functions"),
        ("stdcli.cli.stylize", "import numpy", "third-party packages only inside functions"),
        ("stdcli.inference.video", "import diffusers", "only models/ may import diffusers"),
        ("stdcli.inference.video", "def f():\n    from transformers.x import y", "only models/ may import"),
        ("stdcli.inference.video", "if TYPE_CHECKING:\n    import diffusers", "only models/ may import"),
        ("stdcli.console", "def f():\n    import typer", "only cli/ may import typer"),
        ("stdcli.cli.main", "import click", "Typer carries its own Click"),
        ("stdcli.cli.main", "def f():\n    from click.core import x", "Typer carries its own Click"),
        ("stdcli.errors", "import yaml", "layer 0 knows only the standard library"),
        ("stdcli.config.load", "def f():\n    import torch", "layer 1 knows only pydantic"),
        ("stdcli.console", "import rich", "layer 1 knows only pydantic"),
        ("stdcli.diffusion.noise", "import numpy", "layer 2 knows only torch"),
        ("stdcli", "import torch", "layer 0 knows only the standard library"),
        (
            "stdcli",
            "from stdcli.errors import x\nfrom stdcli.config import y",
            "layer 0 may not import layer 1",
        ),
    ],
)
def test_planted_imports(module: str, source: str, reason: str) -> None:
    assert any(reason in fault for fault in rules.check_imports(source, module))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("stdcli.diffusion.levels", "import math\nimport torch.nn\nfrom stdcli.diffusion.schedule import x"),
        ("stdcli.diffusion.levels", "from stdcli.errors import x"),
        ("stdcli.models.load", "import diffusers\nfrom stdcli.runtime.devices import x"),
        ("stdcli.inference.video", "from stdcli.media.image import x\nimport numpy"),
        ("stdcli.inference.video", "from stdcli.inference.image import x"),
        (
            "stdcli.cli.stylize",
            "import typer.core\ndef f():\n    from stdcli.inference import x\n    import torch",
        ),
        ("stdcli.cli.stylize", "import stdcli\nfrom stdcli import errors"),
        ("stdcli.console", "def f():\n    from rich.progress import x"),
        ("stdcli.config.schema", "from pydantic import x\nimport yaml"),
        ("stdcli.__main__", "from stdcli.cli.main import main"),
    ],
)
def test_innocent_imports(module: str, source: str) -> None:
    assert rules.check_imports(source, module) == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.manual_seed(0)",
        "torch.cuda.manual_seed_all(0)",
        "torch.default_generator.manual_seed(0)",
        "torch.seed()",
        "torch.randn(3)",
        "torch.randn_like(x)",
        "torch.rand(3, device=x.device)",
        "torch.randint(0, 9, (3,))",
        "torch.randperm(3)",
        "x.normal_()",
        "torch.empty(3).uniform_(0, 1)",
        "import random; random.random()",
        "import random; random.Random()",
        "import random; random.seed(3)",
        "from random import normal",
        "from torch import randn",
        "np.random.rand(3)",
        "numpy.random.seed(3)",
        "np.random.default_rng()",
    ],
)
def test_planted_randomness(line: str) -> None:
    assert len(rules.check_random(planted(line))) == 1


@pytest.mark.parametrize(
    "lines",
    [
        "torch.randn(3, generator=g)",
        "torch.randint(0, 9, (3,), generator=g)",
        "torch.Generator().manual_seed(0)",
        "g.manual_seed(3)",
        "x.normal_(generator=g)",
        "np.random.default_rng(3)",
        "random.Random(3)",
        "rng.random()",
        "rng.normal(size=3)",
        "torch.nn.init.normal_(x)",
        "with torch.random.fork_rng(devices=[]):\n    torch.default_generator.manual_seed(0)",
    ],
)
def test_innocent_randomness(lines: str) -> None:
    assert rules.check_random(planted(lines)) == []


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("print(x)", "print; use the console"),
        ("assert x", "assert without `# invariant`"),
        ("try:\n    x()\nexcept:\n    raise", "bare except"),
        ("try:\n    x()\nexcept Exception:\n    pass", "swallows every exception"),
        ("try:\n    x()\nexcept (ValueError, BaseException):\n    ...", "swallows every exception"),
        ("for y in x:\n    try:\n        y()\n    except Exception:\n        continue", "swallows every"),
    ],
)
def test_planted_habits(lines: str, reason: str) -> None:
    (fault,) = rules.check_habits(planted(lines))
    assert reason in fault


@pytest.mark.parametrize(
    "lines",
    [
        "console.print(x)",
        "assert x  # invariant: the caller checked it",
        "# invariant: the caller checked it\nassert x",
        "try:\n    x()\nexcept ValueError:\n    pass",
        "try:\n    x()\nexcept Exception as error:\n    raise KeyError from error",
    ],
)
def test_innocent_habits(lines: str) -> None:
    assert rules.check_habits(planted(lines)) == []


@pytest.mark.parametrize(
    "line",
    [
        "path.unlink(missing_ok=True)",
        "os.unlink(x)",
        "os.remove(x)",
        "shutil.rmtree(x, ignore_errors=True)",
        "folder.rmdir()",
        "stack.callback(shutil.rmtree, x)",
        "os.fsync(x)",
        "from os import remove",
        "from shutil import rmtree",
    ],
)
def test_planted_deletions(line: str) -> None:
    assert len(rules.check_disk(planted(line), "stdcli.inference.job")) == 1


def test_innocent_deletions() -> None:
    lines = "x.remove(3)\nremove_file(x)\nfiles.remove(x)"
    assert rules.check_disk(planted(lines), "stdcli.inference.job") == []
    assert rules.check_disk(planted("x.unlink()"), "stdcli.disk.removing") == []
    assert rules.check_disk(planted("os.fsync(x)"), "stdcli.disk.writing") == []
    assert rules.check_disk(planted("x.unlink()"), "stdcli.disk.writing") != []


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "torch.jit.load(x)",
        "pickle.loads(x)",
        "pickle.Unpickler(x).load()",
        "from pickle import loads",
        "yaml.load(x, Loader=yaml.SafeLoader)",
        "yaml.unsafe_load(x)",
        "eval(x)",
        "exec(x)",
        "np.load(x, allow_pickle=True)",
        "Model.from_pretrained(x, trust_remote_code=True)",
        "Model.from_pretrained(x, trust_remote_code=trust)",
    ],
)
def test_planted_code(line: str) -> None:
    assert len(rules.check_code(planted(line))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(x, weights_only=True)",
        "yaml.load(x, Loader=_StrictLoader)",
        "yaml.safe_load(x)",
        "model.eval()",
        "re.compile(x)",
        "np.load(x, allow_pickle=False)",
        "from pickle import UnpicklingError",
        "Model.from_pretrained(x, trust_remote_code=False)",
    ],
)
def test_innocent_code(line: str) -> None:
    assert rules.check_code(planted(line)) == []


def test_inputs_of_ffmpeg() -> None:
    source = 'run("-y", "-i", "file:x")'
    assert rules.check_inputs(source, "stdcli.media.mux") == [
        "stdcli.media.mux:1 opens an input of ffmpeg by itself"
    ]
    assert rules.check_inputs(source, "stdcli.media.ffmpeg") == []
    assert len(rules.check_inputs(f"{source}\n{source}", "stdcli.media.ffmpeg")) == 1
    assert rules.check_inputs('hint = "ffmpeg -i x"', "stdcli.media.mux") == []


def test_sizes() -> None:
    def function(num_lines: int) -> str:
        return "def long():\n" + "    x = 1\n" * (num_lines - 1)

    assert rules.check_size(function(60)) == []
    assert rules.check_size(function(61)) == ["long has 61 lines, over 60"]
    assert rules.check_size(function(61).replace("def", "async def")) == ["long has 61 lines, over 60"]
    signature = "def long(\n" + "    a,\n" * 70 + "):\n"
    assert rules.check_size(signature + "    x = 1\n" * 59) == []
    assert len(rules.check_size(signature + "    x = 1\n" * 60)) == 1
    assert rules.check_size("x = 1\n" * 400) == []
    assert rules.check_size("x = 1\n" * 401) == ["401 lines, over 400"]


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ('"""One line."""\n', 0),
        ('"""One line."""\n\n__version__ = "1"\n', 0),
        ("", 1),
        ('"""Two\nlines."""\n', 1),
        ('"""One line."""\nfrom stdcli.models.load import x\n', 1),
        ("import torch\n", 1),
    ],
)
def test_inits(source: str, faults: int) -> None:
    assert len(rules.check_init(source)) == faults


@pytest.mark.parametrize("folder", ["home", "root", "work", "Users", "mnt", "tmp"])
def test_planted_paths(folder: str) -> None:
    path = "/".join(("", folder, "somebody"))
    assert rules.check_paths(f'x = "{path}/x.png"') == [f"line 1: {path}"]
    assert rules.check_paths("C:" + "\\Users\\somebody") != []


def test_innocent_paths() -> None:
    relative = "/".join((".", "work", "x"))
    text = f"https://example.org/home/x a/home/b {relative} stdcli/data/x /usr/bin/env frames_per/root/x"
    assert rules.check_paths(text) == []


def test_an_uncollected_folder_is_noticed(tmp_path: Path) -> None:
    for name in ("unit/test_a.py", "dark/test_b.py", "benchmarks/test_c.py", "unit/b_test.py"):
        path = tmp_path / "tests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("import nothing_of_that_name\n")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\ntestpaths = ["tests"]\nnorecursedirs = ["dark", "benchmarks"]\n'
    )
    missed = files_of_tests(tmp_path) - collected_files(tmp_path)
    assert {path.name for path in missed} == {"test_b.py"}
