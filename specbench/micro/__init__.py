"""`specbench micro`: the verify step alone, over shapes and methods, against the memory floor."""
