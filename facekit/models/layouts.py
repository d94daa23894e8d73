"""Other people's checkpoints: from a dictionary of tensors to one of our networks.

The architecture is read from tensor shapes, never from the file name.

Known: arcface_torch (iresnet, mbf of any width), the MobileFaceNet of TFace, cavaface and FaceX-Zoo, and the
classifiers of ``closedset``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from facekit.core.errors import InputError
from facekit.models import Classifier, closedset
from facekit.models.adopt import State, adopt, channels, count, dims
from facekit.models.iresnet import BLOCKS, IResNet
from facekit.models.licences import UNKNOWN, non_commercial
from facekit.models.mbf import SHAPES, MobileFaceNet, Shape
from facekit.models.resnet import ResNet

KNOWN = f"arcface_torch iresnet or mbf, the MobileFaceNet of TFace, cavaface and FaceX-Zoo, {closedset.KNOWN}"
_PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.", "net.")


@dataclass(frozen=True)
class Origin:
    """What the wrapping of a checkpoint tells about its input. None: not known, must be given."""

    channels: str | None = None
    scaling: str | None = None
    licence: str = UNKNOWN


@dataclass(frozen=True)
class Imported:
    """A recognised network, its weights loaded."""

    module: nn.Module
    architecture: dict[str, Any]
    origin: Origin


def import_checkpoint(content: Mapping[str, Any]) -> Imported:
    """A checkpoint as read from a file -> network, architecture and what is known of its input.

    Raises InputError: no tensors, an unknown or refused layout (with the reason), or the first key that
    does not fit, with both shapes.
    """
    state, stripped = unwrap(content)
    _refuse_unsupported(state)
    if "conv1.conv.weight" in state:
        module, architecture = _mobilefacenet(_from_tface(state))
        family = _tface_origin(state, content)
    elif "layers.0.layers.0.weight" in state:
        module, architecture = _mobilefacenet(state)
        family = Origin("rgb", "symmetric")
    elif "layer1.0.prelu.weight" in state:
        module, architecture = _iresnet(state)
        family = Origin("rgb", "symmetric")
    elif found := closedset.import_classifier(state):
        return Imported(*found, _classifier_origin(found[0], content))
    else:
        keys = ", ".join(list(state)[:3])
        raise InputError(
            f"this layout of weights is not known (first keys: {keys}). Known: {KNOWN}. "
            "Export the network to .onnx and give that file"
        )
    return Imported(module, architecture, _wrapper_origin(content, stripped) or family)


# --- wrappers ----------------------------------------------------------------------------------------


def unwrap(content: Mapping[str, Any]) -> tuple[State, set[str]]:
    """Find the dictionary of tensors and strip the wrappers' prefixes; also returns which were stripped."""
    for name in ("state_dict_backbone", "state_dict", "backbone", "model"):
        if isinstance(content.get(name), Mapping):
            return unwrap(content[name])
    state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not state:
        keys = ", ".join(str(k) for k in list(content)[:5]) or "none"
        raise InputError(f"the file holds no dictionary of tensors (keys: {keys})")
    stripped: set[str] = set()
    while found := next((p for p in _PREFIXES if any(k.startswith(p) for k in state)), None):
        # Heads and losses lie beside the backbone under prefixes of their own: only the backbone is kept.
        state = {k.removeprefix(found): v for k, v in state.items() if k.startswith(found)}
        stripped.add(found)
    return state, stripped


def _wrapper_origin(content: Mapping[str, Any], stripped: set[str]) -> Origin | None:
    """AdaFace and CVLface are recognised by how they wrap their networks."""
    if "pytorch-lightning_version" in content and "model." in stripped:
        return Origin("bgr", "symmetric", non_commercial("AdaFace", "its Lightning checkpoint with model.* keys"))
    if "net." in stripped:
        # CVLface's colour order is in a YAML file beside the weights: some of its models are BGR.
        return Origin(None, "symmetric", non_commercial("CVLface", "its net.* keys"))
    return None


def _tface_origin(state: State, content: Mapping[str, Any]) -> Origin:
    if any(k.startswith("output_layer.") for k in state):
        return Origin("rgb", "symmetric")
    names = content.get("state_dict")
    if isinstance(names, Mapping) and any(str(k).removeprefix("module.").startswith("backbone.") for k in names):
        return Origin("bgr", "128")  # FaceX-Zoo: (x - 127.5) * 0.0078125 on cv2's BGR
    # face.evoLVe and InsightFace_Pytorch use the same keys with RGB: the bare dictionary does not tell.
    return Origin()


def _classifier_origin(net: Classifier, content: Mapping[str, Any]) -> Origin:
    """torchvision's networks are fed ImageNet's statistics, RepDistiller's, known by their wrapper, CIFAR-100's."""
    if isinstance(net, ResNet) and net.large:
        return Origin("rgb", "imagenet")
    if isinstance(content.get("model"), Mapping) and net.classes == 100:
        return Origin("rgb", "cifar100")
    return Origin()


# --- refusals ----------------------------------------------------------------------------------------


