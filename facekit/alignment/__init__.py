"""Scores aligned by the faces around each image: support banks, operators, virtual people, the estimator.

The idea is that of the abstract of arXiv 2103.01559 (IDA); formulas are ours. Start at ``scorers.build_scorers``; its
``SCORES`` are the names that a user can choose.
"""
