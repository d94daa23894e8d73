"""``facekit compress train | encode | decode | info``: the whole path on the tiny profile, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from facekit import configs
from facekit.codec.arch import Arch, EnhancementName
from facekit.codec.archive import read_archive
from facekit.codec.coder import Coder
from facekit.codec.distortion import DISTORTIONS
from facekit.codec.errors import EntropyDesync, ModelMismatch, PayloadCorrupt, SizeLimit, TrailingData, UnsafeName
from facekit.codec.export import exported
from facekit.codec.inference import Precision
from facekit.codec.modelfile import CodecModel, read_model, write_model
from facekit.codec.networks import Codec
from facekit.codec.opening import open_model
from facekit.configs import CompressDecodeConfig, CompressEncodeConfig, CompressInfoConfig, CompressTrainConfig
from facekit.core.checkpoints import CheckpointStore
from facekit.core.errors import (
    ArtefactMismatch,
    FacekitError,
    InputError,
    MissingFile,
    OutputExists,
    Unfinished,
    UsageError,
)
from facekit.data import pictures
from facekit.engines import compress, compress_info, compress_train
from facekit.models import build_backbone


@pytest.fixture(autouse=True)
def process_switches_are_put_back() -> Iterator[None]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(deterministic)


def draw(path: Path, height: int, width: int, seed: int) -> np.ndarray:
    """A smooth picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return np.asarray(image)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of several sizes, faces of one, an untrained recogniser."""
    folder = tmp_path_factory.mktemp("compress")
    for i in range(8):
        draw(folder / "scenes" / f"{i}.png", 80 + 8 * (i % 2), 96, i)
        draw(folder / "faces" / f"p{i // 2}" / f"{i}.png", 112, 112, 100 + i)
    for i in range(3):
        draw(folder / "val" / f"{i}.png", 70, 90, 50 + i)
    torch.manual_seed(0)
    torch.save(build_backbone("mbf_nano", 8).state_dict(), folder / "nano.pth")
    return folder


def training(folder: Path, out: Path, /, **given: Any) -> CompressTrainConfig:
    """The tiny profile: N = 16, M = 24, patches of 64, batches of 4."""
    tiny = {"n": 16, "m": 24, "crop": 64, "batch": 4, "epochs": 3, "epoch_steps": 4, "lr": 1e-3, "log_every": 4}
    fixed = {"data": folder / "scenes", "val": folder / "val", "out": out, "precision": "fp32", "lam": 200.0}
    return CompressTrainConfig(**(tiny | fixed | given))


@pytest.fixture(scope="module")
def trained(images: Path) -> Path:
    compress_train.run(training(images, images / "run"))
    return images / "run"


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def encoding(source: Path, model: Path, out: Path, **given: Any) -> CompressEncodeConfig:
    return CompressEncodeConfig(**({"input": source, "model": model, "out": out, "device": "cpu"} | given))


def decoding(source: Path, model: Path, out: Path, **given: Any) -> CompressDecodeConfig:
    return CompressDecodeConfig(**({"input": source, "model": model, "out": out, "device": "cpu"} | given))


def looked_at(path: Path) -> np.ndarray:
    """The pixels of an image file."""
    with Image.open(path) as image:
        return np.asarray(image)


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


# --- train ------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_model_file_and_says_what_its_files_are_like(trained: Path, images: Path) -> None:
    record = json.loads((trained / "run.json").read_text())
    model = open_model(trained)
    assert (record["verb"], record["status"]) == ("compress train", "done")
    assert record["model_id"] == model.model_id.hex() == read_model(trained / "model.safetensors").model_id.hex()
    assert record["codec"] | {"n": 16, "m": 24, "k": 3, "lambda": 200.0, "distortion": "mse"} == record["codec"]
    assert record["data"]["images"] == 8 and record["val"]["images"] == 3 and model.about["steps"] == 12
    assert str(images) not in str(model.about), "a model file goes to others and names no folders"
    averaged = CheckpointStore(trained).load("last").tensors
    shipped = {**model.decoder, **model.encoder}
    assert all(torch.equal(tensor, shipped[name]) for name, tensor in averaged.items())
    files = record["files"]
    # Framing and coder states of a file are 54 bytes.
    assert files["bpp"] - files["estimated_bpp"] == pytest.approx(8 * 54 / (70 * 90), abs=0.01)
    rows = rows_of(trained)
    dev = [row["dev"] for row in rows if "dev" in row]
    coded = {"file_bpp", "gap", "clipped", "levels", "mixture_entropy"}
    assert len(dev) == 3 and set(dev[0]) == {"score", "bpp", "bpp_z", "psnr"} | coded
    assert dev[-1]["file_bpp"] == pytest.approx(files["bpp"], rel=0.01) and abs(dev[-1]["gap"]) < 0.01
    assert files["estimated_bpp"] == pytest.approx(dev[-1]["bpp"], rel=0.01)
    assert files["psnr"] == pytest.approx(dev[-1]["psnr"], abs=0.01)
    terms = [row["terms"] for row in rows if "terms" in row]
    assert sum(terms[-1][k] for k in ("rate_y", "rate_z", "distortion")) < sum(
        terms[0][k] for k in ("rate_y", "rate_z", "distortion")
    )


def test_a_run_cut_by_its_budget_equals_the_uninterrupted_one(trained: Path, images: Path, tmp_path: Path) -> None:
    cut = training(images, tmp_path / "cut", budget_s=1e-6)
    with pytest.raises(Unfinished):
        compress_train.run(cut)
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    with pytest.raises(MissingFile, match="Let the run finish"):
        open_model(tmp_path / "cut")
    with pytest.raises(ArtefactMismatch, match="k: 3 then, 2 now"):
        compress_train.run(training(images, tmp_path / "cut", resume=True, k=2))
    compress_train.run(training(images, tmp_path / "cut", resume=True))
    assert open_model(tmp_path / "cut").model_id == open_model(trained).model_id
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (trained / "metrics.jsonl").read_bytes()
    before = {p: p.stat().st_mtime_ns for p in trained.rglob("*")}
    compress_train.run(training(images, trained, resume=True))
    assert before == {p: p.stat().st_mtime_ns for p in trained.rglob("*")}, "a finished run is left alone"


def test_a_ladder_goes_on_from_a_run_or_a_model_file(trained: Path, images: Path, tmp_path: Path) -> None:
    still: dict[str, Any] = {"lr": 1e-12, "ema": 0.0, "epochs": 1, "epoch_steps": 1, "lam": 100.0, "n": None, "m": None}
    for name, init in (("a", trained), ("b", trained / "model.safetensors")):
        compress_train.run(training(images, tmp_path / name, init=init, **still))
        first, second = open_model(trained), open_model(tmp_path / name)
        assert second.arch == first.arch and second.about["codec"]["lambda"] == 100.0
        for key, tensor in first.encoder.items():
            torch.testing.assert_close(second.encoder[key], tensor, rtol=0, atol=1e-9)
    with pytest.raises(InputError, match=r"another shape than this run \(n 16, k 3\); give the same"):
        compress_train.run(training(images, tmp_path / "c", init=trained, n=32, k=2))
    whole = open_model(trained)
    write_model(tmp_path / "half.safetensors", dataclasses.replace(whole, encoder={}))
    with pytest.raises(InputError, match="decoder alone"):
        compress_train.run(training(images, tmp_path / "d", init=tmp_path / "half.safetensors"))


@pytest.mark.slow
def test_a_ladders_run_resumes_in_its_own_shape(trained: Path, images: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"n": None, "m": None, "epochs": 1, "epoch_steps": 2}
    with pytest.raises(Unfinished):
        compress_train.run(training(images, tmp_path / "cut", init=trained, budget_s=1e-6, **options))
    compress_train.run(training(images, tmp_path / "cut", resume=True, **options))
    compress_train.run(training(images, tmp_path / "whole", init=trained, **options))
    assert open_model(tmp_path / "cut").model_id == open_model(tmp_path / "whole").model_id


def test_faces_beside_scenes_with_a_recogniser(images: Path, tmp_path: Path) -> None:
    mixed = training(
        images, tmp_path / "mixed", faces=images / "faces", recogniser=images / "nano.pth", epochs=1, epoch_steps=2,
        log_every=1, val=None, enhancement="ps2-32x3", distortion="ms-ssim", phase2=1.0,
    )  # fmt: skip
    compress_train.run(mixed)
    record = json.loads((tmp_path / "mixed" / "run.json").read_text())
    assert record["faces"]["images"] == 8 and "sha256" in record["recogniser"]
    assert "recogniser under" in record["licence"]
    # 4 patches of 64 x 64 are 1 face of 112 x 112: 5 images in each of 2 steps.
    assert record["images_seen"] == 10
    assert all(0 <= row["terms"]["fcd"] <= 2 for row in rows_of(tmp_path / "mixed"))


def test_faces_alone_and_people_left_out(images: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("1\np0\t1\t2\np0\t1\tp1\t1\n")
    alone = training(images, tmp_path / "alone", data=None, faces=images / "faces", exclude=(tmp_path / "list.txt",),
                     batch=8, epochs=2, epoch_steps=3, val=None)  # fmt: skip
    compress_train.run(alone)
    record = json.loads((tmp_path / "alone" / "run.json").read_text())
    assert record["faces"]["images"] == 4 and "data" not in record
    assert record["images_seen"] == 2 * 3 * round(8 * 64 * 64 / 112**2)


def test_a_dry_run_writes_nothing(images: Path, tmp_path: Path) -> None:
    compress_train.run(training(images, tmp_path / "dry", dry_run=True))
    assert not (tmp_path / "dry").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"data": None}, "no images given"),
        ({"data": None, "faces": Path("f"), "images": Path("i")}, "--images is the image root of --data"),
        ({"recogniser": Path("m.pth")}, "are about --faces"),
        ({"fcd_weight": 2.0}, "--fcd-weight weighs what --recogniser sees"),
        ({"faces": Path("f"), "recogniser": Path("m.onnx")}, "gives no gradients"),
        ({"m": 25}, "it must be even"),
    ],
)
def test_training_that_the_flags_rule_out(given: dict[str, Any], says: str, images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        compress_train.run(training(images, tmp_path / "x", **given))
    assert not (tmp_path / "x").exists()


def test_widths_belong_to_lambda() -> None:
    shapes = {lam: compress_train.shape_of(CompressTrainConfig(lam=lam), None) for lam in (None, 8.0, 2048.0, 4096.0)}
    assert [(shape.n, shape.m) for shape in shapes.values()] == [(128, 192)] * 3 + [(192, 320)]


def test_names_are_those_of_the_tables() -> None:
    assert typing.get_args(configs.Enhancement) == typing.get_args(EnhancementName)
    assert list(typing.get_args(configs.DistortionName)) == list(DISTORTIONS)
    assert typing.get_args(configs.AlphaRule) == typing.get_args(pictures.Alpha)
    assert typing.get_args(configs.PictureName) == typing.get_args(pictures.PictureFormat)
    assert typing.get_args(typing.get_type_hints(CompressDecodeConfig)["precision"]) == typing.get_args(Precision)


# --- encode and decode --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several kinds and sizes in folders."""
    root = tmp_path_factory.mktemp("tree")
    for i, (height, width) in enumerate([(40, 50), (40, 60), (100, 70), (1, 1), (64, 64)]):
        draw(root / "sub" / f"{i}.png", height, width, i)
    Image.fromarray(draw(root / "grey.png", 30, 40, 9)[..., 0]).save(root / "grey.png")
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained, and so without mercy: values spread over many symbols."""
    torch.manual_seed(0)
    return write_model(tmp_path_factory.mktemp("model") / "codec.safetensors", exported(Codec(Arch(16, 24)), {}))


def test_a_folder_goes_there_and_back(
    tree: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compress.encode(encoding(tree, model, tmp_path / "edic", json=True, batch=2, jobs=2))
    rows = printed(capsys)
    assert sorted(row["source"] for row in rows) == sorted(str(p) for p in tree.rglob("*.png"))
    for row in rows:
        assert row["error"] is None and row["bytes"] == Path(row["target"]).stat().st_size
        assert row["bpp"] == 8 * row["bytes"] / (row["height"] * row["width"])
        assert row["estimated_bits"] / 8 <= row["bytes"] <= 1.005 * row["estimated_bits"] / 8 + 38 + 16
        assert set(row["seconds"]) == {"read", "networks", "entropy", "write"}
    compress.decode(decoding(tmp_path / "edic", model, tmp_path / "png", json=True, batch=2, jobs=2))
    back = printed(capsys)
    assert all(set(row["seconds"]) == {"read", "hyper", "entropy", "synthesis", "write"} for row in back)
    coder = Coder(open_model(model))
    for row in rows:
        image = looked_at(row["source"])
        data = Path(row["target"]).read_bytes()
        relative = Path(row["target"]).relative_to(tmp_path / "edic").with_suffix(".png")
        decoded = looked_at(tmp_path / "png" / relative)
        assert decoded.shape == image.shape
        assert np.abs(decoded.astype(int) - coder.decode(data)).max() <= 1, "batches round alike, but for a half"
    assert len(back) == len(rows)


@pytest.mark.slow
def test_one_batch_or_many_threads_or_few_the_files_decode_alike(tree: Path, model: Path, tmp_path: Path) -> None:
    compress.encode(encoding(tree, model, tmp_path / "a", batch=1, jobs=1))
    compress.encode(encoding(tree, model, tmp_path / "b", batch=1, jobs=3))
    for file in (tmp_path / "a").rglob("*.edic"):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()
    for name, options in (("x", {"jobs": 1}), ("y", {"jobs": 3, "format": "ppm"})):
        compress.decode(decoding(tmp_path / "a", model, tmp_path / name, batch=1, **options))
    for file in (tmp_path / "x").rglob("*.png"):
        other = (tmp_path / "y" / file.relative_to(tmp_path / "x")).with_suffix(".ppm")
        np.testing.assert_array_equal(looked_at(file), looked_at(other))


def test_an_archive_there_and_back(tree: Path, model: Path, tmp_path: Path) -> None:
    compress.encode(encoding(tree, model, tmp_path / "all.edica", archive=True))
    assert read_archive(tmp_path / "all.edica", None).names == ["grey", *(f"sub/{i}" for i in range(5))]
    compress.decode(decoding(tmp_path / "all.edica", model, tmp_path / "out"))
    for source in tree.rglob("*.png"):
        assert looked_at(tmp_path / "out" / source.relative_to(tree)).shape == looked_at(source).shape
    compress.encode(encoding(tree, model, tmp_path / "new" / "bare.edica", archive=True, names=False))
    compress.decode(decoding(tmp_path / "new" / "bare.edica", model, tmp_path / "numbered"))
    assert sorted(p.name for p in (tmp_path / "numbered").iterdir()) == [f"{i:06d}.png" for i in range(6)]
    assert looked_at(tmp_path / "numbered" / "000000.png").ndim == 2


def test_a_file_alone(tree: Path, model: Path, tmp_path: Path) -> None:
    compress.encode(encoding(tree / "grey.png", model, tmp_path / "new" / "one.edica", archive=True))
    assert read_archive(tmp_path / "new" / "one.edica", None).names == ["grey"]
    compress.encode(encoding(tree / "grey.png", model, tmp_path / "one.edic", latent_crc=False))
    compress.decode(decoding(tmp_path / "one.edic", model, tmp_path / "one.png"))
    assert looked_at(tmp_path / "one.png").ndim == 2
    with pytest.raises(OutputExists, match="--skip-existing or --overwrite"):
        compress.decode(decoding(tmp_path / "one.edic", model, tmp_path / "one.png"))
    compress.decode(decoding(tmp_path / "one.edic", model, tmp_path / "one.png", overwrite=True, precision="bf16"))


def test_a_bad_image_is_reported_and_the_others_are_done(
    tree: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    for i, file in enumerate(sorted(tree.rglob("*.png"))):
        (source / file.name).parent.mkdir(exist_ok=True)
        (source / file.name).write_bytes(file.read_bytes() if i else b"no picture")
    Image.fromarray(np.zeros((4, 4, 4), np.uint8)).save(source / "clear.png")
    with pytest.raises(InputError, match="2 of 7 images could not be encoded"):
        compress.encode(encoding(source, model, tmp_path / "edic", json=True))
    rows = {Path(row["source"]).name: row for row in printed(capsys)}
    assert "transparency" in rows["clear.png"]["error"] and rows["clear.png"]["bytes"] is None
    assert len([*(tmp_path / "edic").iterdir()]) == 5
    with pytest.raises(FacekitError, match="--alpha"):
        compress.encode(encoding(source / "clear.png", model, tmp_path / "clear.edic"))
    compress.encode(encoding(source / "clear.png", model, tmp_path / "clear.edic", alpha="white", json=True))
    assert printed(capsys)[0]["notes"] == ["transparency: white"]


def test_an_image_that_the_model_cannot_code_does_not_stop_the_others(
    tree: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facekit.codec.mixture import FiniteError

    real = compress.Coder.batch

    def batch(self: Coder, images: Any) -> torch.Tensor:
        if any(image.shape[:2] == (40, 60) for image in images):
            raise FiniteError("a value is not finite")
        return real(self, images)

    monkeypatch.setattr(compress.Coder, "batch", batch)
    with pytest.raises(InputError, match="1 of 6"):
        compress.encode(encoding(tree, model, tmp_path / "edic"))
    assert len([*(tmp_path / "edic").rglob("*.edic")]) == 5


def test_what_is_there_and_fits_is_skipped(
    tree: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compress.encode(encoding(tree, model, tmp_path / "edic"))
    files = sorted((tmp_path / "edic").rglob("*.edic"))
    before = [file.read_bytes() for file in files]
    files[0].write_bytes(before[0][:-1])
    stranger = bytearray(before[1])
    stranger[0] = 0
    files[1].write_bytes(stranger)
    capsys.readouterr()
    compress.encode(encoding(tree, model, tmp_path / "edic", skip_existing=True, json=True))
    assert sum(row["skipped"] for row in printed(capsys)) == 4
    assert [file.read_bytes() for file in files] == before
    compress.decode(decoding(tmp_path / "edic", model, tmp_path / "png"))
    (tmp_path / "png" / "grey.png").write_bytes(b"half")
    compress.decode(decoding(tmp_path / "edic", model, tmp_path / "png", skip_existing=True, json=True))
    assert [row["skipped"] for row in printed(capsys)].count(False) == 1
    assert looked_at(tmp_path / "png" / "grey.png").ndim == 2


# --- oracles through the verbs ------------------------------------------------------------------------------


def test_damaged_files_give_their_errors_and_sound_ones_their_pictures(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "x.png", 9, 9, 0)
    compress.encode(encoding(tmp_path / "x.png", model, tmp_path / "x.edic"))
    data = (tmp_path / "x.edic").read_bytes()
    (tmp_path / "bad").mkdir()
    for bit in range(0, 8 * len(data), 37):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        (tmp_path / "bad" / f"bit{bit}.edic").write_bytes(broken)
    for length in range(0, len(data), 29):
        (tmp_path / "bad" / f"cut{length}.edic").write_bytes(data[:length])
    (tmp_path / "bad" / "sound.edic").write_bytes(data)
    capsys.readouterr()
    with pytest.raises(InputError, match="could not be decoded"):
        compress.decode(decoding(tmp_path / "bad", model, tmp_path / "out", json=True))
    rows = printed(capsys)
    assert all(row["code"].startswith("EDIC-") for row in rows if not row["source"].endswith("sound.edic"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sound.png"]


def test_a_file_that_is_refused_alone_keeps_its_error(model: Path, tmp_path: Path) -> None:
    draw(tmp_path / "x.png", 9, 9, 0)
    compress.encode(encoding(tmp_path / "x.png", model, tmp_path / "x.edic"))
    data = (tmp_path / "x.edic").read_bytes()
    torch.manual_seed(1)
    other = write_model(tmp_path / "other.safetensors", exported(Codec(Arch(16, 24)), {}))
    with pytest.raises(ModelMismatch):
        compress.decode(decoding(tmp_path / "x.edic", other, tmp_path / "x1.png"))
    (tmp_path / "long.edic").write_bytes(data + b"\0")
    with pytest.raises(TrailingData):
        compress.decode(decoding(tmp_path / "long.edic", model, tmp_path / "x1.png"))
    with pytest.raises(SizeLimit):
        compress.decode(decoding(tmp_path / "x.edic", model, tmp_path / "x1.png", max_pixels=80))
    with pytest.raises(FacekitError, match="at most 80"):
        compress.encode(encoding(tmp_path / "x.png", model, tmp_path / "y.edic", max_pixels=80))
    assert not (tmp_path / "x1.png").exists() and not (tmp_path / "y.edic").exists()


def test_a_damaged_image_of_an_archive_leaves_the_others(
    tree: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compress.encode(encoding(tree, model, tmp_path / "a.edica", archive=True))
    broken = bytearray((tmp_path / "a.edica").read_bytes())
    broken[60] ^= 1
    (tmp_path / "a.edica").write_bytes(broken)
    capsys.readouterr()
    with pytest.raises(InputError, match="1 of 6"):
        compress.decode(decoding(tmp_path / "a.edica", model, tmp_path / "out", json=True))
    assert [row["code"] for row in printed(capsys) if row["error"]] == [PayloadCorrupt.code]
    assert len([*(tmp_path / "out").rglob("*.png")]) == 5


@pytest.mark.parametrize(
    ("verb", "given", "says"),
    [
        ("encode", {"archive": True}, r"must end in \.edica"),
        ("encode", {"archive": True, "out": Path("x.edica"), "skip_existing": True}, "are about single files"),
        ("encode", {"names": False}, "--no-names is about --archive"),
        ("encode", {"skip_existing": True, "overwrite": True}, "give one of them"),
        ("decode", {"skip_existing": True, "overwrite": True}, "give one of them"),
    ],
)
def test_coding_that_the_flags_rule_out(verb: str, given: dict[str, Any], says: str, tmp_path: Path) -> None:
    options = {"input": tmp_path, "model": tmp_path, "out": tmp_path / "x", **given}
    with pytest.raises(UsageError, match=says):
        if verb == "encode":
            compress.encode(CompressEncodeConfig(**options))
        else:
            compress.decode(CompressDecodeConfig(**options))


def test_names_that_an_archive_cannot_hold_are_refused_at_once(model: Path, tmp_path: Path) -> None:
    draw(tmp_path / "in" / "a:b.png", 8, 8, 0)
    with pytest.raises(UnsafeName, match="a:b"):
        compress.encode(encoding(tmp_path / "in", model, tmp_path / "x.edica", archive=True))
    assert not (tmp_path / "x.edica").exists()


def test_a_desync_names_the_machine(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine whose hyper-decoder rounds otherwise."""
    draw(tmp_path / "x.png", 64, 64, 0)
    compress.encode(encoding(tmp_path / "x.png", model, tmp_path / "x.edic"))
    real = compress.Coder.begun

    def shifted(self: Coder, stream: Any) -> Any:
        begun = real(self, stream)
        begun.mixture.mean[:] += 16
        return begun

    monkeypatch.setattr(compress.Coder, "begun", shifted)
    with pytest.raises(EntropyDesync, match="numeric mode f64, .*torch"):
        compress.decode(decoding(tmp_path / "x.edic", model, tmp_path / "x2.png"))


