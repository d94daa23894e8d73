"""Drawing faces as smooth shapes under a lamp: [n,H,W] arrays throughout, one person and n pictures at a time.

The face is a height field (skull, nose, brows, cheeks, lips, chin) over a plane. Turning the head moves every point by
its height, which gives parallax; the lamp shades the slope of the same field. Colours are laid over each other in
layers with soft edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facekit.data.faces import Person, Shots

MIDDLE = 56.0
"""x of the face's axis"""
Grid = np.ndarray


@dataclass
class Canvas:
    """Colours being laid over each other, and the face's own coordinates at every pixel."""

    colour: np.ndarray
    """float32 [3,n,H,W], 0..1"""
    x: Grid
    """float32 [n,H,W], from the face's axis, in pixels of the 112 crop"""
    y: Grid
    sharp: float
    """pixels of this image per pixel of the 112 crop: edges stay one pixel wide"""

    def edge(self, distance: Grid) -> Grid:
        """Cover 1 inside (negative distance), 0 outside, with an edge of one pixel."""
        return np.clip(0.5 - distance * self.sharp, 0, 1)

    def paint(self, cover: Grid, colour: np.ndarray) -> None:
        """Lay a colour ([3] or [n,3]) over, as opaque as ``cover`` says."""
        shaped = np.broadcast_to(np.asarray(colour, np.float32), (self.colour.shape[1], 3))
        for channel in range(3):
            plane = self.colour[channel]
            plane += cover * (shaped[:, channel, None, None] - plane)

    def tone(self, cover: Grid, factor: np.ndarray) -> None:
        """Multiply the colours by ``factor`` ([3]) where ``cover`` is 1."""
        for channel in range(3):
            self.colour[channel] *= 1 + cover * np.float32(factor[channel] - 1)


def per_image(values: np.ndarray) -> np.ndarray:
    """[n] -> float32 [n,1,1]"""
    return values.astype(np.float32)[:, None, None]


def blob(x: Grid, y: Grid, width: float | Grid, height: float) -> Grid:
    """A Gaussian bump of height 1 in the middle."""
    return np.exp(-0.5 * ((x / width) ** 2 + (y / height) ** 2))


def ellipse(x: Grid, y: Grid, a: float | Grid, b: float | Grid) -> Grid:
    """Signed distance, about, to an ellipse with half axes a and b."""
    return (np.sqrt((x / a) ** 2 + (y / b) ** 2) - 1) * np.minimum(a, b)


