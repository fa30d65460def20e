"""The rules of the house as functions of source text.

Each takes the source of one module (and its dotted name where it matters) and returns one sentence per
violation, so that every rule can be tried on planted violations as well as on the tree.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator

LAYERS = {
    "errors": 0,
    "disk": 0,
    "visible": 0,
    "config": 1,
    "console": 1,
    "reporter": 1,
    "diffusion": 2,
    **dict.fromkeys(("bank", "data", "demo", "media", "models", "metrics"), 3),
    **dict.fromkeys(("remote", "runtime", "training"), 3),
    **dict.fromkeys(("rollout", "teacher", "distill", "inference", "evaluate", "export", "hub"), 4),
    "cli": 5,
    "__main__": 6,
}
SHARED_GROUND = ("remote", "runtime")  # L3 packages that other L3 packages may import
BUILDS_ON = {("data", "media"), ("demo", "media"), ("evaluate", "inference"), ("distill", "rollout")}
"""Pairs of packages of one layer of which the first may import the second."""
OWNERS = {"diffusers": "models", "transformers": "models", "typer": "cli"}  # package -> its only importer
ALLOWED = {0: (), 1: ("pydantic", "pydantic_core", "yaml"), 2: ("torch",)}  # beside the standard library
LAZY = {"console": ("rich",)}  # allowed inside functions only
FILE_LINES = 400
FUNCTION_LINES = 60
RANDOM_NAMES = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial"}
RANDOM_METHODS = {"normal_", "uniform_", "random_", "bernoulli_", "exponential_"}
SEEDING = {"manual_seed", "manual_seed_all", "seed", "set_rng_state"}
PRIVATE_GENERATORS = {
    "Random",
    "default_rng",
    "Generator",
    "SeedSequence",
}  # private once they are given a seed


def layer_of(module: str) -> int | None:
    """Layer of a dotted module name; None outside stdcli."""
    parts = module.split(".")
    if parts[0] != "stdcli":
        return None
    return LAYERS[parts[1]] if len(parts) > 1 else 0


def imports(source: str) -> Iterator[tuple[str, int, bool]]:
    """(module, line, not run on import) of every import, those for type checkers included."""
    yield from _imports(ast.parse(source), inside=False)


def _imports(node: ast.AST, *, inside: bool) -> Iterator[tuple[str, int, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, child.lineno, inside) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            if child.level:
                yield "." * child.level, child.lineno, inside
            elif child.module == "stdcli":
                yield from ((f"stdcli.{alias.name}", child.lineno, inside) for alias in child.names)
            else:
                yield child.module or "", child.lineno, inside
        else:
            is_lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            is_typing = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            yield from _imports(child, inside=inside or is_lazy or is_typing)


def check_imports(source: str, module: str) -> list[str]:
    """Direction of imports, owners of third-party packages, nothing heavy at the top of the command line."""
    return [
        f"{module}:{line} imports {target}: {reason}"
        for target, line, inside in imports(source)
        for reason in _import_faults(module, target, inside=inside)
    ]


def _import_faults(module: str, target: str, *, inside: bool) -> Iterator[str]:
    part = [*module.split("."), ""][1]
    if target.startswith("."):
        yield "relative imports hide the layer"
        return
    if target.split(".")[0] == "stdcli":
        if target != "stdcli" and target.split(".")[1] in LAYERS:
            yield from _layer_faults(part, target.split(".")[1], layer_of(module), inside=inside)
        return
    yield from _package_faults(part, target.split(".")[0], layer_of(module), inside=inside)


def _layer_faults(part: str, other: str, layer: int | None, *, inside: bool) -> Iterator[str]:
    own, theirs = layer or 0, LAYERS[other]
    if theirs > own:
        yield f"layer {own} may not import layer {theirs}"
    elif theirs == own and other != part and (part, other) not in BUILDS_ON:
        if own == 4:
            yield "siblings in layer 4 share nothing"
        elif own == 3 and other not in SHARED_GROUND:
            yield f"of its siblings a package of layer 3 may only import {' and '.join(SHARED_GROUND)}"
    if part == "cli" and theirs in (2, 3, 4) and not inside:
        yield "the command line imports layers 2 to 4 only inside functions"


def _package_faults(part: str, package: str, layer: int | None, *, inside: bool) -> Iterator[str]:
    if package == "click":
        yield "Typer carries its own Click; the other one's errors would escape"
    if package in OWNERS and part != OWNERS[package]:
        yield f"only {OWNERS[package]}/ may import {package}"
    if package in sys.stdlib_module_names or (inside and package in LAZY.get(part, ())):
        return
    if layer in ALLOWED and package not in ALLOWED[layer]:
        yield f"layer {layer} knows only {', '.join(ALLOWED[layer]) or 'the standard library'}"
    if part == "cli" and package != "typer" and not inside:
        yield "the command line imports third-party packages only inside functions"


def check_random(source: str) -> list[str]:
    """No global random state: every draw takes a generator.

    Constructors of networks know only torch's global generator; seeding it is allowed inside `fork_rng`,
    which restores it.
    """
    tree = ast.parse(source)
    forks = [
        range(node.lineno, (node.end_lineno or node.lineno) + 1)
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and any("fork_rng(" in ast.unparse(item) for item in node.items)
    ]
    found = []
    for node in ast.walk(tree):
        fault = None
        if isinstance(node, ast.Call):
            fault = _random_fault(node, is_forked=any(node.lineno in lines for lines in forks))
        elif isinstance(node, ast.ImportFrom) and node.module in ("random", "numpy.random", "torch"):
            hidden = {alias.name for alias in node.names} & (RANDOM_NAMES | {"manual_seed"})
            fault = f"hides where {', '.join(sorted(hidden))} comes from" if hidden else None
        if fault:
            found.append(f"line {node.lineno}: {fault}")
    return found


def _random_fault(call: ast.Call, *, is_forked: bool) -> str | None:
    name = ast.unparse(call.func)
    last = name.rsplit(".", 1)[-1]
    has_generator = any(keyword.arg == "generator" for keyword in call.keywords)
    if re.fullmatch(r"random\.\w+|(np|numpy)\.random\.\w+", name):
        is_private = last in PRIVATE_GENERATORS and bool(call.args or call.keywords)
        return None if is_private else f"{name} uses a global or unseeded generator"
    if re.fullmatch(r"torch\.(\w+\.)?\w+", name) and last in SEEDING:
        return None if is_forked else f"{name} sets the global generator outside fork_rng"
    is_draw = name.startswith("torch.") and last.removesuffix("_like") in RANDOM_NAMES
    is_method = last in RANDOM_METHODS and not re.match(r"(torch\.)?(nn\.)?init\.", name)
    return f"{name} draws without generator=" if (is_draw or is_method) and not has_generator else None


def check_habits(source: str) -> list[str]:
    """No print, no swallowed exceptions, no assert without the comment `# invariant`."""
    lines = source.splitlines()
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            found.append(f"line {node.lineno}: print; use the console")
        if isinstance(node, ast.Assert) and not _is_marked(lines, node):
            found.append(f"line {node.lineno}: assert without `# invariant`")
        if isinstance(node, ast.ExceptHandler):
            found += _handler_faults(node)
    return found


def _is_marked(lines: list[str], node: ast.Assert) -> bool:
    first, last = node.lineno - 1, node.end_lineno or node.lineno
    return any("# invariant" in line for line in lines[max(first - 1, 0) : last])


def _handler_faults(handler: ast.ExceptHandler) -> list[str]:
    if handler.type is None:
        return [f"line {handler.lineno}: bare except"]
    kinds = {ast.unparse(kind) for kind in getattr(handler.type, "elts", [handler.type])}
    silent = all(
        isinstance(node, ast.Pass | ast.Continue)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in handler.body
    )
    if kinds & {"Exception", "BaseException"} and silent:
        return [f"line {handler.lineno}: swallows every exception"]
    return []


DELETING = {"unlink", "rmtree", "rmdir", "removedirs"}
DISK_OWNERS = {
    "stdcli.disk.removing": (*DELETING, "os.remove"),
    "stdcli.disk.writing": ("os.fsync", "os.fdatasync"),
}  # module -> calls that nobody else makes
RUNS_CODE = {"eval", "exec", "compile", "__import__"}
LOADS_CODE = re.compile(
    r"(pickle|dill|joblib|marshal|shelve|cloudpickle)\.\w+|(yaml|_yaml)\.(unsafe_|full_)?load(_all)?|torch\.jit\.load|torch\.hub\.load"
)


def check_disk(source: str, module: str) -> list[str]:
    """Files are deleted and synced, and JSON is parsed, by the one module whose concern it is."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute | ast.Name):
            name = ast.unparse(node)
            last = name.rsplit(".", 1)[-1]
            for owner, names in DISK_OWNERS.items():
                if module != owner and (last in names or name in names):
                    found.append(f"line {node.lineno}: {name}; only {owner} does this")
        elif isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil"):
            hidden = {alias.name for alias in node.names} & {*DELETING, "remove", "fsync", "fdatasync"}
            found += [f"line {node.lineno}: hides where {name} comes from" for name in sorted(hidden)]
    return found


