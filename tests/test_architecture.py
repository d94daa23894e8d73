"""The house rules, read from the source itself: who imports whom, and what only one file may name.

Every rule has an example that breaks it, so that none of them can pass by looking at nothing.
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
import tomllib
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "facekit"

# Layer -> what of facekit it may import, besides itself. A dotted entry allows that one module, "." the version.
ALLOWED: dict[str, set[str]] = {
    ".": set(),
    "__main__": {"cli"},
    "cli": {".", "configs", "core.errors"},
    "configs": {"core.errors"},
    "engines": {
        ".", "configs", "training", "models", "losses", "data", "evaluation", "alignment", "weighting", "codec", "core",
    },
    "training": {".", "models", "losses", "data", "weighting", "alignment", "codec", "core"},
    "models": {".", "core"},
    "losses": {".", "core"},
    "alignment": {".", "core"},
    "weighting": {".", "core"},
    "codec": {".", "core"},
    "data": {".", "core"},
    "evaluation": {".", "data", "core"},
    "core": {"."},
}  # fmt: skip

# What a layer may import from outside when it is loaded; imports inside functions are paid only when used.
STANDARD_ONLY: dict[str, set[str]] = {
    ".": set(),
    "__main__": set(),
    "cli": {"typer"},
    "configs": set(),
    "core": {"torch", "numpy", "pandas", "safetensors", "rich"},
}

# What several verbs share lies beside them; it is no verb, and imports none.
SHARED_BY_ENGINES = (
    "engines.fitting.", "engines.supports.", "engines.distilling.", "engines.together.", "engines.classifying.",
    "engines.weighing.", "engines.searching.",
)  # fmt: skip

PRINTING = {"cli", "engines"}
RUNS_CODE = {"marshal", "shelve", "dill", "joblib", "cloudpickle"}


@dataclass(frozen=True)
class Module:
    """One source file: its path below ``facekit/`` and its text."""

    path: PurePosixPath
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def layer(self) -> str:
        first = self.path.parts[0].removesuffix(".py")
        return "." if first == "__init__" else first

    def imports(self, top_level: bool = False) -> Iterator[tuple[int, str]]:
        """(line, full dotted name) of what is imported: ``from a import b`` gives ``a.b``."""
        for node in self._at_load(self.tree) if top_level else ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                parents = ("facekit", *self.path.parts)
                base = ".".join(parents[: len(parents) - node.level]) if node.level else ""
                source = ".".join(part for part in (base, node.module) if part)
                yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)

    def _at_load(self, node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield child
                yield from self._at_load(child)

    def calls(self) -> Iterator[tuple[ast.Call, str]]:
        """Every call with the dotted name of what is called, as written."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield node, dotted(node.func)


