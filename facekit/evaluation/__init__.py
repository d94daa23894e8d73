"""Protocols and statistics: given ``embed`` functions and pair sets, numbers with an interval behind each."""