def check_code(source: str) -> list[str]:
    """Nothing that comes as a file can run: no pickles, no eval, no code of a model's."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            found += [f"line {node.lineno}: {fault}" for fault in _code_faults(node)]
        elif isinstance(node, ast.ImportFrom) and node.module in ("pickle", "marshal", "dill", "joblib"):
            hidden = {alias.name for alias in node.names if not alias.name.endswith("Error")}
            found += [f"line {node.lineno}: {node.module}.{name}" for name in sorted(hidden)]
    return found


def _code_faults(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    given = {word.arg: ast.unparse(word.value) for word in call.keywords}
    if name in RUNS_CODE:
        yield f"{name} runs text"
    if given.get("trust_remote_code", "False") != "False":
        yield "trust_remote_code runs a model's own code"
    if given.get("allow_pickle", "False") != "False":
        yield "allow_pickle runs what is in an array"
    if name == "torch.load" and given.get("weights_only") != "True":
        yield "torch.load without weights_only=True runs what is in a file"
    if LOADS_CODE.fullmatch(name) and not given.get("Loader", "").endswith("_StrictLoader"):
        yield f"{name} runs what is in a file"


def check_size(source: str) -> list[str]:
    """Files of at most 400 lines, functions of at most 60; a signature counts as one line.

    A command's signature is the table of its options, one to a line.
    """
    num_lines = len(source.splitlines())
    found = [f"{num_lines} lines, over {FILE_LINES}"] if num_lines > FILE_LINES else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.body[0].lineno + 2
            if length > FUNCTION_LINES:
                found.append(f"{node.name} has {length} lines, over {FUNCTION_LINES}")
    return found


def check_init(source: str) -> list[str]:
    """An `__init__.py` is a docstring of one line, and at most a version."""
    docstring, *rest = ast.parse(source).body or [None]
    found = []
    text = getattr(getattr(docstring, "value", None), "value", None)
    if not isinstance(text, str) or "\n" in text.strip():
        found.append("begins with no docstring of one line")
    names = [ast.unparse(node.targets[0]) if isinstance(node, ast.Assign) else "code" for node in rest]
    if names not in ([], ["__version__"]):
        found.append("holds more than a docstring and a version")
    return found


MACHINE_PATH = re.compile(
    r"(?<![\w./-])/(?:home|root|work|workspace|Users|mnt|scratch|data|opt|tmp)/[\w.-]+|[A-Z]:\\Users\\"
)


def check_paths(text: str) -> list[str]:
    """No absolute path of somebody's machine."""
    return [
        f"line {number}: {match[0]}"
        for number, line in enumerate(text.splitlines(), 1)
        for match in MACHINE_PATH.finditer(line)
    ]


OPENS_INPUTS = "stdcli.media.ffmpeg"


def check_inputs(source: str, module: str) -> list[str]:
    """`-i` is said once, where every input of ffmpeg gets its limits: formats, protocols, pixels."""
    lines = [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and node.value == "-i"
    ]
    allowed = 1 if module == OPENS_INPUTS else 0
    return [f"{module}:{line} opens an input of ffmpeg by itself" for line in lines[allowed:]]
