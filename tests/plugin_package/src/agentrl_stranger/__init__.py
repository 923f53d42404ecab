"""A package that agentrl knows only through its entry points."""
