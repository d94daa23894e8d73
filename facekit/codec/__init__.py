"""EDIC (arXiv 2002.03370): a learned image codec with an integer entropy coder."""
