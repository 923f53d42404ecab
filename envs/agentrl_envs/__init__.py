"""First-party environments, found by name under the entry-point group `agentrl.envs`."""
