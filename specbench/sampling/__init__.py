"""The mathematics of speculative sampling: the laws, their randomness and the γ policies."""
