"""Being the agent: what `agentrl run` is made of."""
