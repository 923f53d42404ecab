"""Search: corpora, the retrievers under `agentrl.retrievers`, and the tool that models call."""
