"""How one task becomes a group: one file per published plan, and what they share."""