def ramp(values: Grid, low: float, high: float) -> Grid:
    """0 below low, 1 above high, smooth between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


# --- geometry ------------------------------------------------------------------------------------------


def relief(person: Person, x: Grid, y: Grid) -> Grid:
    """Height of the face over its plane, in pixels."""
    v = y - 60
    skull = 36 * np.sqrt(np.clip(1 - (x / 50) ** 2 - (v / 68) ** 2, 0.02, None))
    tip = person.nose_tip
    nose = person.nose_height * blob(x, y - tip, person.nose_width * 0.52, 5.0)
    nose += 0.62 * person.nose_height * blob(x, y - (tip - 12), person.nose_bridge, 9.0)
    wings = 0.35 * person.nose_height * blob(np.abs(x) - person.nose_width * 0.72, y - tip - 1.5, 2.6, 2.8)
    away = np.abs(x)
    brows = person.brow_ridge * blob(away - 15, y - 42, 10, 4.5)
    sockets = -person.socket * blob(away - person.eye_spacing, y - 51, 8.5, 6)
    cheeks = person.cheekbone * blob(away - 23, y - person.cheek_height, 8, 7)
    lips = 1.7 * blob(x, y - person.mouth_height, person.mouth_width * 0.75, 4.5)
    chin = person.chin_relief * blob(x, y - person.chin + 8, 9, 5.5)
    field: Grid = skull + nose + wings + brows + sockets + cheeks + lips + chin
    return field


def face_coordinates(person: Person, shots: Shots, size: int) -> tuple[Grid, Grid]:
    """Where on the face plane each pixel looks, [n,H,W] each: undo shift, scale and roll, then the turn of the head."""
    step = np.float32(112 / size)
    across = (np.arange(size, dtype=np.float32) + 0.5) * step
    px, py = np.meshgrid(across - MIDDLE, across - 64)
    dx, dy = px - per_image(shots.shift[:, 0]), py - per_image(shots.shift[:, 1])
    cos, sin = per_image(np.cos(shots.roll) / shots.scale), per_image(np.sin(shots.roll) / shots.scale)
    x, y = cos * dx + sin * dy, cos * dy - sin * dx + 64
    turn_x, turn_y = per_image(np.sin(shots.yaw)), per_image(np.sin(shots.pitch))
    wide, tall = per_image(1 / np.cos(shots.yaw)), per_image(1 / np.cos(shots.pitch))
    # The inverse of x' = x cos + z(x, y) sin by two rounds of substitution; 30 is the height at the eyes and mouth,
    # which the alignment of the crop holds in place.
    fx, fy = x, y
    for _ in range(2):
        depth = relief(person, fx, fy) - 30
        fx, fy = (x - depth * turn_x) * wide, (y - 64 - depth * turn_y) * tall + 64
    return fx.astype(np.float32), fy.astype(np.float32)


def face_outline(person: Person, x: Grid, y: Grid) -> Grid:
    """Signed distance, about, to the edge of the face: a superellipse whose width falls towards the jaw."""
    below = np.clip((y - person.face_centre) / (person.chin - person.face_centre), 0, None)
    above = np.clip((person.face_centre - y) / (person.face_centre - person.hair_top - 4), 0, None)
    width = person.face_width * (1 - (1 - person.jaw) * ramp(below, 0.05, 0.8))
    p = person.roundness
    radius = ((np.abs(x) / width) ** p + (below + above) ** p) ** (1 / p)
    return (radius - 1) * 40


def shade(person: Person, shots: Shots, canvas: Canvas) -> tuple[Grid, Grid]:
    """(diffuse light, gloss) of the face, [n,H,W]: the lamp on the slope of the relief."""
    height = relief(person, canvas.x, canvas.y)
    down, right = np.gradient(height, axis=(1, 2))
    down, right = down * canvas.sharp, right * canvas.sharp
    length = np.sqrt(1 + 0.5 * (right**2 + down**2))
    lx, ly, lz = (per_image(shots.light[:, k]) for k in range(3))
    toward = (lz - 0.7 * (right * lx + down * ly)) / length
    ambient = per_image(shots.ambient)
    diffuse = ambient + (1 - ambient) * 1.25 * np.clip(toward, 0, None)
    return diffuse, np.clip(toward, 0, 1) ** 14 * person.gloss


# --- colours ----------------------------------------------------------------------------------------------


def skin_colour(person: Person) -> np.ndarray:
    """float32 [3]: from pale to dark along one curve, warmer or cooler."""
    dark = 1 / (1 + np.exp(-1.1 * (person.skin_dark + 0.25)))
    pale, deep = np.array([0.93, 0.76, 0.66]), np.array([0.40, 0.25, 0.18])
    colour = pale * (1 - dark) + deep * dark
    return (colour * (1 + 0.035 * person.skin_warm * np.array([1, 0, -1.3]))).astype(np.float32)


def hair_colour(person: Person) -> np.ndarray:
    """float32 [3]: blond to black, with red and grey."""
    dark = 1 / (1 + np.exp(-2.2 * person.hair_dark))
    light, deep = np.array([0.78, 0.62, 0.40]), np.array([0.09, 0.065, 0.055])
    colour = light * (1 - dark) + deep * dark
    colour = colour * (1 + 0.25 * max(person.hair_red, 0) * np.array([1.3, -0.2, -0.8]))
    grey = float(np.clip(person.hair_grey, 0, 0.8))
    return (colour * (1 - grey) + 0.62 * grey).clip(0.03, 0.9).astype(np.float32)


def iris_colour(person: Person) -> np.ndarray:
    """float32 [3]: blue, green and brown mixed."""
    brown = float(np.clip(person.iris_brown, 0, 1))
    green = float(np.clip(person.iris_green, 0, 1))
    light = np.array([0.36, 0.50, 0.62]) * (1 - green) + np.array([0.38, 0.50, 0.30]) * green
    return (light * (1 - brown) + np.array([0.27, 0.15, 0.08]) * brown).astype(np.float32)


def unevenness(person: Person, x: Grid, y: Grid) -> Grid:
    """The skin's own low-frequency pattern: a few waves, around 0."""
    total = np.zeros_like(x)
    for kx, ky, phase, amplitude in person.waves:
        total += amplitude * np.cos(kx * x + ky * y + phase)
    return total


