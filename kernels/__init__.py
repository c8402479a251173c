"""CUDA C sources, one operation per file; none yet."""
