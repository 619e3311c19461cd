"""What is measured beside the tokens: time spans, the GPU's own counters, the environment."""