# --- layers, back to front --------------------------------------------------------------------------------


def background(shots: Shots, size: int) -> np.ndarray:
    """float32 [3,n,H,W]: a gradient between two colours with a soft wave in it."""
    along = np.linspace(-1, 1, size, dtype=np.float32)
    cos, sin = per_image(np.cos(shots.direction)), per_image(np.sin(shots.direction))
    t = 0.5 + 0.4 * (along[None, None, :] * cos + along[None, :, None] * sin)
    t = np.clip(t + 0.12 * np.sin(5 * along[None, None, :] * sin + 4 * along[None, :, None] + 9 * cos), 0, 1)
    first, second = shots.background[:, 0], shots.background[:, 1]
    planes = [per_image(first[:, c]) * (1 - t) + per_image(second[:, c]) * t for c in range(3)]
    return np.stack(planes).astype(np.float32)


def draw_behind(canvas: Canvas, person: Person, shots: Shots, skin: np.ndarray, hair: np.ndarray) -> Grid:
    """Hair behind the head, neck, clothes and ears; returns what they cover."""
    x, y = canvas.x, canvas.y
    side = person.face_width + person.hair_side
    top = 50 - person.hair_top
    crown = ellipse(x, y - 50, side, top + 2)
    fall = np.maximum(np.abs(x) - side - 1.2 * np.sin(0.18 * y + 3 * person.parting), y - person.hair_length)
    back = np.where(y < 50, crown, fall)
    behind = canvas.edge(back * 0.7)
    neck = canvas.edge(np.maximum(np.abs(x) - 25 - 0.02 * np.clip(y - 100, 0, None) ** 2, 92 - y))
    shirt = canvas.edge(116 - 0.0045 * x**2 - y)
    canvas.paint(behind, hair * 0.72)
    canvas.paint(neck, skin * 0.78)
    canvas.paint(shirt, shots.clothes)
    ear_x = np.abs(x) - person.face_width - 0.15 * person.ear_size
    ear = canvas.edge(ellipse(ear_x, y - person.ear_height, 0.52 * person.ear_size, person.ear_size))
    canvas.paint(ear, skin * 0.93)
    canvas.tone(0.35 * blob(ear_x - 0.8, y - person.ear_height, 1.6, 0.5 * person.ear_size), np.array([0.6, 0.5, 0.5]))
    return np.maximum(np.maximum(behind, neck), ear)


