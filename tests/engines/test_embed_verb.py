"""``facekit embed``: the files it writes, read back as other tools would."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facekit.configs import EmbedConfig
from facekit.core.errors import UsageError
from facekit.engines import embed
from facekit.models import build_backbone
from facekit.models.loading import load_model


@pytest.fixture(autouse=True)
def process_switches_are_put_back() -> Iterator[None]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "nano.pth"
    torch.save(build_backbone("mbf_nano", 8).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    for name in ("b/1.png", "b/2.png", "a, the first/1.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (112, 112, 3), dtype=np.uint8)).save(folder / name)
    return folder


def direct(weights: Path, faces: Path, name: str, mirrored: bool = False) -> np.ndarray:
    """One image's embedding without any of the verb's machinery."""
    pixels = np.array(Image.open(faces / name).convert("RGB"))
    pixels = pixels[:, ::-1].copy() if mirrored else pixels
    images = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    return load_model(weights).embed(images)[0].numpy()


def test_npz_keeps_both_views_apart(weights: Path, faces: Path, tmp_path: Path) -> None:
    embed.run(EmbedConfig(model=weights, data=faces, out=tmp_path / "e.npz"))
    with np.load(tmp_path / "e.npz", allow_pickle=False) as stored:
        assert sorted(stored) == ["embs", "embs_f", "names", "preprocess"]
        names = stored["names"].tolist()
        assert names == ["a, the first/1.png", "b/1.png", "b/2.png"]
        assert stored["embs"].dtype == stored["embs_f"].dtype == np.float32
        for i, name in enumerate(names):
            np.testing.assert_allclose(stored["embs"][i], direct(weights, faces, name), rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(stored["embs_f"][i], direct(weights, faces, name, True), rtol=1e-3, atol=1e-4)
        table = json.loads(str(stored["preprocess"]))
    assert table["flip"] == "sum" and table["embedding"] == 8 and table["channels"] == "rgb"


def test_npy_holds_the_fused_matrix_and_a_csv_its_names(weights: Path, faces: Path, tmp_path: Path) -> None:
    views = [
        np.stack([direct(weights, faces, n, m) for n in ("a, the first/1.png", "b/1.png", "b/2.png")]) for m in (0, 1)
    ]
    wanted = {"sum": views[0] + views[1], "concat": np.concatenate(views, axis=1), "none": views[0]}
    for flip, matrix in wanted.items():
        out = tmp_path / f"{flip}.npy"
        embed.run(EmbedConfig(model=weights, data=faces, out=out, flip=flip))  # type: ignore[arg-type]
        stored = np.load(out, allow_pickle=False)
        assert stored.dtype == np.float32
        np.testing.assert_allclose(stored, matrix, rtol=1e-3, atol=1e-4)
    rows = list(csv.reader((tmp_path / "sum.csv").read_text().splitlines()))
    assert rows == [["path", "label"], ["a, the first/1.png", "a, the first"], ["b/1.png", "b"], ["b/2.png", "b"]]


def test_without_flip_no_second_view_is_written(weights: Path, faces: Path, tmp_path: Path) -> None:
    embed.run(EmbedConfig(model=weights, data=faces, out=tmp_path / "e.npz", flip="none"))
    with np.load(tmp_path / "e.npz") as stored:
        assert "embs_f" not in stored and json.loads(str(stored["preprocess"]))["flip"] == "none"


def test_flags_that_cannot_work(weights: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"must end in .npz"):
        embed.run(EmbedConfig(model=weights, data=faces, out=tmp_path / "e.txt"))
    with pytest.raises(UsageError, match="add --data FOLDER, or set FACEKIT_DATA"):
        embed.run(EmbedConfig(model=weights, out=tmp_path / "e.npz"))
    monkeypatch.setenv("FACEKIT_DATA", str(faces))
    embed.run(EmbedConfig(model=weights, out=tmp_path / "e.npz"))
    assert [p.name for p in tmp_path.iterdir()] == ["e.npz"]
