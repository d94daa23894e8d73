"""How pixels become a network's input, with one scale for all colours or one for each."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from facekit.core.errors import InputError
from facekit.core.preprocess import Preprocess

EACH = Preprocess(size=(2, 2), scale=(0.5, 0.25, 2.0), shift=(1.0, -1.0, 0.0), crop="none", flip="none", embedding=8)
PIXELS = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2)


def test_tables_of_one_scale_keep_their_json_and_their_hash() -> None:
    assert json.dumps(Preprocess().to_dict()) == (
        '{"size": [112, 112], "channels": "rgb", "scale": 0.00784313725490196, "shift": -1.0, "layout": "NCHW", '
        '"crop": "arcface-5pt-112", "interpolation": "bilinear", "border": 0, "flip": "sum", '
        '"normalised_output": false, "embedding": 512}'
    )
    assert Preprocess().hash() == "18edc73a2d144894"
    assert Preprocess(scale=1.0, shift=0.0, channels="bgr", flip="none", embedding=128).hash() == "983bfdbd8c75c72a"


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_each_colour_has_its_own_numbers(memory: torch.memory_format) -> None:
    wanted = PIXELS.numpy() * np.array(EACH.scale).reshape(3, 1, 1) + np.array(EACH.shift).reshape(3, 1, 1)
    got = EACH(PIXELS.contiguous(memory_format=memory))
    np.testing.assert_array_equal(got.numpy(), wanted)
    assert got.is_contiguous(memory_format=memory)


def test_the_numbers_follow_their_colours_into_another_order() -> None:
    blue_first = replace(EACH, channels="bgr")
    assert torch.equal(blue_first(PIXELS), EACH(PIXELS).flip(1))


def test_one_number_beside_three() -> None:
    mixed = Preprocess(size=(2, 2), scale=0.5, shift=(1.0, 2.0, 3.0))
    assert mixed(PIXELS)[0, :, 0, 0].tolist() == [0 / 2 + 1, 4 / 2 + 2, 8 / 2 + 3]


def test_three_equal_numbers_are_the_same_input_as_one() -> None:
    three = Preprocess(size=(2, 2), scale=3 * (1 / 127.5,), shift=3 * (-1.0,))
    assert torch.equal(three(PIXELS), Preprocess(size=(2, 2))(PIXELS))


def test_the_json_form_comes_back_and_names_the_table() -> None:
    stored = json.loads(json.dumps(EACH.to_dict()))
    assert Preprocess.from_dict(stored) == EACH and Preprocess.from_dict(stored).hash() == EACH.hash()
    assert stored["scale"] == [0.5, 0.25, 2.0]
    assert EACH.hash() != replace(EACH, shift=(1.0, -1.0, 0.5)).hash()


def test_one_line_for_a_terminal() -> None:
    assert EACH.describe() == "2x2 rgb, x*[0.5,0.25,2]+[1,-1,0], crop none, flip none"
    assert Preprocess().describe() == "112x112 rgb, x*0.00784314-1, crop arcface-5pt-112, flip sum"


@pytest.mark.parametrize("value", ["big", None, [1.0, 2.0], [1.0, 2.0, "x"], [1.0, [2.0], 3.0], float("inf"), {}])
@pytest.mark.parametrize("name", ["scale", "shift"])
def test_other_values_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"preprocessing {name} .* neither a finite number nor three of them"):
        Preprocess.from_dict({**Preprocess().to_dict(), name: value})
