"""Tool protocols, one per file: how a call and its answer look in text."""
