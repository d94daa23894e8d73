"""``load_model``: one call for a run folder, a file of weights, or an ONNX graph; all embed uint8 RGB images."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from facekit.core.checkpoints import (
    WEIGHTS,
    Checkpoint,
    is_route_state,
    is_run,
    load_checkpoint,
    load_route_state,
    read_tensors,
    state_hash,
)
from facekit.core.device import Device
from facekit.core.errors import InputError, MissingFile, unknown_name
from facekit.core.preprocess import PerChannel, Preprocess
from facekit.core.reporting import console
from facekit.core.types import Outputs
from facekit.models import Classifier
from facekit.models.adopt import adopt, matched
from facekit.models.folding import folded
from facekit.models.layouts import Origin, import_checkpoint
from facekit.models.licences import NON_COMMERCIAL, UNKNOWN, by_file
from facekit.models.onnxfile import OnnxNetwork
from facekit.models.records import class_names, classifier_input, network_of

Affine = tuple[PerChannel, PerChannel]


def standardised(mean: tuple[float, float, float], deviation: tuple[float, float, float]) -> Affine:
    """(scale, shift) of ``(x / 255 - mean) / deviation``, for red, green and blue."""
    (r, g, b), (dr, dg, db) = mean, deviation
    return (1 / (255 * dr), 1 / (255 * dg), 1 / (255 * db)), (-r / dr, -g / dg, -b / db)


SCALINGS: dict[str, Affine] = {
    "raw": (1.0, 0.0),
    "unit": (1 / 255, 0.0),
    "symmetric": (1 / 127.5, -1.0),
    "128": (1 / 128, -127.5 / 128),
    "imagenet": standardised((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # torchvision
    "cifar100": standardised((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),  # RepDistiller
}
"""Name -> (scale, shift) of ``y = x * scale + shift`` on 0..255."""


class Network(Protocol):
    """What turns a preprocessed batch into outputs, whichever library runs it."""

    def __call__(self, x: Tensor) -> Outputs:
        """Preprocessed float [n,3,H,W] on the device -> what the network gives: an ONNX file has no maps."""

    def macs(self) -> int:
        """Multiply-accumulates of one image."""


@dataclass
class Model:
    """A network that is used, not trained: frozen, in eval mode."""

    name: str
    architecture: dict[str, Any]
    preprocess: Preprocess
    sha256: str
    licence: str
    size_bytes: int
    """Of the tensors (networks of ours) or the file (ONNX)."""
    parameters: int
    path: str
    module: nn.Module | None
    """The network as loaded; None for ONNX."""
    device: Device = field(repr=False)
    network: Network = field(repr=False)

    def embed(self, images: Tensor) -> Tensor:
        """uint8 RGB [n,3,H,W] on any device -> float32 [n,D] on the CPU, not normalised.

        Runs in the device's precision; fp32 unless it says otherwise. Raises InputError for another image size.
        """
        return self.embed_on_device(images).cpu()

    def embed_on_device(self, images: Tensor) -> Tensor:
        """As ``embed``, but the result stays on the device: a live teacher must not make every step wait for a copy."""
        return run_network(self.network, self.preprocess, self.device, images).embedding.float()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes in the order of the logits; () for a face embedder."""
        return class_names(self.architecture)

    @property
    def class_layer(self) -> nn.Module | None:
        """From an embedding on the device to the class scores; None for a face embedder and for ONNX."""
        return getattr(getattr(self.network, "net", None), "class_layer", None)

    def outputs_on_device(self, images: Tensor) -> Outputs:
        """uint8 RGB [n,3,H,W] -> all that the network gives, float32 on the device: an ONNX file has no maps."""
        embedding, maps, logits = run_network(self.network, self.preprocess, self.device, images)
        return Outputs(embedding.float(), tuple(m.float() for m in maps), None if logits is None else logits.float())

    def logits(self, images: Tensor) -> Tensor:
        """uint8 RGB [n,3,H,W] on any device -> class scores, float32 [n,C] on the CPU.

        Raises InputError for a model without classes, and for another image size.
        """
        outputs = run_network(self.network, self.preprocess, self.device, images)
        return _scores(outputs, self.path or self.name).float().cpu()

    def macs(self) -> int:
        """Multiply-accumulates of convolutions and matrix products for one image."""
        return self.network.macs()

    def latency_ms(self, repeats: int = 30) -> float:
        """Median wall time of embedding one image, after three passes of warm-up, in milliseconds."""
        image = torch.zeros(1, 3, *self.preprocess.size, dtype=torch.uint8)
        times = []
        for _ in range(repeats + 3):
            start = time.perf_counter()
            self.embed(image)
            times.append(time.perf_counter() - start)
        return 1e3 * statistics.median(times[3:])

    def state_hash(self) -> str:
        """Hash of what computes the embeddings, as it is now: a frozen teacher's is the same before and after."""
        return state_hash(self.network.net.state_dict()) if isinstance(self.network, TorchNetwork) else self.sha256

    def cache_key(self) -> str:
        """Names this model's embeddings on disk: weights, preprocessing, precision."""
        return f"{self.sha256[:24]}-{self.preprocess.hash()}-{self.device.precision}"


