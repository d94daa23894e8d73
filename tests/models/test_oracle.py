"""Every row of arcface_oracle.json: embeddings of arcface_torch's networks for closed-form weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from facekit.models import build_backbone

ROWS: dict[str, Any] = json.loads((Path(__file__).parent / "arcface_oracle.json").read_text())["networks"]


def closed_form(net: nn.Module) -> dict[str, Tensor]:
    """The oracle's weights. They are float32 values: it filled a float32 network and then called ``double()``."""
    state = {}
    modules = dict(net.named_modules())
    for key, tensor in net.state_dict().items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros_like(tensor)
            continue
        count = tensor.numel()
        s = torch.from_numpy(np.sin(0.37 * np.arange(count, dtype=np.float64) + sum(key.encode()) % 97))
        if key.endswith("running_var"):
            value = 1 + 0.2 * s
        elif key.endswith(("running_mean", "bias")):
            value = 0.1 * s
        elif tensor.ndim >= 2:
            value = (2 / (count / tensor.shape[0])) ** 0.5 * s
        elif isinstance(modules[key.rpartition(".")[0]], nn.PReLU):
            value = 0.25 + 0.05 * s
        else:
            value = 1 + 0.1 * s
        state[key] = value.float().reshape(tensor.shape)
    return state


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in ("r50", "r100") else n for n in ROWS])
def test_embeddings_of_arcface_torch_are_reproduced(name: str) -> None:
    row = ROWS[name]
    net = build_backbone(name).eval()
    state = closed_form(net)
    keys = list(state)
    assert [keys[0], keys[-1]] == row["keys_first_last"]
    assert len(state) == row["tensors"]
    assert sum(p.numel() for p in net.parameters()) == row["parameters"]
    net.load_state_dict(state)
    images = torch.sin(0.01 * torch.arange(2 * 3 * 112 * 112, dtype=torch.float64)).reshape(2, 3, 112, 112)
    wanted = torch.tensor(row["embedding_first8"], dtype=torch.float64)
    norms = torch.tensor(row["norm"], dtype=torch.float64)
    with torch.no_grad():
        single = net(images.float()).embedding.double()
        exact = net.double()(images).embedding
    assert torch.allclose(exact[:, :8], wanted, rtol=1e-9, atol=1e-11)
    assert torch.allclose(exact.norm(dim=1), norms, rtol=1e-9, atol=0)
    assert (torch.cosine_similarity(single, exact) > 0.99999).all()