def draw_skin(canvas: Canvas, person: Person, skin: np.ndarray, cover: Grid) -> None:
    """The face's surface: colour, blotches, blush, freckles, moles, lines."""
    x, y = canvas.x, canvas.y
    away = np.abs(x)
    canvas.paint(cover, skin)
    pattern = unevenness(person, x, y)
    for channel in range(3):
        canvas.colour[channel] *= 1 + cover * pattern * (0.8 if channel == 0 else 1.25)
    red = np.array([1.0, 0.62, 0.60])
    canvas.tone(cover * person.blush * 2.2 * blob(away - 22, y - 74, 9, 7), red)
    canvas.tone(cover * person.blush * 2.0 * blob(x, y - person.nose_tip, 6, 5), red)
    canvas.tone(
        cover * 1.1 * person.eye_shadow * blob(away - person.eye_spacing, y - 57, 8, 3), np.array([0.55, 0.45, 0.5])
    )
    canvas.tone(
        cover * 0.9 * person.eye_shadow * blob(away - person.eye_spacing + 2, y - 47, 8, 4), np.array([0.6, 0.5, 0.5])
    )
    if person.freckles > 0:
        spots = np.sin(1.9 * x + 2 * np.sin(0.8 * y)) * np.sin(2.1 * y + 2 * np.sin(0.7 * x + person.parting))
        canvas.tone(
            cover * np.clip(spots - 0.45, 0, 1) * 7 * person.freckles * blob(x, y - 68, 22, 9),
            np.array([0.75, 0.6, 0.5]),
        )
    for mole_x, mole_y, radius, strength in person.moles[person.moles[:, 3] > 0.05]:
        canvas.tone(
            cover * min(strength, 0.8) * blob(x - mole_x, y - mole_y, radius, radius), np.array([0.4, 0.3, 0.3])
        )
    fold = away - (9.5 + 0.42 * (y - 76) + 0.004 * (y - 76) ** 2)
    strength = person.nasolabial * ramp(y, 73, 79) * (1 - ramp(y, 88, 96))
    canvas.tone(cover * strength * 2.4 * np.exp(-0.5 * (fold / 1.1) ** 2), np.array([0.55, 0.5, 0.5]))
    if person.forehead_line > 0:
        lines = np.clip(np.sin(1.25 * y + 0.6 * np.cos(0.12 * x)) - 0.6, 0, 1) * blob(x, y - 33, 18, 5)
        canvas.tone(cover * 5 * person.forehead_line * lines, np.array([0.7, 0.65, 0.65]))


def draw_facial_hair(canvas: Canvas, person: Person, shots: Shots, hair: np.ndarray, cover: Grid) -> None:
    """Beard along the jaw and around the mouth, moustache above it; most people have none."""
    x, y = canvas.x, canvas.y
    grain = 0.75 + 0.25 * np.sin(2.3 * x + 1.7 * np.sin(1.1 * y)) * np.sin(2.6 * y)
    if person.beard > 0:
        jaw = ramp(y - 0.004 * x**2 * 1.6, 80, 97) + ramp(np.abs(x), 26, 36) * ramp(y, 60, 74)
        bare = blob(x, y - person.mouth_height, person.mouth_width, 4.5)
        canvas.paint(cover * np.clip(jaw, 0, 1) * (1 - bare) * grain * min(0.9, 1.5 * person.beard), hair * 0.9)
    if person.moustache > 0:
        lip = person.mouth_height - 5.4 - 0.25 * per_image(shots.smile)
        place = blob(x, y - lip + 0.02 * x**2 * 0.4 - 0.5, person.mouth_width * 0.62, 1.9)
        canvas.paint(cover * np.clip(1.5 * place - 0.2, 0, 1) * grain * min(0.9, 1.6 * person.moustache), hair * 0.9)