def dotted(node: ast.AST) -> str:
    """``a.b.c`` of an attribute chain; a part that is not a plain name is empty."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


Found = Iterator[tuple[int, str]]


def layers(module: Module) -> Found:
    """Imports point downwards only, and engines do not know each other."""
    if module.layer not in ALLOWED:
        yield 1, f"{module.layer!r} is not a layer"
        return
    for line, name in module.imports():
        package, _, inside = name.partition(".")
        if package == "facekit" and not permitted(module.layer, inside):
            yield line, f"{module.layer} may not import {name}"


def permitted(layer: str, inside: str) -> bool:
    """May this layer import ``inside``, a dotted name below facekit? A name of the root package is layer "."."""
    target = inside.split(".")[0]
    if target not in ALLOWED:
        return "." in ALLOWED[layer] or layer == "."
    if target == layer:
        return layer != "engines" or inside.startswith(SHARED_BY_ENGINES)
    return any(inside == allowed or inside.startswith(allowed + ".") for allowed in ALLOWED[layer])


def light(module: Module) -> Found:
    """What loads at start-up is light, and the command-line library stays at the command line."""
    allowed = STANDARD_ONLY.get(module.layer)
    for line, name in module.imports(top_level=True):
        library = name.split(".")[0]
        if allowed is not None and library not in allowed | sys.stdlib_module_names | {"facekit"}:
            yield line, f"{module.layer} imports {library} when it is loaded"
    for line, name in module.imports():
        if name.split(".")[0] in {"typer", "click"} and module.layer != "cli":
            yield line, f"{name} outside cli.py"


def cuda(module: Module) -> Found:
    """Only core/device.py names CUDA; configs.py offers the word to the user."""
    if str(module.path) in {"core/device.py", "configs.py"}:
        return
    for node in ast.walk(module.tree):
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if "cuda" in name.lower() or text == "cuda" or text.startswith("cuda:"):
            yield node.lineno, f"names CUDA: {name or text}"  # type: ignore[attr-defined]
    yield from ((line, f"imports {name}") for line, name in module.imports() if "cuda" in name.lower())


def safetensors(module: Module) -> Found:
    """Only core/checkpoints.py names safetensors."""
    if str(module.path) != "core/checkpoints.py":
        yield from ((line, f"imports {n}") for line, n in module.imports() if n.split(".")[0] == "safetensors")


def distribution(module: Module) -> Found:
    """Only core/processes.py names torch.distributed."""
    if str(module.path) != "core/processes.py":
        yield from ((line, f"imports {n}") for line, n in module.imports() if n.startswith("torch.distributed"))
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch.distributed"):
                yield node.lineno, "names torch.distributed"


def file_names(module: Module) -> Found:
    """A file is named after its idea, not after being useful."""
    if module.path.stem in {"utils", "util", "helpers", "helper", "common", "misc", "tools"}:
        yield 1, "says nothing about what is in it"


def docstrings(module: Module) -> Found:
    """Every module says what it is."""
    if not ast.get_docstring(module.tree):
        yield 1, "has no docstring"


def keyword_bags(module: Module) -> Found:
    """No public function or method takes ``**kwargs``: an option is spelt out where it crosses a layer."""
    if module.layer == "cli":
        return
    for owner in [module.tree, *(n for n in ast.walk(module.tree) if isinstance(n, ast.ClassDef))]:
        for node in owner.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.args.kwarg:
                public = not node.name.startswith("_") or node.name == "__init__"
                if public:
                    yield node.lineno, f"{node.name} takes **{node.args.kwarg.arg}"


def pickles(module: Module) -> Found:
    """A pickle runs code: only one reader under data/ may unpickle, by its restricted class, never by pickle.load."""
    for line, name in module.imports():
        library, _, what = name.partition(".")
        harmless = what in {"", "UnpicklingError", "PickleError"} or (what == "Unpickler" and is_pickle_reader(module))
        if library in RUNS_CODE or (library in {"pickle", "_pickle"} and not harmless):
            yield line, f"imports {name}"
    for node in ast.walk(module.tree):
        name = dotted(node)
        if name in {"pickle.load", "pickle.loads"} or (name == "pickle.Unpickler" and not is_pickle_reader(module)):
            yield node.lineno, f"uses {name}"  # type: ignore[attr-defined]


def is_pickle_reader(module: Module) -> bool:
    """The one file that holds the restricted unpickler."""
    return module.layer == "data" and "find_class" in module.text


def prints(module: Module) -> Found:
    """Libraries return values and raise; engines, the command line and core/reporting.py speak to the terminal."""
    if module.layer in PRINTING or str(module.path) == "core/reporting.py":
        return
    yield from ((call.lineno, "prints") for call, name in module.calls() if name == "print")


def loads(module: Module) -> Found:
    """``torch.load`` only in core/checkpoints.py and only with ``weights_only=True``; arrays without pickles."""
    for call, name in module.calls():
        options = {k.arg: getattr(k.value, "value", None) for k in call.keywords}
        if name == "torch.load":
            if str(module.path) != "core/checkpoints.py":
                yield call.lineno, "calls torch.load"
            elif options.get("weights_only") is not True:
                yield call.lineno, "calls torch.load without weights_only=True"
        if options.get("allow_pickle", False) is not False:
            yield call.lineno, "allows pickles in an array file"
    yield from ((line, f"imports {n}") for line, n in module.imports() if n == "torch.load")


def one_loop(module: Module) -> Found:
    """Back-propagation is written once, in core/loop.py; a task says what a step computes."""
    if str(module.path) == "core/loop.py":
        return
    yield from ((call.lineno, "calls backward") for call, name in module.calls() if name.endswith(".backward"))


@dataclass(frozen=True)
class Rule:
    """A check, sources that must break it and sources that must not: (path below facekit/, text)."""

    check: Callable[[Module], Found]
    bad: tuple[tuple[str, str], ...]
    good: tuple[tuple[str, str], ...] = ()


RULES = (
    Rule(
        layers,
        bad=(
            ("engines/train.py", "from facekit.engines import distill"),
            ("engines/train.py", "from facekit.engines.distill import run"),
            ("training/classify.py", "def f():\n    from facekit.evaluation.verify import tar"),
            ("training/classify.py", "from facekit import configs"),
            ("models/mbf.py", "from ..losses import fcd"),
            ("evaluation/verify.py", "import facekit.models.loading"),
            ("core/loop.py", "from facekit.data import batches"),
            ("cli.py", "from facekit.core.files import read_json"),
            ("configs.py", "from facekit import core"),
            ("tricks/new.py", "import json"),
        ),
        good=(
            ("engines/train.py", "from facekit import __version__, configs\nfrom facekit.training import classify"),
            ("models/mbf.py", "from .prelu import PReLU\nfrom facekit.models.mbf import net"),
            ("cli.py", "from facekit import __version__, configs\nfrom facekit.core.errors import FacekitError"),
        ),
    ),
    Rule(
        light,
        bad=(
            ("cli.py", "import numpy"),
            ("cli.py", "if True:\n    from torch import nn"),
            ("configs.py", "import typer"),
            ("core/reporting.py", "import matplotlib.pyplot as plt"),
            ("engines/train.py", "def run():\n    import typer"),
        ),
        good=(("core/reporting.py", "def draw():\n    import matplotlib"), ("models/onnx.py", "import onnxruntime")),
    ),
    Rule(
        cuda,
        bad=(
            ("core/loop.py", "torch.cuda.synchronize()"),
            ("models/mbf.py", "x = x.cuda()"),
            ("data/batches.py", "device = torch.device('cuda:0')"),
            ("data/batches.py", "if x.is_cuda: pass"),
            ("engines/doctor.py", "from torch import cuda"),
        ),
        good=(("core/device.py", "torch.cuda.synchronize()"), ("core/loop.py", "'default on for cpu, off for cuda'")),
    ),
    Rule(
        safetensors,
        bad=(("models/loading.py", "def f():\n    from safetensors.torch import load_file"),),
        good=(("core/checkpoints.py", "import safetensors"),),
    ),
    Rule(
        distribution,
        bad=(
            ("core/loop.py", "import torch.distributed as dist"),
            ("core/loop.py", "from torch.distributed import barrier"),
            ("training/distill.py", "torch.distributed.barrier()"),
        ),
        good=(("core/processes.py", "import torch.distributed as dist"), ("core/loop.py", "import torch")),
    ),
    Rule(file_names, bad=(("core/utils.py", ""),), good=(("core/files.py", ""),)),
    Rule(docstrings, bad=(("core/x.py", "x = 1"), ("core/__init__.py", "")), good=(("core/x.py", "'What it is.'"),)),
    Rule(
        keyword_bags,
        bad=(
            ("models/mbf.py", "def build(name, **kwargs): pass"),
            ("models/mbf.py", "class Net:\n    def __init__(self, **options): pass"),
        ),
        good=(("models/mbf.py", "def _shim(**state): pass"), ("cli.py", "def call(**given): pass")),
    ),
    Rule(
        pickles,
        bad=(
            ("data/bins.py", "import pickle\nclass Safe(pickle.Unpickler):\n    find_class = 1\npickle.loads(b'')"),
            ("core/checkpoints.py", "import pickle\nclass Safe(pickle.Unpickler):\n    def find_class(self): pass"),
            ("data/bins.py", "from pickle import load"),
            ("models/loading.py", "import joblib"),
        ),
        good=(
            ("data/bins.py", "import pickle\nclass Safe(pickle.Unpickler):\n    def find_class(self): pass"),
            ("core/checkpoints.py", "import pickle\ntry: pass\nexcept pickle.UnpicklingError: pass"),
        ),
    ),
    Rule(prints, bad=(("models/mbf.py", "print(1)"),), good=(("core/reporting.py", "print(1)"),)),
    Rule(
        loads,
        bad=(
            ("models/loading.py", "torch.load(path, weights_only=True)"),
            ("core/checkpoints.py", "torch.load(path)"),
            ("core/checkpoints.py", "torch.load(path, weights_only=False)"),
            ("data/sources.py", "np.load(path, allow_pickle=True)"),
        ),
        good=(("core/checkpoints.py", "torch.load(path, weights_only=True); np.load(path, allow_pickle=False)"),),
    ),
    Rule(one_loop, bad=(("training/gan.py", "loss.backward()"),), good=(("core/loop.py", "loss.backward()"),)),
)
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.check.__name__)


def package() -> list[Module]:
    """All modules of facekit."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return [Module(PurePosixPath(p.relative_to(PACKAGE).as_posix()), p.read_text(encoding="utf-8")) for p in paths]


