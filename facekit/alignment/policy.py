"""What was chosen on dev people, kept so that it can be repeated: policy.json."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_type_hints

from facekit.alignment.bank import listed, require_same
from facekit.alignment.errors import CentreBank, DevOverlap, NeedsDev
from facekit.alignment.settings import ALPHAS, Settings
from facekit.alignment.statistics import Reference
from facekit.core.errors import CorruptFile
from facekit.core.files import read_json, write_json

CENTRE_ALPHA = 0.6
"""The strongest alignment by centres that was not seen to do harm without being tried on dev people."""


@dataclass(frozen=True)
class Policy:
    """An alignment, and everything that it must not be used without."""

    score: str
    settings: Settings
    reference: Reference
    support: str
    """What tables call the support set."""
    model_sha: str
    preproc_sha: str
    bank_sha: str | None = None
    estimator_sha: str | None = None
    dev_sha: str | None = None
    """Of the dev list; None where nothing was chosen on one."""
    alphas: Mapping[float, float] = field(default_factory=dict)
    """Strength -> TAR on the dev people, for all that were tried; a list of pairs in the file."""


def policy_table(policy: Policy) -> dict[str, Any]:
    """The policy as JSON holds it."""
    table = dataclasses.asdict(policy)
    return table | {"reference": policy.reference._asdict(), "alphas": list(policy.alphas.items())}


def write_policy(path: Path | str, policy: Policy) -> Path:
    """Write policy.json, atomically."""
    return write_json(path, policy_table(policy))


def read_policy(path: Path | str) -> Policy:
    """Read policy.json. Raises MissingFile, or CorruptFile for what is no policy."""
    content = read_json(path)
    try:
        fields = typed(content, Policy)
        fields["settings"] = Settings(**typed(content["settings"], Settings))
        fields["reference"] = Reference(**typed(content["reference"], Reference))
        fields["alphas"] = {float(alpha): float(tar) for alpha, tar in content["alphas"]}
        return Policy(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFile(f"{path} is not a policy of this version: {error}; choose it anew with --dev") from error


def typed(content: Any, kind: type) -> dict[str, Any]:
    """The fields of a record as JSON holds them; ValueError where one is missing, unknown or of another type."""
    hints = get_type_hints(kind)
    if not isinstance(content, dict) or content.keys() != hints.keys():
        raise ValueError(f"expected the fields {', '.join(hints)}")
    for name, hint in hints.items():
        value = content[name]
        wanted = hint | int if hint in (float, float | None) else hint
        plain = wanted in (str, int) or isinstance(wanted, UnionType)
        if plain and (isinstance(value, bool) or not isinstance(value, wanted)):
            raise ValueError(f"{name} is {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}")
    return dict(content)


def require_policy(
    policy: Policy, model_sha: str, preproc_sha: str, *, bank_sha: str | None = None, estimator_sha: str | None = None
) -> None:
    """Raise ALIGN-HASH where a policy is used with another model, preprocessing, bank or estimator."""
    require_same("the policy", "model", policy.model_sha, model_sha)
    require_same("the policy", "preprocessing", policy.preproc_sha, preproc_sha)
    require_same("the policy", "support bank", policy.bank_sha or "none", bank_sha or "none")
    require_same("the policy", "estimator", policy.estimator_sha or "none", estimator_sha or "none")


# --- choosing ----------------------------------------------------------------------------------------------


def choose_alpha(
    tar_of_alpha: Callable[[float], float] | None, grid: Sequence[float] = ALPHAS
) -> tuple[float, dict[float, float]]:
    """(the strength with the best dev TAR, the smaller one of equals; strength -> TAR of all that were tried).

    ``tar_of_alpha`` measures on dev people, never on test people. The slope of impostor scores on d is no substitute:
    it was 1.0 to 1.3 where the best strength was 0.5 to 0.7. Raises ALIGN-DEV where there is a choice but no dev set.
    """
    if tar_of_alpha is None:
        if len(grid) > 1:
            raise NeedsDev("choosing alpha needs people who are not tested; give --dev, or one --alpha")
        return grid[0], {}
    table = {alpha: tar_of_alpha(alpha) for alpha in sorted(grid)}
    return max(table, key=lambda alpha: (table[alpha], -alpha)), table


def require_apart(dev: Iterable[str | None], test: Iterable[str | None]) -> None:
    """Raise ALIGN-DEV where a person is in both sets; None is an unknown person."""
    shared = sorted((set(dev) & set(test)) - {None}, key=str)
    if shared:
        raise DevOverlap(
            f"{len(shared)} people are both in the dev and in the test set ({listed([str(n) for n in shared])}); "
            "give a --dev of other people"
        )


def require_dev_for_centres(reduce: str, alpha: float, has_dev: bool) -> None:
    """Raise ALIGN-CENTRE for a strong alignment by centres that was not tried on dev people."""
    if reduce == "centre" and alpha > CENTRE_ALPHA and not has_dev:
        raise CentreBank(
            f"alpha {alpha} with a bank of centres was not tried on dev people, and centres over-correct; give --dev, "
            f"an alpha of at most {CENTRE_ALPHA}, or --reduce single"
        )


def over_correction(reduce: str, raw: float, aligned: float) -> list[str]:
    """A note where a bank of centres has made dev TAR worse."""
    if reduce != "centre" or aligned >= raw:
        return []
    return [
        f"over-correction: with a bank of centres the dev TAR is {aligned:.4f} aligned and {raw:.4f} raw; "
        "lower alpha, or use --reduce single"
    ]


def transductive_notes(scores: Iterable[str], support: str | None) -> list[str]:
    """A note for every reason why a score depends on other test images."""
    notes = []
    if support == "gallery":
        notes.append("transductive: scores with the gallery as support set depend on who else is enrolled")
    if "rerank" in scores:
        notes.append("transductive: rerank depends on all images of the list")
    return notes
