"""``python -m bench [NAME ...]``: measure, print one table, write docs/results/bench.json. Nothing else should run."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.environments import Skipped
from bench.timing import Row
from facekit.core.device import Device
from facekit.core.files import read_json, write_json
from facekit.evaluation.results import describe_environment

ON_ANY_DEVICE = ("resnet20_run", "resnet20_together")
"""Rows measured on an accelerator where there is one; all others are for the CPU."""
RESULT = Path(__file__).resolve().parent.parent / "docs" / "results" / "bench.json"


def table_of_benches() -> dict[str, Callable[[], Row]]:
    """All benches; imported late so that --help is quick."""
    from bench import (
        alignment,
        audit,
        codec,
        codec_peers,
        coder,
        congruence,
        heads,
        ijb,
        megaface,
        metrics,
        records,
        relations,
        sampling,
        small_nets,
        steps,
        twins,
    )

    return {
        "mbf_step": steps.mbf_step,
        "r18_step": steps.r18_step,
        "distill_step": steps.distill_step,
        "coupleface_step": relations.coupleface_step,
        "neighbour_search": relations.neighbour_search,
        "head_chunked": heads.head_chunked,
        "head_million": heads.head_million,
        "input_pipeline": steps.input_pipeline,
        "record_reading": records.record_reading,
        "metrics_speed": metrics.metrics_speed,
        "bin_memory": metrics.bin_memory,
        "swap_page": metrics.swap_page,
        "megaface_stream": megaface.megaface_stream,
        "ijb_pairs": ijb.ijb_pairs,
        "roc_many": megaface.roc_many,
        "dao_bank": alignment.dao_bank,
        "audit_embeddings": audit.audit_embeddings,
        "twin_step": twins.twin_step,
        "coder_encode": coder.coder_encode,
        "coder_decode": coder.coder_decode,
        "coder_rounding": coder.coder_rounding,
        "coder_reference": coder.coder_reference,
        "coder_first_call": coder.coder_first_call,
        "codec_synthesis": codec.codec_synthesis,
        "codec_synthesis_bf16": codec.codec_synthesis_bf16,
        "codec_faces": codec.codec_faces,
        "codec_mbt2018": codec_peers.codec_mbt2018,
        "codec_mbt2018_bf16": codec_peers.codec_mbt2018_bf16,
        "codec_hyperprior": codec_peers.codec_hyperprior,
        "codec_mean": codec_peers.codec_mean,
        "codec_entropy_mbt2018": codec_peers.codec_entropy_mbt2018,
        "cc_torchdistill": congruence.cc_torchdistill,
        "rkd_torchdistill": congruence.rkd_torchdistill,
        "sp_torchdistill": congruence.sp_torchdistill,
        "relations_memory": congruence.relations_memory,
        "step_cckd": congruence.step_cckd,
        "step_cckd_faces": congruence.step_cckd_faces,
        "class_uniform_epoch": sampling.class_uniform_epoch,
        "crop_share": small_nets.crop_share,
        "seeds_on_cpu": small_nets.seeds_on_cpu,
        "resnet20_run": small_nets.resnet20_run,
        "resnet20_together": small_nets.resnet20_together,
    }


def show(rows: dict[str, dict[str, object]]) -> None:
    """One line per bench."""
    table = Table(title="facekit benches")
    for column in ("what", "measured", "95 % interval", "bar", "holds", "how"):
        table.add_column(column)
    for row in rows.values():
        low, high = row["low"], row["high"]
        interval = f"{low:.3g} .. {high:.3g}" if isinstance(low, float) and isinstance(high, float) else ""
        value = f"{row['value']:.3g} {row['unit']}"
        holds = "" if row["bar"] == "none" else "yes" if row["passed"] else "NO"
        table.add_row(str(row["name"]), value, interval, str(row["bar"]), holds, str(row["note"]))
    Console(width=150).print(table)


def main() -> int:
    """Run the named benches (default all); keep earlier rows of the others."""
    benches = table_of_benches()
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*benches, []], help="which; default all")
    names = parser.parse_args().names or list(benches)
    rows = read_json(RESULT)["rows"] if RESULT.is_file() else {}
    skipped = set()
    for name in names:
        print(f"running {name} ...", file=sys.stderr, flush=True)
        try:
            row = benches[name]().to_dict()
        except Skipped as reason:
            print(f"skipped {name}: {reason}", file=sys.stderr, flush=True)
            skipped.add(name)
            continue
        device = Device.pick("auto" if name in ON_ANY_DEVICE else "cpu", "auto", threads=1)
        rows[name] = {
            **row,
            "date": time.strftime("%Y-%m-%d"),
            "command": f"python -m bench {name}",
            "environment": describe_environment(device.describe()),
        }
        write_json(RESULT, {"rows": rows})
    show({name: rows[name] for name in benches if name in rows})
    return 0 if all(rows[name]["passed"] for name in names if name not in skipped) else 1


if __name__ == "__main__":
    sys.exit(main())