@each_rule
def test_the_package_keeps_the_rule(rule: Rule) -> None:
    modules = package()
    assert len(modules) > 10, "the package was not found"
    broken = {f"facekit/{m.path}:{line}: {message}" for m in modules for line, message in rule.check(m)}
    assert not broken, f"{rule.check.__doc__}\n" + "\n".join(sorted(broken))


@each_rule
def test_the_rule_can_be_broken_and_kept(rule: Rule) -> None:
    for path, text in rule.bad:
        assert list(rule.check(Module(PurePosixPath(path), text))), f"not noticed in {path}: {text}"
    for path, text in rule.good:
        assert not list(rule.check(Module(PurePosixPath(path), text))), f"refused in {path}: {text}"


def test_one_file_unpickles() -> None:
    readers = [str(m.path) for m in package() if is_pickle_reader(m)]
    assert len(readers) == 1, f"expected one restricted unpickler under data/, found {readers}"


def test_the_names_a_user_can_choose_are_the_tables() -> None:
    from facekit import configs
    from facekit.losses import LOSSES, PRESETS
    from facekit.models import BACKBONES, HEADS

    assert list(typing.get_args(configs.Backbone)) == list(BACKBONES)
    assert list(typing.get_args(configs.Head)) == list(HEADS)
    assert set(typing.get_args(configs.Term)) == {*LOSSES, "cls"}
    assert set(typing.get_args(configs.Preset)) == set(PRESETS)


def test_every_declared_package_is_pinned_once_without_a_local_build(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.partition("==") for line in lines if line and not line.startswith("#")]
    pinned = [name for name, _, _ in pins]
    assert {re.split("[<>=~]", requirement)[0] for requirement in declared} <= set(pinned)
    assert len(pinned) == len(set(pinned))
    assert all(re.fullmatch(r"[0-9]+(\.[0-9]+)*", version) for _, _, version in pins)
