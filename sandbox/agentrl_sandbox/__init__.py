"""First-party sandboxes: `local` (fails closed) and `none` (asked for by name, no isolation)."""
