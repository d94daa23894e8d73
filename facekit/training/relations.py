"""Which identities are informative for which: teacher prototypes and their mined neighbours.

    proto[c] = n(mean over images of c of n(T))     T averaged over its views first
    nbr[c]   = the K valid identities whose prototypes are most similar to proto[c], own id excluded

(ours; the abstract of CoupleFace, arXiv 2204.05502, only says that informative relations are mined). Random
neighbours are the control.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from facekit.core.errors import InputError

_BLOCK = 2**24  # similarities held at once: with their sorting keys about 200 MB
_SAMPLES = 65536


class Prototypes(NamedTuple):
    """The teacher's mean direction of each identity."""

    proto: Tensor
    """float32 [C,D] unit rows; zero where not valid."""
    images: Tensor
    """int64 [C], how many there are of each."""
    valid: Tensor
    """bool [C]: has images, and they do not cancel out."""


class Neighbours(NamedTuple):
    """The related identities of each."""

    ids: Tensor
    """int32 [C,K], most similar first; -1 in rows of identities that are not valid."""
    similarity: Tensor
    """float32 [C,K], cosines; 0 where the id is -1."""


def prototypes(table: np.ndarray, labels: np.ndarray, classes: int) -> Prototypes:
    """From embeddings float32 [N,V,D] (V views of each image) and labels int64 [N]. Sums in float64."""
    sums = torch.zeros(classes, table.shape[2], dtype=torch.float64)
    for start in range(0, len(table), _SAMPLES):  # bounded memory, not a loop over samples
        block = torch.from_numpy(np.array(table[start : start + _SAMPLES])).double().mean(dim=1)
        sums.index_add_(0, torch.from_numpy(labels[start : start + _SAMPLES]), normalize(block))
    count = torch.from_numpy(np.bincount(labels, minlength=classes))
    valid = sums.norm(dim=1) > 1e-6 * count.clamp(min=1)
    return Prototypes((normalize(sums) * valid.unsqueeze(1)).float(), count, valid)


def most_similar(known: Prototypes, k: int) -> Neighbours:
    """The top K by cosine, ties to the lowest id. Memory is bounded whatever the number of identities."""
    check_count(known.valid, k)
    proto = known.proto
    barred = torch.where(known.valid, 0.0, -torch.inf)
    index = torch.full((len(proto), k), -1, dtype=torch.int32)
    similarity = torch.zeros(len(proto), k)
    rows = max(1, _BLOCK // len(proto))
    for start in range(0, len(proto), rows):
        part = slice(start, min(start + rows, len(proto)))
        cosine = torch.addmm(barred, proto[part], proto.t())
        own = torch.arange(part.start, part.stop, device=proto.device)
        cosine[own - part.start, own] = -torch.inf
        found = stable_top(cosine, k)
        index[part], similarity[part] = found.int().cpu(), cosine.gather(1, found).cpu()
    unknown = ~known.valid.cpu()
    index[unknown], similarity[unknown] = -1, 0.0
    return Neighbours(index, similarity)


def stable_top(values: Tensor, k: int) -> Tensor:
    """Columns of the K largest values of each row, equal values in column order: int64 [R,K] from float32 [R,C].

    A float's bits, with those below the sign flipped for negatives, sort like the float; the column fills the lower
    half of a 64-bit key, so that one top-K settles values and ties alike (a stable sort of all is 50 times slower).
    """
    bits = (values + 0.0).view(torch.int32)  # adding 0 turns -0.0, which equals 0.0, into its bits
    bits ^= (bits >> 31).bitwise_and_(0x7FFFFFFF)
    keys = bits.long().bitwise_left_shift_(32)
    keys |= 0xFFFFFFFF - torch.arange(values.shape[1], device=values.device)
    return 0xFFFFFFFF - (keys.topk(k, dim=1).values & 0xFFFFFFFF)


def random_neighbours(known: Prototypes, k: int, seed: int) -> Neighbours:
    """K valid identities for each, drawn once without replacement, own id excluded."""
    check_count(known.valid, k)
    ids = torch.nonzero(known.valid.cpu()).squeeze(1)
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, _BLOCK // len(ids))
    drawn = torch.cat([distinct(min(rows, len(ids) - i), len(ids) - 1, k, generator) for i in range(0, len(ids), rows)])
    place = torch.arange(len(ids)).unsqueeze(1)
    index = torch.full((len(known.valid), k), -1, dtype=torch.int32)
    index[ids] = ids[drawn + (drawn >= place)].int()  # places 0..V-2 step over the own one
    similarity = torch.zeros(len(known.valid), k)
    proto = known.proto.cpu()
    for part in torch.arange(len(ids)).split(max(1, _BLOCK // (k * proto.shape[1]))):
        chosen = index[ids[part]].long()
        similarity[ids[part]] = torch.einsum("cd,ckd->ck", proto[ids[part]], proto[chosen])
    return Neighbours(index, similarity)


def distinct(rows: int, upper: int, k: int, generator: torch.Generator) -> Tensor:
    """K distinct whole numbers below ``upper`` in each row: int64 [rows,K]."""
    if 4 * k >= upper:
        return torch.rand(rows, upper, generator=generator).argsort(dim=1)[:, :k]
    drawn = torch.randint(upper, (rows, k), generator=generator)
    while True:  # few rounds: less than a quarter of the numbers is taken
        drawn = drawn.sort(dim=1).values
        again = torch.zeros_like(drawn, dtype=torch.bool)
        again[:, 1:] = drawn[:, 1:] == drawn[:, :-1]
        count = int(again.sum())
        if not count:
            return drawn
        drawn[again] = torch.randint(upper, (count,), generator=generator)


def check_count(valid: Tensor, k: int) -> None:
    """K neighbours need K other valid identities."""
    others = int(valid.sum()) - 1
    if not 1 <= k <= others:
        raise InputError(
            f"{k} neighbours of each identity were asked for and the data has {others + 1} usable identities: "
            f"choose --neighbours from 1 to {others}"
            if others >= 1
            else f"neighbours need at least 2 usable identities, the data has {others + 1}"
        )
