"""Where tasks come from: files, the hub, generated streams."""
