"""A state of a recorded route, loaded as a network of its own."""

from pathlib import Path

import pytest
import torch

from facekit.core.checkpoints import CheckpointStore, route_about
from facekit.core.errors import CorruptFile, InputError
from facekit.models import build_classifier
from facekit.models.loading import load_model
from facekit.models.records import classifier_input, classifier_record


def test_a_state_is_a_network_of_its_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = build_classifier("resnet8", 3)
    meta = {
        "architecture": classifier_record("resnet8", net, ("ant", "bee", "cat")),
        "preprocess": classifier_input(64, (16, 16)).to_dict(),
        "licence": "mine",
        "config": {"seed": 0},
        "data": {"fingerprint": "f00d"},
    }
    record = {"val": {}, "lr": 0.1, "ema": False}
    CheckpointStore(tmp_path).save_route(4, net.state_dict(), record, route_about(meta, epochs=4))
    file = tmp_path / "route" / "epoch_0004.safetensors"
    found = load_model(file)
    assert found.classes == ("ant", "bee", "cat") and found.licence == "mine" and found.preprocess.size == (16, 16)
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    torch.testing.assert_close(found.logits(images), net.eval()(found.preprocess(images)).logits)
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(CorruptFile, match="damaged or was replaced"):
        load_model(file)
    file.rename(file.with_name("epoch_0005.safetensors"))
    with pytest.raises(InputError, match="does not describe epoch_0005"):
        load_model(file.with_name("epoch_0005.safetensors"))
