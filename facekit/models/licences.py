"""Terms of well-known published weights: recorded with a model, printed once, carried into exports.

Recognition says how sure it is: a hash proves the file, a wrapper shows the code base, a file name hints.
What is not recognised is "unknown", never "free".
"""

from __future__ import annotations

from pathlib import Path

UNKNOWN = "unknown"
NON_COMMERCIAL = "non-commercial research only"

_BY_SHA256 = {
    "28524e97cae1462f4b2b31ea08f0b1f08e1c8ff50e0d0d6c326e8737fd90b865": "InsightFace MobileFaceNet y1",
}
# File names inside InsightFace's published model packs (model_zoo; buffalo_l, buffalo_m, buffalo_s, antelopev2).
_BY_STEM = {
    "w600k_r50": "InsightFace buffalo_l/m",
    "w600k_mbf": "InsightFace buffalo_s",
    "glintr100": "InsightFace antelopev2",
}


def non_commercial(owner: str, evidence: str) -> str:
    """``non-commercial research only (AdaFace; recognised by its checkpoint form)``."""
    return f"{NON_COMMERCIAL} ({owner}; recognised by {evidence})"


def by_file(path: Path, sha256: str) -> str:
    """The terms of a file known by hash or, weaker, by name; else "unknown"."""
    if sha256 in _BY_SHA256:
        return non_commercial(_BY_SHA256[sha256], "SHA-256")
    if path.stem.lower() in _BY_STEM:
        return non_commercial(_BY_STEM[path.stem.lower()], "file name")
    return UNKNOWN