def draw_eyes(canvas: Canvas, person: Person, shots: Shots, skin: np.ndarray) -> None:
    """Both eyes: white, iris, pupil, glint, lashes and the lid's crease."""
    iris, gaze_x, gaze_y = iris_colour(person), per_image(shots.gaze[:, 0]), per_image(shots.gaze[:, 1])
    opening = person.eye_opening * per_image(shots.eye_opening) - 0.35 * per_image(np.clip(shots.smile, 0, 1.5))
    for side in (-1, 1):
        x, y = canvas.x - side * person.eye_spacing, canvas.y - person.eye_height
        u = side * x  # outwards
        v = y + person.eye_tilt * u
        t = np.clip(np.abs(u + 0.6) / person.eye_width, 0, 1)
        upper, lower = -opening * (1 - t**2.2), 0.72 * opening * (1 - t**2)
        inside = canvas.edge(np.maximum(upper - v, v - lower)) * (np.abs(u + 0.6) < person.eye_width)
        canvas.paint(inside, np.array([0.80, 0.77, 0.75], np.float32))
        canvas.tone(inside * np.exp(-0.5 * ((v - upper) / 1.3) ** 2), np.array([0.62, 0.60, 0.62]))
        distance = np.sqrt((x - gaze_x) ** 2 + (v - gaze_y + 0.4) ** 2)
        canvas.paint(inside * canvas.edge(distance - person.iris_radius), iris * 0.75)
        canvas.paint(inside * canvas.edge(distance - 0.78 * person.iris_radius), iris)
        canvas.paint(inside * canvas.edge(distance - 0.42 * person.iris_radius), np.full(3, 0.03, np.float32))
        glint = blob(x - gaze_x - 1.1, v - gaze_y + 1.6, 0.65, 0.65)
        canvas.paint(inside * np.clip(1.3 * glint, 0, 0.95), np.ones(3, np.float32))
        within = 1 - ramp(np.abs(u + 0.6), person.eye_width * 0.92, person.eye_width * 1.1)
        lash = np.exp(-0.5 * ((v - upper + 0.25) / 0.75) ** 2) * within * (0.6 + 0.4 * np.clip(u / 7, -1, 1))
        canvas.paint(lash * person.lash, skin * 0.16)
        rim = np.exp(-0.5 * ((v - lower - 0.3) / 0.6) ** 2) * within
        canvas.tone(0.5 * rim, np.array([0.66, 0.52, 0.52]))
        crease = np.exp(-0.5 * ((v - upper * 0.9 + person.lid_crease) / 0.7) ** 2) * within
        canvas.tone(person.lid_strength * crease, np.array([0.5, 0.42, 0.42]))


def draw_brows(canvas: Canvas, person: Person, shots: Shots, hair: np.ndarray) -> None:
    """Both brows: a tapering arch."""
    colour = np.minimum(hair, 0.42) * 0.85
    for side in (-1, 1):
        u = side * canvas.x - person.eye_spacing
        v = canvas.y - (person.eye_height - person.brow_height - per_image(shots.brow_raise))
        t = (u + 0.5) / person.brow_length
        middle = -person.brow_tilt * u + person.brow_arch * (1.6 * (t - 0.25) ** 2 - 0.6)
        thickness = person.brow_thickness * np.clip(1 - person.brow_taper * t, 0.25, 1.6)
        cover = np.exp(-(np.abs((v - middle) / thickness) ** 2.6)) * (1 - ramp(np.abs(t), 0.78, 1.12))
        grain = 0.86 + 0.14 * np.sin(3.1 * u + 2.2 * v)
        canvas.paint(cover * grain * person.brow_strength, colour)


def draw_nose(canvas: Canvas, person: Person) -> None:
    """Nostrils, wings and the shadow under the tip; the rest is relief under the lamp."""
    x, y = canvas.x, canvas.y
    away, base = np.abs(x), person.nose_tip + person.nose_length
    under = blob(x, y - base - 0.8, person.nose_width * 0.75, 1.5)
    canvas.tone(0.35 * under, np.array([0.66, 0.55, 0.52]))
    hole = blob(away - person.nostril_gap, y - base + 0.25 * (away - person.nostril_gap), person.nostril, 0.95)
    canvas.tone(np.clip(1.25 * hole, 0, 0.85), np.array([0.30, 0.20, 0.18]))
    wing = np.abs(ellipse(away - person.nose_width * 0.72, y - base + 2.2, 3.1, 3.6))
    side = ramp(away, person.nose_width * 0.75, person.nose_width * 1.0)
    canvas.tone(0.34 * np.exp(-0.5 * (wing / 0.7) ** 2) * side, np.array([0.55, 0.45, 0.42]))
    canvas.tone(person.philtrum * 2 * blob(x, y - base - 5, 1.3, 3.2), np.array([0.7, 0.6, 0.58]))


