"""Who a drawn person is, and how one picture of them is taken: tables of numbers, drawn from a seed.

Identity lies in some 75 continuous traits and in skin texture, none of which settles it alone; what changes from
picture to picture (pose, light, expression, camera) is as large as it is in photographs. Lengths are in pixels of a
112x112 crop aligned by the eyes, nose and mouth corners, like the faces that networks are trained on.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

TRAITS: dict[str, tuple[float, float]] = {
    # name: (mean, standard deviation) over people
    "face_width": (41.0, 2.6),
    "face_centre": (57.0, 2.0),
    "chin": (114.0, 3.2),
    "jaw": (0.86, 0.06),
    "roundness": (2.35, 0.22),
    "ear_size": (8.5, 1.3),
    "ear_height": (60.0, 2.2),
    "eye_spacing": (17.6, 0.9),
    "eye_width": (7.7, 0.7),
    "eye_opening": (3.5, 0.55),
    "eye_tilt": (0.05, 0.07),
    "eye_height": (51.6, 0.8),
    "iris_radius": (3.25, 0.25),
    "iris_brown": (0.6, 0.35),
    "iris_green": (0.0, 0.5),
    "lid_crease": (2.6, 0.7),
    "lid_strength": (0.40, 0.14),
    "lash": (0.75, 0.15),
    "eye_shadow": (0.20, 0.08),
    "brow_height": (8.6, 1.2),
    "brow_length": (9.8, 1.1),
    "brow_thickness": (1.75, 0.45),
    "brow_arch": (1.8, 0.9),
    "brow_tilt": (0.02, 0.09),
    "brow_strength": (0.72, 0.14),
    "brow_taper": (0.5, 0.2),
    "nose_tip": (71.0, 1.5),
    "nose_width": (7.8, 1.0),
    "nose_bridge": (3.6, 0.6),
    "nose_length": (4.2, 0.7),
    "nose_height": (9.5, 1.9),
    "nostril": (1.75, 0.3),
    "nostril_gap": (3.9, 0.45),
    "mouth_height": (91.0, 1.5),
    "mouth_width": (14.4, 1.3),
    "lip_upper": (3.0, 0.7),
    "lip_lower": (4.3, 0.8),
    "lip_bow": (0.9, 0.45),
    "lip_corner": (0.0, 0.8),
    "lip_red": (0.45, 0.16),
    "philtrum": (0.10, 0.05),
    "skin_dark": (0.0, 1.0),
    "skin_warm": (0.0, 1.0),
    "blush": (0.05, 0.04),
    "cheekbone": (3.2, 1.5),
    "cheek_height": (70.0, 2.5),
    "brow_ridge": (2.2, 1.1),
    "chin_relief": (2.6, 1.3),
    "socket": (3.2, 1.0),
    "nasolabial": (0.10, 0.06),
    "forehead_line": (-0.01, 0.05),
    "freckles": (-0.03, 0.06),
    "gloss": (0.10, 0.04),
    "hairline": (19.0, 4.0),
    "hairline_curve": (3.0, 3.0),
    "temple": (0.80, 0.06),
    "parting": (0.0, 9.0),
    "fringe": (1.0, 1.0),
    "fringe_rate": (0.16, 0.05),
    "hair_side": (5.0, 2.6),
    "hair_top": (-4.0, 3.5),
    "hair_length": (66.0, 26.0),
    "hair_dark": (0.6, 0.8),
    "hair_red": (0.0, 0.7),
    "hair_grey": (-0.4, 0.5),
    "hair_strands": (0.075, 0.02),
    "strand_rate": (26.0, 6.0),
    "beard": (-0.45, 0.50),
    "moustache": (-0.40, 0.50),
    "glasses": (-1.0, 1.0),
    "glasses_width": (12.0, 1.0),
    "glasses_height": (8.0, 1.2),
    "glasses_corner": (5.0, 1.3),
    "glasses_dark": (0.6, 0.3),
}
MOLES = 5
WAVES = 10


@dataclass(frozen=True)
class Person:
    """One identity."""

    traits: dict[str, float]
    moles: np.ndarray
    """float32 [MOLES,4]: x from the middle, y, radius, strength"""
    waves: np.ndarray
    """float32 [WAVES,4]: wave vector x and y, phase, amplitude of the skin's and hair's unevenness"""

    def __getattr__(self, name: str) -> float:
        try:
            return self.traits[name]
        except KeyError:
            raise AttributeError(name) from None


def draw_person(seed: int, number: int) -> Person:
    """Person ``number`` of ``seed``: the same whoever else is drawn."""
    rng = np.random.default_rng([seed, number, 1])
    deviation = np.clip(rng.standard_normal(len(TRAITS)), -2.2, 2.2)
    traits = {name: mean + sd * float(d) for (name, (mean, sd)), d in zip(TRAITS.items(), deviation, strict=True)}
    moles = np.stack(
        [
            rng.uniform(-34, 34, MOLES),
            rng.uniform(30, 108, MOLES),
            rng.uniform(0.6, 1.3, MOLES),
            np.maximum(0, rng.normal(0.1, 0.4, MOLES)),
        ],
        axis=1,
    )
    angle, length = rng.uniform(0, 2 * np.pi, WAVES), 2 * np.pi / rng.uniform(9, 45, WAVES)
    waves = np.stack(
        [length * np.cos(angle), length * np.sin(angle), rng.uniform(0, 2 * np.pi, WAVES), rng.normal(0, 0.012, WAVES)],
        axis=1,
    )
    traits["hair_dark"] += 0.5 * traits["skin_dark"]
    return Person(traits, moles.astype(np.float32), waves.astype(np.float32))


@dataclass(frozen=True)
class Shots:
    """How n pictures are taken; every field is float32 [n] unless stated."""

    roll: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    """[n,2]"""
    yaw: np.ndarray
    pitch: np.ndarray
    light: np.ndarray
    """[n,3], direction to the lamp, unit length"""
    ambient: np.ndarray
    tint: np.ndarray
    """[n,3], colour of the light"""
    exposure: np.ndarray
    contrast: np.ndarray
    saturation: np.ndarray
    smile: np.ndarray
    mouth_open: np.ndarray
    brow_raise: np.ndarray
    eye_opening: np.ndarray
    gaze: np.ndarray
    """[n,2]"""
    glasses: np.ndarray
    """0 or 1"""
    hair_shift: np.ndarray
    background: np.ndarray
    """[n,2,3], two colours"""
    direction: np.ndarray
    blur: np.ndarray
    """0 sharp .. 1 soft"""
    noise: np.ndarray
    clothes: np.ndarray
    """[n,3]"""
    quality: np.ndarray
    """of the JPEG, int64"""

    def part(self, first: int, last: int) -> Shots:
        """Pictures first .. last - 1."""
        return Shots(**{field.name: getattr(self, field.name)[first:last] for field in dataclasses.fields(self)})


def draw_shots(seed: int, number: int, count: int, person: Person) -> Shots:
    """Pictures 0 .. ``count - 1`` of person ``number``: each the same however many are asked for."""
    rngs = [np.random.default_rng([seed, number, 2, k]) for k in range(count)]
    z = np.stack([rng.standard_normal(24) for rng in rngs]).clip(-2.2, 2.2).astype(np.float32)
    u = np.stack([rng.random(24) for rng in rngs]).astype(np.float32)
    azimuth, height = 2 * np.pi * u[:, 0], 0.25 + 0.6 * u[:, 1]
    light = np.stack([np.cos(azimuth) * height, np.sin(azimuth) * height * 0.7 - 0.3, np.full(count, 0.85)], axis=1)
    return Shots(
        roll=0.075 * z[:, 0],
        scale=1 + 0.035 * z[:, 1],
        shift=1.3 * z[:, 2:4],
        yaw=0.24 * z[:, 4],
        pitch=0.12 * z[:, 5],
        light=(light / np.linalg.norm(light, axis=1, keepdims=True)).astype(np.float32),
        ambient=0.38 + 0.35 * u[:, 2],
        tint=1 + np.stack([0.06 * z[:, 6], 0.02 * z[:, 7], -0.08 * z[:, 6]], axis=1),
        exposure=np.exp(0.12 + 0.19 * z[:, 8]),
        contrast=1 + 0.15 * z[:, 9],
        saturation=np.where(u[:, 3] < 0.06, 0, 1 + 0.17 * z[:, 10]).astype(np.float32),
        smile=0.75 + 0.6 * z[:, 11],
        mouth_open=np.maximum(0, z[:, 12] - 0.2) * 1.9,
        brow_raise=0.9 * z[:, 13],
        eye_opening=1 + 0.16 * z[:, 14],
        gaze=np.stack([1.1 * z[:, 15], 0.5 * z[:, 16]], axis=1),
        glasses=(u[:, 4] < 1 / (1 + np.exp(-2.5 * person.glasses))).astype(np.float32),
        hair_shift=1.6 * z[:, 17],
        background=muted(np.stack([u[:, 5:8], u[:, 8:11]], axis=1)),
        direction=2 * np.pi * u[:, 11],
        blur=u[:, 12] ** 1.5,
        noise=0.006 + 0.022 * u[:, 13] ** 2,
        clothes=muted(u[:, 14:17]),
        quality=(72 + 24 * u[:, 17]).astype(np.int64),
    )


def muted(colour: np.ndarray) -> np.ndarray:
    """Uniform random colours [...,3] -> such as walls and clothes have: mostly grey, 0.08 .. 0.9."""
    grey = colour.mean(axis=-1, keepdims=True)
    return (0.08 + 0.8 * (grey + 0.45 * (colour - grey) + 0.6 * (grey - 0.5)).clip(0, 1)).astype(np.float32)
