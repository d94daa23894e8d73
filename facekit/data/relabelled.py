"""A source seen through a noise plan: some of its images, under the labels of the plan."""

from __future__ import annotations

import numpy as np

from facekit.data.noiseplan import MAKE, NoisePlan, OtherSource, UnknownImages, names_sha256
from facekit.data.protocol import Source, Store
from facekit.data.subset import Subset

NO_CLASS = -2


class Relabelled(Subset):
    """The images of ``parent`` that the plan keeps, with its labels.

    Classes are numbered and named as in ``parent``, also those that no image is left of. Raises OtherSource and
    UnknownImages where the plan was made for something else.
    """

    def __init__(self, parent: Store, plan: NoisePlan) -> None:
        check_fits(parent, plan)
        super().__init__(parent, plan.sample_id)
        self.plan = plan
        self.labels, self.identities = plan.noisy_label, parent.identities
        self.truth = plan.true_label
        """int64 [N], the label that each image has in ``parent``."""
        self.notes = (*parent.notes, plan.describe())


def relabelled(source: Source, plan: NoisePlan) -> Relabelled:
    """``source`` seen through the plan. Raises OtherSource, UnknownImages."""
    store: Store = source  # type: ignore[assignment]  # every source of this package is also a store
    return Relabelled(store, plan)


def truth_of(source: Source) -> np.ndarray | None:
    """The true label of every image, int64 [N], in the numbers of ``source``; None where nobody recorded it.

    In a part of a relabelled source a true class may have no number, since no image of the part is labelled as it: such
    images get NO_CLASS, which is unlike every label.
    """
    if isinstance(source, Relabelled):
        return source.truth
    if not isinstance(source, Subset) or (truth := truth_of(source.parent)) is None:
        return None
    present = np.unique(source.parent.labels[source.rows])
    number = np.full(len(source.parent.identities), NO_CLASS)
    number[present] = np.arange(len(present))
    truth = truth[source.rows]
    return np.where(truth >= 0, number[truth], NO_CLASS)


def check_fits(source: Source, plan: NoisePlan) -> None:
    """Refuse a plan of other images or labels, or of the same in another order."""
    other = plan.fingerprint != source.fingerprint
    if other or plan.names_sha256 != names_sha256(source.names):
        difference = (
            f"other images or labels (fingerprint {plan.fingerprint[:12]} then, {source.fingerprint[:12]} now)"
            if other
            else "the same images in another order"
        )
        raise OtherSource(
            f"the noise plan was made for {difference}; give the data, --exclude, --min-images and --take that it was "
            f"made with, or make a new one with: {MAKE}"
        )
    if plan.sample_id[-1] >= len(source):
        raise UnknownImages(
            f"the noise plan names image {plan.sample_id[-1]} and there are {len(source)}; make it again with: {MAKE}"
        )
    labels = source.labels[plan.sample_id]
    if (plan.true_label != labels).any() or not within(plan.noisy_label, len(source.identities)):
        raise OtherSource(f"the labels in the noise plan are not those of the data; make it again with: {MAKE}")


def within(labels: np.ndarray, classes: int) -> bool:
    """Whether all are labels of ``classes`` classes."""
    return bool(labels.min() >= 0 and labels.max() < classes)