def draw_mouth(canvas: Canvas, person: Person, shots: Shots, skin: np.ndarray) -> None:
    """Lips around a line that a smile lifts and widens; an open mouth shows teeth and dark."""
    x, y = canvas.x, canvas.y
    smile, gap = per_image(shots.smile), per_image(shots.mouth_open)
    width = person.mouth_width * (1 + 0.07 * smile)
    t = np.clip(np.abs(x) / width, 0, 1.2)
    line = person.mouth_height + 0.5 * smile - (person.lip_corner + 1.5 * smile) * t**2 * 1.3
    body = np.clip(1 - t**2, 0, 1)
    half = 0.5 * gap * body
    bow = person.lip_bow * (np.exp(-0.5 * ((np.abs(x) - 3.2) / 2.0) ** 2) - 0.9 * np.exp(-0.5 * (x / 1.5) ** 2))
    top = line - half - (person.lip_upper - 0.25 * smile) * body**0.8 - bow * body
    bottom = line + half + person.lip_lower * np.clip(1 - t**2.4, 0, 1) ** 0.75 - 0.2 * smile
    lips = canvas.edge(np.maximum(top - y, y - bottom)) * (t < 1)
    red = skin * np.array([0.95, 0.60, 0.60]) * (1 - person.lip_red) + np.array([0.66, 0.24, 0.26]) * person.lip_red
    canvas.paint(lips * 0.86, red.astype(np.float32))
    canvas.tone(lips * (y < line), np.array([0.86, 0.84, 0.84]))
    inside = canvas.edge(np.maximum(line - half - y, y - line - half)) * (gap > 0.3) * (t < 0.97)
    canvas.paint(inside, np.array([0.16, 0.05, 0.05], np.float32))
    teeth = inside * canvas.edge(y - line + half - np.clip(0.75 * gap, 0, 3.6)) * (t < 0.8)
    canvas.paint(teeth, np.array([0.88, 0.85, 0.80], np.float32))
    seam = np.exp(-0.5 * ((y - line) / 0.65) ** 2) * (1 - ramp(t, 0.95, 1.08)) * (gap <= 0.3)
    canvas.paint(0.72 * seam, skin * 0.30)
    canvas.tone(0.3 * blob(x, y - bottom - 2.2, width * 0.5, 1.5), np.array([0.7, 0.62, 0.6]))


def draw_hair(canvas: Canvas, person: Person, shots: Shots, hair: np.ndarray) -> None:
    """Hair over forehead and temples, with strands that run away from the parting."""
    x, y = canvas.x, canvas.y
    shift = per_image(shots.hair_shift)
    from_parting = x - person.parting - shift
    line = person.hairline - person.hairline_curve * (1 - (from_parting / 30) ** 2)
    line = line + person.fringe * np.sin(person.fringe_rate * from_parting + person.parting)
    line = line + 0.5 * np.sin(1.1 * from_parting + 2 * np.sin(0.37 * from_parting))
    temple = ramp(np.abs(x) / person.face_width, person.temple, person.temple + 0.3)
    line = line + temple * (np.clip(person.hair_length, 52, 78) - 14 - line * 0.3)
    crown = ellipse(x, y - 52, person.face_width + person.hair_side, 52 - person.hair_top + 2)
    below = np.where(y < 52, crown, np.abs(x) - person.face_width - person.hair_side)
    cover = canvas.edge(np.maximum((y - line) * 0.55, below))
    canvas.paint(cover, hair)
    angle = np.arctan2(from_parting, np.clip(y + 26, 8, None))
    bend = angle + 0.10 * np.sin(0.11 * y + 3 * angle)
    strands = np.sin(person.strand_rate * bend) * np.sin(0.37 * person.strand_rate * bend + 1)
    strands += 0.7 * np.sin(2.3 * person.strand_rate * bend + 2 * np.sin(7 * angle))
    for channel in range(3):
        canvas.colour[channel] *= 1 + cover * person.hair_strands * 1.7 * strands
    canvas.colour += 0.07 * cover * blob(x - 8, y - 8, 22, 7)