# --- info ---------------------------------------------------------------------------------------------------


def info(capsys: pytest.CaptureFixture[str], path: Path, **given: Any) -> dict[str, Any]:
    capsys.readouterr()
    compress_info.run(CompressInfoConfig(path=path, device="cpu", json=True, **given))
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_info_reads_headers_without_a_model(
    tree: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compress.encode(encoding(tree / "sub" / "2.png", model, tmp_path / "x.edic"))
    compress.encode(encoding(tree, model, tmp_path / "x.edica", archive=True))
    found = info(capsys, tmp_path / "x.edic")
    assert found["kind"] == "image" and found["image"] == [100, 70] and found["padded"] == [128, 128]
    assert found["framing_bytes"] == 38 and found["model_id"] == open_model(model).model_id.hex()
    assert found["bytes"] == (tmp_path / "x.edic").stat().st_size and "costs" not in found
    found = info(capsys, tmp_path / "x.edica")
    assert found["kind"] == "archive" and found["images"] == 6 and found["sizes"]["30x40 grey"] == 1
    assert found["bytes"] == (tmp_path / "x.edica").stat().st_size
    compress_info.run(CompressInfoConfig(path=tmp_path / "x.edica"))
    assert "index bytes per image" in capsys.readouterr().out
    (tmp_path / "x.bin").write_bytes(b"hello" * 20)
    with pytest.raises(FacekitError, match="x.bin"):
        info(capsys, tmp_path / "x.bin")


def test_info_counts_and_times_the_parts_of_a_model(
    trained: Path, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = info(capsys, trained, size="64x100", repeats=1)
    assert found["kind"] == "model" and found["n"] == 16 and found["about"]["codec"]["lambda"] == 200.0
    parts, costs = found["costs"]["parts"], found["costs"]
    assert set(parts) >= {"analysis", "hyper_synthesis", "entropy_decode", "synthesis"}
    assert all(part["ms"] >= 0 and math.isfinite(part["ms"]) for part in parts.values())
    assert parts["enhancement"]["macs"] == 0 and "macs" not in parts["entropy_encode"]
    assert set(costs["switches"]) == {"channel attention", "mixture of 3 instead of one Gaussian"}
    # The head is a 1x1 convolution to 3 K M channels, on 4 x 8 places: two components less.
    assert costs["switches"]["mixture of 3 instead of one Gaussian"]["macs"] == 36 * 2 * 3 * 24 * 4 * 8
    compress.encode(encoding(tree / "sub" / "2.png", trained, tmp_path / "x.edic"))
    capsys.readouterr()
    compress_info.run(CompressInfoConfig(path=tmp_path / "x.edic", model=trained, repeats=1, device="cpu"))
    assert "100x70, cpu" in (shown := capsys.readouterr().out)
    assert "added by channel attention" in shown
    whole = open_model(trained)
    write_model(tmp_path / "half.safetensors", CodecModel(whole.arch, whole.mode, whole.decoder))
    assert "costs" not in info(capsys, tmp_path / "half.safetensors")


@pytest.mark.parametrize("size", ["64", "0x9", "axb", "65536x1", "65535x65535"])
def test_sizes_that_are_none(size: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give height x width"):
        compress_info.run(CompressInfoConfig(path=tmp_path, size=size))


# --- the tiny profile in full -------------------------------------------------------------------------------


@pytest.mark.slow
def test_sixty_steps_of_the_tiny_profile(images: Path, tmp_path: Path) -> None:
    run = training(images, tmp_path / "run", epochs=3, epoch_steps=20, log_every=10, lam=500.0)
    compress_train.run(run)
    totals = [
        sum(row["terms"][k] for k in ("rate_y", "rate_z", "distortion"))
        for row in rows_of(tmp_path / "run")
        if "terms" in row
    ]
    assert totals[-1] < 0.5 * totals[0]
    files = json.loads((tmp_path / "run" / "run.json").read_text())["files"]
    assert files["bpp"] <= 1.005 * files["estimated_bpp"] + 8 * 54 / (70 * 90)
    compress.encode(encoding(images / "val", tmp_path / "run", tmp_path / "edic"))
    compress.decode(decoding(tmp_path / "edic", tmp_path / "run", tmp_path / "png"))
    psnrs = []
    for source in (images / "val").iterdir():
        a, b = (looked_at(path).astype(float) for path in (source, tmp_path / "png" / source.name))
        psnrs.append(10 * np.log10(255**2 / np.square(a - b).mean()))
    # In batches a value at a half may round to its other neighbour.
    assert np.mean(psnrs) == pytest.approx(files["psnr"], abs=0.05)
    dev = [row["dev"]["score"] for row in rows_of(tmp_path / "run") if "dev" in row]
    assert dev[0] < dev[1] < dev[2]
