"""Where a run may begin, and where not."""

from __future__ import annotations

from pathlib import Path

import pytest

from facekit.core.errors import OutputExists
from facekit.core.runs import open_run


@pytest.mark.parametrize("resume", [False, True])
def test_a_kill_while_the_first_file_was_written_leaves_a_free_folder(tmp_path: Path, resume: bool) -> None:
    (tmp_path / ".run.json.0a1b2c3d.tmp").write_text("{")
    run = open_run("train", {"seed": 1}, out=tmp_path, resume=resume, init=None)
    assert not run.resuming and not run.done
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(OutputExists):
        open_run("train", {"seed": 1}, out=tmp_path, resume=resume, init=None)
