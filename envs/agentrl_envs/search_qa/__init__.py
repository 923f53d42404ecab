"""Question answering by search: a world that does not exist, and published question files."""
