"""facekit: train small face-recognition models from big ones, measure them honestly, ship them.

Nothing heavy is imported here: ``facekit --help`` must answer in 0.3 s of CPU time.
"""

__version__ = "0.1.0"