class TorchNetwork:
    """A frozen copy of a network of ours, convolutions and BatchNorms merged, never compiled."""

    def __init__(self, module: nn.Module, device: Device, size: tuple[int, int]) -> None:
        self.net = replace(device, compile=False).module(folded(module).requires_grad_(False))
        self.size = size

    def __call__(self, x: Tensor) -> Outputs:
        """Preprocessed [n,3,H,W] -> Outputs."""
        outputs: Outputs = self.net(x)
        return outputs

    def macs(self) -> int:
        """Counted while one image runs."""
        weight = next(self.net.parameters())
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.net(torch.zeros(1, 3, *self.size, device=weight.device, dtype=weight.dtype))
        return int(counter.get_total_flops()) // 2


def run_network(network: Network, preprocess: Preprocess, device: Device, images: Tensor) -> Outputs:
    """uint8 RGB [n,3,H,W] -> outputs on the device, in its precision and without gradient."""
    # Not inference mode: autograd refuses its tensors, and distillation feeds on these.
    with torch.no_grad(), device.autocast():
        return network(preprocess(device.put(images)).contiguous(memory_format=torch.channels_last))


def as_embedder(module: nn.Module, preprocess: Preprocess, device: Device) -> Callable[[Tensor], Tensor]:
    """``embed`` for a network in training, as it is now: a copy in eval mode, always in fp32."""
    run = as_it_is_now(module, preprocess, device)
    return lambda images: run(images).embedding.cpu()


def as_classifier(module: nn.Module, preprocess: Preprocess, device: Device) -> Callable[[Tensor], Tensor]:
    """As ``as_embedder`` for class scores: uint8 RGB [n,3,H,W] -> float32 [n,C] on the CPU.

    Raises InputError, when it is called, for a network without a class layer.
    """
    run = as_it_is_now(module, preprocess, device)
    return lambda images: _scores(run(images), type(module).__name__).cpu()


def as_it_is_now(module: nn.Module, preprocess: Preprocess, device: Device) -> Callable[[Tensor], Outputs]:
    """uint8 RGB [n,3,H,W] -> all outputs of a network in training: a copy in eval mode, always in fp32."""
    exact = replace(device, precision="fp32")
    return partial(run_network, TorchNetwork(module, exact, preprocess.size), preprocess, exact)


def _scores(outputs: Outputs, name: str) -> Tensor:
    if outputs.logits is None:
        raise InputError(f"{name} embeds faces and has no classes; give a closed-set network")
    return outputs.logits


# --- loading -----------------------------------------------------------------------------------------


def load_model(
    path: Path | str, *, device: Device | None = None, channels: str | None = None, scaling: str | None = None
) -> Model:
    """Load a run folder (its ``last``), one of its checkpoints, .pt/.pth/.ckpt/.safetensors, or .onnx.

    ``channels`` and ``scaling`` (a name of SCALINGS) overrule what the file implies about its input, and are
    required where it implies nothing. Raises MissingFile, CorruptFile, InputError with the fix.
    """
    path = Path(path)
    device = device or Device.pick("cpu", "fp32")
    opened = _open_onnx if path.suffix.lower() == ".onnx" and path.is_file() else _open_torch
    model = opened(path, device, Given(channels, scaling))
    if model.licence.startswith(NON_COMMERCIAL):
        console.print(f"licence  {path.name}: {model.licence}", highlight=False, markup=False, soft_wrap=True)
    return model


@dataclass(frozen=True)
class Given:
    """What the user said about a foreign model's input."""

    channels: str | None = None
    scaling: str | None = None

    def complete(self, base: Preprocess, channels: str | None, affine: Affine | None, path: Path) -> Preprocess:
        """``base`` with what is given, else with what the file implies; refuses to guess."""
        if self.scaling is not None:
            affine = scaling_values(self.scaling)
        channels = self.channels or channels
        if channels is None or affine is None:
            absent = [f for f, v in (("--channels", channels), ("--scaling", affine)) if v is None]
            raise InputError(
                f"{path} does not say what input it expects: add {' and '.join(absent)} as its authors feed it"
            )
        return replace(base, channels=channels, scale=affine[0], shift=affine[1])


