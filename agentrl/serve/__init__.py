"""Servers: what this machine can do, offered over HTTP."""
