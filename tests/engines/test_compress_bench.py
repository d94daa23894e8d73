"""``facekit compress bench``: the numbers of its documents computed another way, its files, and what it refuses."""

from __future__ import annotations

import csv
import json
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from facekit import configs
from facekit.codec.arch import Arch
from facekit.codec.coder import Coder
from facekit.codec.export import exported
from facekit.codec.modelfile import CodecModel, read_model, write_model
from facekit.codec.networks import Codec
from facekit.configs import CompressBenchConfig
from facekit.core.errors import FacekitError, InputError, OutputExists, UsageError
from facekit.engines import compress_bench
from facekit.engines.compress_bench import NAMES, curve_of, run, rungs, setting_of
from facekit.evaluation.classical import CLASSICAL, ladder
from facekit.evaluation.facerows import SIDES
from facekit.evaluation.published import ANCHOR
from facekit.models import build_backbone

ARCH = Arch(8, 12)


def codec(seed: int, about: dict[str, Any], arch: Arch = ARCH) -> CodecModel:
    torch.manual_seed(seed)
    return exported(Codec(arch), about)


def draw(path: Path, height: int, width: int, seed: int) -> None:
    """A smooth picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)


def faces(folder: Path, person: str, seed: int) -> None:
    """Two equal images of each of four people, and all pairs of a kind."""
    for i in range(8):
        draw(folder / "images" / f"{person}{i // 2}" / f"{i}.png", 112, 112, seed + i // 2)
    same = [f"{person}{i}/{2 * i}.png {person}{i}/{2 * i + 1}.png 1" for i in range(4)]
    different = [f"{person}{i}/{2 * i}.png {person}{j}/{2 * j}.png 0" for i in range(4) for j in range(i)]
    (folder / "pairs.txt").write_text("\n".join([*same, *different]) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two codecs, two scenes of different size, eight faces of four people with a list, others as dev, a recogniser."""
    folder = tmp_path_factory.mktemp("bench")
    for i, lam in enumerate((100.0, 50.0)):
        write_model(folder / f"{i}.safetensors", codec(i, {"codec": {"lambda": lam, "distortion": "mse"}}))
    draw(folder / "scenes" / "a.png", 70, 90, 0)
    draw(folder / "scenes" / "b.png", 64, 64, 1)
    faces(folder, "p", seed=10)
    faces(folder / "dev", "q", seed=20)
    torch.manual_seed(0)
    torch.save(build_backbone("mbf_nano", 8).state_dict(), folder / "nano.pth")
    return folder


def asked(folder: Path, out: Path, **given: Any) -> CompressBenchConfig:
    """Both models beside WebP at two qualities."""
    models = (folder / "0.safetensors", folder / "1.safetensors")
    fixed = {"model": models, "codecs": ("webp",), "qualities": (60, 20), "out": out, "device": "cpu", "figures": False}
    return CompressBenchConfig(**(fixed | given))


def about_faces(folder: Path, out: Path, **given: Any) -> CompressBenchConfig:
    faces = {"faces": (str(folder / "pairs.txt"),), "recogniser": folder / "nano.pth", "far": (0.5,), "draws": 100}
    return asked(folder, out, **({**faces, "images": folder / "images", "cache_dir": out.parent / "cache"} | given))


