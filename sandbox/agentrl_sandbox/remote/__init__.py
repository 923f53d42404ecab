"""Sandboxes of another machine, over HTTP."""
