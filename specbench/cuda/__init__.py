"""CUDA C from kernels/: what this machine needs for it, compiling, launching."""
