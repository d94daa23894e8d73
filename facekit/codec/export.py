"""A trained codec as a model file's content, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facekit.codec.mixture import FiniteError
from facekit.codec.modelfile import CodecModel
from facekit.codec.networks import Codec
from facekit.codec.priors import z_edges
from facekit.codec.tables import PRECISION, STATIC_SYMBOLS
from facekit.core.errors import InputError

EDGES = "z_edges"
DECODER = ("hyper_synthesis.", "synthesis.", "enhancement.")


class OnlyDecodes(nn.Module):
    """Stands where the encoder of a model file without one would be."""

    def forward(self, x: Tensor) -> Tensor:
        """Raises InputError."""
        raise InputError("this model file holds the decoder alone; compress with the whole model, or export it again")


def exported(codec: Codec, about: Mapping[str, Any]) -> CodecModel:
    """What a file of mode ``f64`` holds: the networks as trained, and the integer tables of z. Raises FiniteError."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in codec.state_dict().items()}
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise FiniteError("a weight of the codec is not finite")
    decoder = {name: tensor for name, tensor in tensors.items() if name.startswith(DECODER)}
    encoder = {name: tensor for name, tensor in tensors.items() if name not in decoder}
    decoder[EDGES] = torch.from_numpy(z_edges(codec.prior))
    return CodecModel(codec.arch, "f64", decoder, encoder, about)


def restored(model: CodecModel) -> Codec:
    """The networks of a model file on the CPU. Where the file has no encoder, encoding raises InputError.

    Names, shapes and kinds are checked against the architecture before anything is allocated. Raises InputError.
    """
    if model.mode != "f64":
        raise InputError(f"this facekit cannot run models of the numeric mode {model.mode!r}; it runs f64")
    with torch.device("meta"):
        codec = Codec(model.arch)
    given = {name: tensor for name, tensor in {**model.decoder, **model.encoder}.items() if name != EDGES}
    wanted = {name: t for name, t in codec.state_dict().items() if model.encoder or name.startswith(DECODER)}
    if described(given) != described(wanted):
        wrong = sorted({name for name, _ in described(given).items() ^ described(wanted).items()})
        raise InputError(f"the model's tensors are not those of its architecture ({', '.join(wrong[:3])})")
    codec.load_state_dict(given, strict=False, assign=True)
    if not model.encoder:
        codec.analysis = nn.Sequential(OnlyDecodes())
        codec.hyper_analysis = nn.Sequential(OnlyDecodes())
        del codec.prior
    return codec


def described(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.dtype, torch.Size]]:
    """Kind and shape by name."""
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}


def edges(model: CodecModel) -> np.ndarray:
    """The tables of z of a model file, uint32 [N,256]. Raises InputError for what no coder can use."""
    table = model.decoder.get(EDGES)
    shape = (model.arch.n, STATIC_SYMBOLS + 1)
    if table is None or table.dtype != torch.uint32 or table.shape != shape:
        raise InputError(f"the model has no table {EDGES} of uint32 {list(shape)}")
    values: np.ndarray = table.numpy()
    if (values[:, 0] != 0).any() or (values[:, -1] != 1 << PRECISION).any() or (values[:, 1:] <= values[:, :-1]).any():
        raise InputError(f"the model's table {EDGES} does not rise from 0 to 2^{PRECISION}")
    return values
