"""The OpenAI-compatible gateway: an agent behind a URL, and a recorder for agents of other people."""