def _refuse_unsupported(state: State) -> None:
    reason = None
    if any("attention_layer" in k for k in state):
        reason = "it has attention layers (cavaface se, eca or cbam)"
    elif "conv1.conv.weight" in state and any(k.startswith(("output_layer.bn1.", "output_layer.bn2.")) for k in state):
        reason = "it ends in global norm-aware pooling (GNAP), whose output depends on the other images of a batch"
    elif "input_layer.0.weight" in state and any(k.startswith("body.0.") for k in state):
        reason = "it is an IR or IR-SE network as in face.evoLVe, TFace, AdaFace and CVLface"
    elif any(k.startswith("patch_embed.") for k in state):
        reason = "it is a vision transformer"
    elif "layer1.0.conv1.weight" in state and "linear.weight" in state:
        reason = "it is a ResNet with the class layer called linear, as in pytorch-cifar"
    if reason:
        raise InputError(
            f"these weights cannot be imported: {reason}. Known: {KNOWN}. "
            "Export the network to .onnx and give that file"
        )


# --- TFace, cavaface, FaceX-Zoo ------------------------------------------------------------------------

_TOP = {
    "conv1": "layers.0",
    "conv2_dw": "layers.1",
    "conv_23": "layers.2",
    "conv_3": "layers.3",
    "conv_34": "layers.4",
    "conv_4": "layers.5",
    "conv_45": "layers.6",
    "conv_5": "layers.7",
    "conv_6_sep": "conv_sep",
    "conv_6_dw": "features.layers.0",
    "linear": "features.layers.2",
    "bn": "features.layers.3",
}
_INNER = {
    "model": "layers",
    "conv": "layers.0",
    "conv_dw": "layers.1",
    "project": "layers.2",
    "bn": "layers.1",
    "prelu": "layers.2",
}


def _from_tface(state: State) -> State:
    """Rename to arcface_torch's keys; an output BatchNorm without weight and bias gets 1 and 0."""
    renamed = {_rename(k): v for k, v in state.items()}
    mean = renamed.get("features.layers.3.running_mean")
    if mean is not None and "features.layers.3.weight" not in renamed:
        renamed["features.layers.3.weight"] = torch.ones_like(mean)
        renamed["features.layers.3.bias"] = torch.zeros_like(mean)
    return renamed


def _rename(key: str) -> str:
    top, *inner = key.removeprefix("output_layer.").split(".")
    return ".".join([_TOP.get(top, top), *(_INNER.get(part, part) for part in inner)])


# --- networks from shapes ------------------------------------------------------------------------------


def _mobilefacenet(state: State) -> tuple[nn.Module, dict[str, Any]]:
    shape = read_shape(state)
    name = next((n for n, known in SHAPES.items() if known == shape), "mobilefacenet")
    embedding = channels(state, "features.layers.2.weight")
    with torch.device("meta"):
        module = MobileFaceNet(shape, embedding)
    architecture = {"name": name, "embedding": embedding, "dropout": 0.0}
    if name not in SHAPES:
        architecture["shape"] = asdict(shape)
    return adopt(module, state), architecture


def _iresnet(state: State) -> tuple[nn.Module, dict[str, Any]]:
    counts = tuple(count(state, f"layer{i}.") for i in range(1, 5))
    blocks = (counts[0], counts[1], counts[2], counts[3])
    name = next((n for n, known in BLOCKS.items() if known == blocks), "iresnet")
    embedding = channels(state, "fc.weight")
    with torch.device("meta"):
        module = IResNet(blocks, embedding)
    architecture = {"name": name, "embedding": embedding, "dropout": 0.0}
    if name not in BLOCKS:
        architecture["blocks"] = list(blocks)
    return adopt(module, state), architecture


def read_shape(state: Mapping[str, Tensor]) -> Shape:
    """The widths, hidden widths and block counts of a MobileFaceNet from its tensors.

    Strides leave no trace in tensors: those of the known shape with the same tensors are taken, else
    arcface_torch's.
    """
    stem = dims(state, "layers.0.layers.0.weight")
    plain = "layers.1.layers.0.weight" in state
    first_key = f"layers.1.layers.0.{'' if plain else 'layers.0.layers.0.'}weight"
    first = stem[0] // max(1, dims(state, first_key)[1]) if plain else channels(state, first_key)
    transitions = [channels(state, f"layers.{i}.layers.0.layers.0.weight") for i in (2, 4, 6)]
    residuals = [channels(state, f"layers.{i}.layers.0.layers.0.layers.0.weight") for i in (3, 5, 7)]
    outputs = [channels(state, f"layers.{i}.layers.2.layers.0.weight") for i in (2, 4, 6)]
    shape = Shape(
        widths=(stem[0], outputs[0], outputs[1], outputs[2]),
        hidden=(transitions[0], residuals[0], transitions[1], residuals[1], transitions[2], residuals[2]),
        first=first,
        blocks=(
            1 if plain else count(state, "layers.1.layers."),
            count(state, "layers.3.layers."),
            count(state, "layers.5.layers."),
            count(state, "layers.7.layers."),
        ),
        separate=channels(state, "conv_sep.layers.0.weight"),
    )
    for known in SHAPES.values():
        if known.stem[0] == stem[-1] and replace(shape, stem=known.stem, strides=known.strides) == known:
            return known
    return shape
