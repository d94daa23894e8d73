"""What relation-aware distillation costs: its step against the plain student step, and the search for neighbours."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from bench.steps import SCHEDULE, image_batch, our_step
from bench.timing import Row, at_most, interleave
from facekit.core.device import Device
from facekit.core.loop import Guard, Progress, update
from facekit.core.preprocess import Preprocess
from facekit.losses import LOSSES, Dims
from facekit.models import build_backbone
from facekit.training.distill import Distill, WeightedLoss
from facekit.training.optimisers import build_optimiser
from facekit.training.teachers import CachedTeacher

IDENTITIES, NEIGHBOURS, BATCH, WIDTH = 10_000, 64, 128, 128


def mined() -> dict[str, Tensor]:
    """Artefacts of the size of a middling training set."""
    generator = torch.Generator().manual_seed(0)
    return {
        "prototypes": normalize(torch.randn(IDENTITIES, WIDTH, generator=generator)),
        "valid": torch.ones(IDENTITIES, dtype=torch.bool),
        "neighbours": torch.randint(IDENTITIES, (IDENTITIES, NEIGHBOURS), generator=generator),
    }


def coupleface_step() -> Row:
    """FCD + RAD with cached teacher and refreshed bank against the plain student step of the same network."""
    batch = image_batch(BATCH)
    batch = batch._replace(labels=batch.index * 71 % IDENTITIES)
    device = Device.pick("cpu", "auto", threads=1)
    torch.manual_seed(0)
    table = np.random.default_rng(0).normal(size=(9272, 2, WIDTH)).astype(np.float32)
    dims = Dims(WIDTH, WIDTH, IDENTITIES)
    losses = {
        "fcd": WeightedLoss(LOSSES["fcd"](dims, {}, {}), 1.0),
        "rad": WeightedLoss(LOSSES["rad"](dims, {}, mined()), 1.0),
    }
    student = build_backbone("mbf_nano", WIDTH).train()

    def optimiser(modules: list[nn.Module]) -> torch.optim.Optimizer:
        return build_optimiser("sgd", modules, 1e-3, 5e-4)

    task = Distill(student, CachedTeacher(table, device), losses, Preprocess(embedding=WIDTH), device, optimiser)
    guard, progress, scaler = Guard(), Progress(), device.scaler()

    def step() -> None:
        update(task, [batch], SCHEDULE, device, scaler, guard, progress)
        task.after_step(batch)

    paired = interleave(step, our_step("mbf_nano", WIDTH, batch))
    note = f"K {NEIGHBOURS}, batch {BATCH}, {IDENTITIES:,} identities, bank refreshed; mbf_nano, the smallest network"
    return at_most("coupleface step with cached teacher / plain student step", paired, 1.10, note)


# Peak memory is reset when prototypes are loaded and one small search has run (Linux: writing 5 to clear_refs).
SEARCH_CHILD = """
import json
import time
import torch
from torch.nn.functional import normalize
from facekit.training.relations import Prototypes, most_similar
torch.set_num_threads(2)
count, width, k = 100_000, 512, 64
proto = normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(0)))
known = Prototypes(proto, torch.ones(count, dtype=torch.int64), torch.ones(count, dtype=torch.bool))
most_similar(Prototypes(proto[:2000], known.images[:2000], known.valid[:2000]), k)
def status(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])
open("/proc/self/clear_refs", "w").write("5")
base = status("VmRSS")
start = time.process_time()
most_similar(known, k)
ours = time.process_time() - start
grown = status("VmHWM") - base
start = time.process_time()
for first in range(0, count, 500):
    proto[first : first + 500] @ proto.t()
print(json.dumps({"ours": ours, "matmul": time.process_time() - start, "kb": grown}))
"""


def searched() -> dict[str, float]:
    """The search over 100,000 identities x 512 in a process of its own, and the bare matrix product of that size."""
    out = subprocess.run([sys.executable, "-c", SEARCH_CHILD], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(out.stdout.splitlines()[-1])
    return found


def neighbour_search() -> Row:
    """Memory beyond the prototypes; the time beside the bare matrix product is in the note."""
    found = searched()
    value = found["kb"] * 1024 / 1e9
    note = (
        f"100,000 identities x 512, K 64; peak beyond the prototypes; {found['ours']:.0f} CPU s, the bare matmul "
        f"{found['matmul']:.0f}: {found['ours'] / found['matmul']:.2f}x"
    )
    return Row("neighbour search, memory", value, None, None, "< 2", value < 2, "GB", note)
