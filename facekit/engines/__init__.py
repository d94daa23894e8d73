"""One file per verb: build, run, report; no maths. ``fitting`` is what train and distill share."""