def read(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def test_the_names_a_user_can_choose_are_the_tables() -> None:
    assert tuple(NAMES) == typing.get_args(configs.ClassicalName) and tuple(NAMES.values()) == tuple(CLASSICAL)
    assert typing.get_args(configs.CodedSides) == SIDES


# --- images -----------------------------------------------------------------------------------------------


def test_points_of_images(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(asked(folder, tmp_path / "out", data=folder / "scenes"))
    found = read(tmp_path / "out")
    assert (found["schema"], found["published"], found["synthesis"]) == ("facekit.rd/1", None, "fp32")
    assert found["images"]["count"] == 2 and found["images"]["sizes"] == {"70x90": 1, "64x64": 1}
    points = {(point["codec"], point["setting"]): point for point in found["points"]}
    assert set(points) == {
        ("EDIC", "lambda 100"), ("EDIC", "lambda 50"), ("WebP", "quality 20"), ("WebP", "quality 60"),
    }  # fmt: skip
    pictures = [np.asarray(Image.open(path)) for path in sorted((folder / "scenes").iterdir())]
    coder = Coder(read_model(folder / "0.safetensors"))
    pixels = np.array([picture.shape[0] * picture.shape[1] for picture in pictures])
    sizes = np.array([len(coder.encode(picture)) for picture in pictures])
    assert points["EDIC", "lambda 100"]["bpp"] == pytest.approx(np.mean(8 * sizes / pixels))
    # 34 bytes of framing and the latent's CRC are no payload; the coder states are.
    assert points["EDIC", "lambda 100"]["payload_bpp"] == pytest.approx(np.mean(8 * (sizes - 38) / pixels))
    error = [np.square(coder.decode(coder.encode(p)).astype(float) - p).mean() for p in pictures]
    assert points["EDIC", "lambda 100"]["psnr"] == pytest.approx(np.mean(10 * np.log10(255**2 / np.array(error))))
    webp = [8 * len(ladder("WebP", [20])[0].encode(p)) for p in pictures]
    assert points["WebP", "quality 20"]["bpp"] == pytest.approx(np.mean(webp / pixels))
    for name in ("EDIC", "WebP"):
        rates = [point["bpp"] for point in found["points"] if point["codec"] == name]
        assert rates == sorted(rates), "curves are drawn in this order"
    first = found["models"][0]
    assert (first["codec"], first["setting"], first["n"]) == ("EDIC", "lambda 100", 8)
    assert first["model_id"] == read_model(folder / "0.safetensors").model_id.hex()
    with open(tmp_path / "out" / "results.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 4
    shown = capsys.readouterr().out
    for text in ("lambda 100", "quality 60", "a BD-rate needs 4 points"):
        assert text in shown
    with pytest.raises(OutputExists, match="holds results already"):
        run(asked(folder, tmp_path / "out", data=folder / "scenes"))


def test_published_curves_stand_beside_kodaks_images_only(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    seen: list[list[tuple[int, int]]] = []
    monkeypatch.setattr(compress_bench, "looks_like_kodak", lambda sizes: not seen.append(list(sizes)))
    given = {"data": folder / "scenes", "model": (), "qualities": (5, 35, 65, 95), "figures": True, "json": True}
    run(asked(folder, tmp_path / "out", **given))
    assert seen == [[(70, 90), (64, 64)]]
    printed = json.loads(capsys.readouterr().out)
    assert printed["points"] == read(tmp_path / "out")["points"]
    anchors = {row["anchor"] for row in printed["bd_rates"] if row["published"]}
    assert ANCHOR in anchors and len(anchors) == 30
    drawing = (tmp_path / "out" / "rd-psnr.svg").read_text()
    assert f"{ANCHOR} (published)" in drawing and (tmp_path / "out" / "rd-psnr.png").exists()


def test_models_that_were_taught_alike_are_one_curve() -> None:
    mse = {"codec": {"lambda": 2048.0, "distortion": "mse"}, "faces": {}}
    named = [
        (codec(0, {"codec": mse["codec"]}), "EDIC", "lambda 2048"),
        (codec(0, mse), "EDIC (faces)", "lambda 2048"),
        (codec(0, {**mse, "recogniser": {}}), "EDIC (recogniser)", "lambda 2048"),
        (codec(0, {"codec": {"lambda": 16, "distortion": "ms-ssim"}}), "EDIC (MS-SSIM)", "lambda 16"),
        (codec(0, mse, Arch(8, 12, 1, False, "ps2-32x3")), "EDIC (K 1, no attention, ps2-32x3, faces)", "lambda 2048"),
    ]
    for model, curve, setting in named:
        assert (curve_of(model), setting_of(model)) == (curve, setting)
    unknown = codec(0, {"codec": "none"})
    assert (curve_of(unknown), setting_of(unknown)) == ("EDIC", f"model {unknown.model_id.hex()}")


def test_ladders(folder: Path, tmp_path: Path) -> None:
    def of(name: str, **given: Any) -> list[int]:
        return list(rungs(CLASSICAL[name], asked(folder, tmp_path, **({"qualities": ()} | given))))

    assert of("WebP") == list(range(5, 100, 5)) and len(of("JPEG 2000")) == 11
    assert of("WebP", faces=("x",)) == [5, 20, 30, 45, 55, 70, 80, 95]
    assert of("JPEG 2000", faces=("x",)) == [192, 144, 72, 48, 24, 18, 9, 6]
    assert of("WebP", qualities=(30, 10, 30)) == [30, 10] and of("JPEG 2000", qualities=(30,)) == of("JPEG 2000")
    assert of("JPEG 2000", ratios=(50,)) == [50]


# --- faces ------------------------------------------------------------------------------------------------


def test_rates_of_coded_faces(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dev = folder / "dev" / "pairs.txt"
    run(about_faces(folder, tmp_path / "out", sides=("probe",), dev=str(dev)))
    found = read(tmp_path / "out")
    assert found["schema"] == "facekit.faces/1" and found["benchmarks"][0]["images"] == 8
    rows = {(row["codec"], row["setting"], row["metric"]): row for row in found["rows"]}
    assert {key[:2] for key in rows} == {
        ("uncompressed", ""), ("EDIC", "lambda 100"), ("EDIC", "lambda 50"), ("WebP", "quality 60"),
        ("WebP", "quality 20"),
    }  # fmt: skip
    coder = Coder(read_model(folder / "0.safetensors"))
    faces = [np.asarray(Image.open(path)) for path in sorted((folder / "images").rglob("*.png"))]
    row = rows["EDIC", "lambda 100", "tar@far"]
    assert row["bytes"] == np.mean([len(coder.encode(face)) for face in faces]) == row["payload"] + 38
    assert {row["sides"] for row in found["rows"]} == {"", "probe"}
    # Two images of a person are equal here, so that every pair of one person is accepted.
    assert rows["uncompressed", "", "tar@far"]["value"] == 1
    assert found["recogniser"]["path"].endswith("nano.pth") and found["dev"] == dev.as_posix()
    assert found["flip"] == found["recogniser"]["preprocess"]["flip"]
    assert {b["codec"] for b in found["budgets"]} == {"EDIC", "WebP"}
    shown = capsys.readouterr().out
    for text in (
        "probe coded, gallery uncompressed",
        "TAR@0.5",
        "chosen for FAR",
        "lose at most 0.5 points",
        "lambda 50",
    ):
        assert text in shown
    assert "both images coded" not in shown


def test_dev_people_are_others(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="both in the dev and in the test set"):
        run(about_faces(folder, tmp_path / "out", dev=str(folder / "pairs.txt"), dev_images=folder / "images"))
    assert not (tmp_path / "out").exists()


# --- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "give --data .* or --faces"),
        ({"data": Path("x"), "faces": ("y",)}, "give --data .* or --faces"),
        ({"faces": ("y",)}, "give a face model as --recogniser"),
        ({"data": Path("x"), "recogniser": Path("y")}, "--recogniser is about --faces"),
        ({"data": Path("x"), "far": (0.1,)}, "--far is about --faces"),
        ({"data": Path("x"), "channels": "bgr"}, "--channels is about --faces"),
        (
            {"faces": ("y",), "recogniser": Path("y"), "dev_images": Path("z")},
            "--dev-images is the image root of --dev",
        ),
        ({"data": Path("x"), "ratios": (20,)}, "--ratios is read by none of --codecs webp"),
        ({"data": Path("x"), "codecs": ("jpeg2000",)}, "--qualities is read by none of --codecs jpeg2000"),
    ],
)
def test_flags_that_do_not_fit(given: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        run(asked(tmp_path, tmp_path / "out", **given))


def test_models_that_cannot_be_measured(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="are both EDIC at lambda 100: give one of them"):
        run(asked(folder, tmp_path / "out", data=folder / "scenes", model=(folder / "0.safetensors",) * 2))
    whole = read_model(folder / "0.safetensors")
    half = write_model(tmp_path / "half.safetensors", CodecModel(whole.arch, whole.mode, whole.decoder))
    with pytest.raises(InputError, match="holds the decoder alone"):
        run(asked(folder, tmp_path / "out", data=folder / "scenes", model=(half,)))
    with pytest.raises(FacekitError, match="does not exist"):
        run(asked(folder, tmp_path / "out", data=folder / "scenes", model=(tmp_path / "no.safetensors",)))
