"""Side-by-side benchmarks: ``python -m bench`` runs all, ``python -m bench NAME`` one. Ratios, never bare speeds."""
