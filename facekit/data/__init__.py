"""Images in: sources (folder, list, packed), training batches, embedding caches, benchmark pairs, checks, synthesis."""