def draw_glasses(canvas: Canvas, person: Person, shots: Shots) -> None:
    """Rounded frames, a bridge and temples."""
    worn = per_image(shots.glasses)
    x, y = canvas.x, canvas.y - person.eye_height - 1.0
    corner = person.glasses_corner
    dx = np.clip(np.abs(np.abs(x) - person.eye_spacing) - person.glasses_width + corner, 0, None)
    dy = np.clip(np.abs(y) - person.glasses_height + corner, 0, None)
    frame = np.abs(np.sqrt(dx**2 + dy**2) - corner) - 0.75
    bridge = np.maximum(np.abs(y + 2.2) - 0.7, np.abs(x) - person.eye_spacing + person.glasses_width)
    arms = np.maximum(np.abs(y + 2.5) - 0.8, person.eye_spacing + person.glasses_width - np.abs(x))
    shape = np.minimum(np.minimum(frame, bridge), np.maximum(arms, np.abs(x) - person.face_width - 2))
    colour = np.array([0.55, 0.42, 0.30]) * (1 - np.clip(person.glasses_dark, 0, 1)) + 0.05
    canvas.paint(worn * canvas.edge(shape) * 0.92, colour.astype(np.float32))
    lens = canvas.edge(np.sqrt(dx**2 + dy**2) - corner)
    canvas.colour += worn * lens * 0.10 * np.clip(np.sin(0.25 * (x + y) + 1), 0, 1)


# --- the picture -------------------------------------------------------------------------------------------


def render(person: Person, shots: Shots, size: int, noise: np.ndarray) -> np.ndarray:
    """n pictures of one person: uint8 [n,size,size,3]. ``noise`` is standard normal float32 [n,size,size,3]."""
    x, y = face_coordinates(person, shots, size)
    canvas = Canvas(background(shots, size), x, y, size / 112)
    skin, hair = skin_colour(person), hair_colour(person)
    covered = draw_behind(canvas, person, shots, skin, hair)
    face = canvas.edge(face_outline(person, x, y) * 0.8)
    draw_skin(canvas, person, skin, face)
    draw_facial_hair(canvas, person, shots, hair, face)
    draw_nose(canvas, person)
    draw_mouth(canvas, person, shots, skin)
    draw_eyes(canvas, person, shots, skin)
    draw_brows(canvas, person, shots, hair)
    light, gloss = shade(person, shots, canvas)
    lit = np.maximum(face, 0.45 * covered)
    canvas.colour *= 1 + lit * (light - 1)
    canvas.colour += face * gloss
    draw_hair(canvas, person, shots, hair)
    draw_glasses(canvas, person, shots)
    return develop(canvas.colour, shots, noise)


def develop(colour: np.ndarray, shots: Shots, noise: np.ndarray) -> np.ndarray:
    """Camera and light colour: [3,n,H,W] -> uint8 [n,H,W,3]."""
    image = np.moveaxis(colour, 0, -1)
    image = soften(image, shots.blur)
    image = image * (shots.tint * shots.exposure[:, None])[:, None, None, :]
    grey = image @ np.array([0.30, 0.59, 0.11], np.float32)
    image = grey[..., None] + (image - grey[..., None]) * per_image(shots.saturation)[..., None]
    image = 0.5 + (image - 0.5) * per_image(shots.contrast)[..., None]
    image = np.where(image > 0.7, 1 - 0.3 * np.exp((0.7 - image) / 0.3), image)  # highlights roll off, as on film
    image = image + noise * per_image(shots.noise)[..., None]
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def soften(image: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """Mix [n,H,W,3] with a blurred copy (1-4-6-4-1 in each direction), by ``amount`` [n]."""
    height, width = image.shape[1:3]
    soft = np.pad(image, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    a, b, c, d, e = (soft[:, k : k + height] for k in range(5))
    soft = (a + e) / 16 + (b + d) / 4 + c * 0.375
    a, b, c, d, e = (soft[:, :, k : k + width] for k in range(5))
    soft = (a + e) / 16 + (b + d) / 4 + c * 0.375
    mixed: np.ndarray = image + (soft - image) * per_image(amount)[..., None]
    return mixed