def scaling_values(name: str) -> Affine:
    """(scale, shift) of a named input range. Raises UsageError for an unknown name."""
    if name not in SCALINGS:
        raise unknown_name("scaling", name, SCALINGS)
    return SCALINGS[name]


@dataclass(frozen=True)
class Stored:
    """A network of ours as found on disk."""

    module: nn.Module
    architecture: dict[str, Any]
    licence: str
    preprocess: Preprocess | None
    """Known for runs of ours; foreign files only imply parts of it, in ``origin``."""
    origin: Origin


def read_network(path: Path) -> Stored:
    """A run folder, one of its checkpoints, a state of its route, or a file of weights -> a network with its weights.

    No input table is needed. Raises MissingFile, CorruptFile, or InputError with the first key that does not fit.
    """
    if not path.exists():
        raise MissingFile(f"{path} does not exist; give a run folder, a file of weights, or an .onnx file")
    if path.name == WEIGHTS and is_run(path.parent):
        path = path.parent
    try:
        if path.is_dir():
            return _read_checkpoint(load_checkpoint(path))
        if is_route_state(path):
            return _read_checkpoint(load_route_state(path))
        content, _ = read_tensors(path)
        found = import_checkpoint(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    licence = found.origin.licence if found.origin.licence != UNKNOWN else by_file(path, "")
    return Stored(found.module, found.architecture, licence, None, found.origin)


def _read_checkpoint(checkpoint: Checkpoint) -> Stored:
    meta = checkpoint.meta
    try:
        architecture = dict(meta["architecture"])
        preprocess = Preprocess.from_dict(meta["preprocess"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"its run.json does not describe a network: {error!r}") from error
    module = adopt(network_of(architecture), checkpoint.tensors)
    return Stored(module, architecture, str(meta.get("licence", UNKNOWN)), preprocess, Origin())


def load_weights(model: nn.Module, path: Path) -> None:
    """Give ``model`` the stored weights of the same architecture (``--init``).

    Raises InputError with the first key that does not fit, also for an .onnx file, which cannot be trained.
    """
    if path.suffix.lower() == ".onnx":
        raise InputError(f"{path} is a frozen graph and cannot be trained; give a run folder or a file of weights")
    stored = read_network(path)
    try:
        model.load_state_dict(matched(model, stored.module.state_dict()))
    except InputError as error:
        raise InputError(f"{path} ({stored.architecture['name']}): {error}") from error


def _open_torch(path: Path, device: Device, given: Given) -> Model:
    stored = read_network(path)
    if stored.preprocess is not None:
        preprocess = stored.preprocess
    else:
        width, module = int(stored.architecture["embedding"]), stored.module
        implied = None if stored.origin.scaling is None else scaling_values(stored.origin.scaling)
        base = classifier_input(width, module.size) if isinstance(module, Classifier) else Preprocess(embedding=width)
        preprocess = given.complete(base, stored.origin.channels, implied, path)
    return frozen_model(stored.module, stored.architecture, preprocess, device, stored.licence, path.as_posix())


def frozen_model(
    module: nn.Module,
    architecture: dict[str, Any],
    preprocess: Preprocess,
    device: Device,
    licence: str = UNKNOWN,
    path: str = "",
) -> Model:
    """A network of ours as a ``Model``; ``module`` is put into eval mode and frozen."""
    state = module.eval().requires_grad_(False).state_dict()
    return Model(
        name=str(architecture["name"]),
        architecture=architecture,
        preprocess=preprocess,
        sha256=state_hash(state),
        licence=licence,
        size_bytes=sum(t.numel() * t.element_size() for t in state.values()),
        parameters=sum(p.numel() for p in module.parameters()),
        path=path,
        module=module,
        device=device,
        network=TorchNetwork(module, device, preprocess.size),
    )


def _open_onnx(path: Path, device: Device, given: Given) -> Model:
    network = OnnxNetwork(path, device)
    facts = network.facts
    table = facts.preprocess
    if table is not None:
        preprocess = given.complete(table, table.channels, (table.scale, table.shift), path)
    else:
        base = Preprocess(size=facts.size, normalised_output=facts.normalised_output)
        implied = None if facts.scaling is None else scaling_values(facts.scaling)
        preprocess = given.complete(base, facts.channels, implied, path)
    return Model(
        name=str(facts.architecture.get("name", path.stem)),
        architecture={**facts.architecture, "embedding": facts.width},
        preprocess=replace(preprocess, embedding=facts.width),
        sha256=facts.sha256,
        licence=facts.licence if facts.licence != UNKNOWN else by_file(path, facts.sha256),
        size_bytes=facts.size_bytes,
        parameters=facts.parameters,
        path=path.as_posix(),
        module=None,
        device=replace(device, precision="fp32"),
        network=network,
    )
