"""How much each training sample counts: LAW (arXiv 1905.11058) and the rules it is measured against.

``WEIGHTERS`` names the rules; ``naming.build_weighter("small_loss:tau=0.3")`` builds one with its settings.
"""

from facekit.weighting.base import Weighter
from facekit.weighting.clean_only import CleanOnly
from facekit.weighting.fixed import Fixed
from facekit.weighting.l2rw import L2RW
from facekit.weighting.law import Law
from facekit.weighting.mwnet import MWNet
from facekit.weighting.random_schedule import RandomSchedule
from facekit.weighting.self_paced import SelfPaced
from facekit.weighting.small_loss import SmallLoss
from facekit.weighting.uniform import Uniform

WEIGHTERS: dict[str, type[Weighter]] = {
    "uniform": Uniform,
    "clean_only": CleanOnly,
    "self_paced": SelfPaced,
    "small_loss": SmallLoss,
    "l2rw": L2RW,
    "mwnet": MWNet,
    "fixed": Fixed,
    "random": RandomSchedule,
    "law": Law,
}
"""Name -> rule. Beside them, ``focal`` is a loss and ``coteaching`` a task of two networks (``training``)."""
