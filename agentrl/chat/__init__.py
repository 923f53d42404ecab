"""Messages to ids and back: renderers per template family, and the protocols of tool calls."""
