"""First-party tools, found by name under the entry-point group `agentrl.tools`."""
