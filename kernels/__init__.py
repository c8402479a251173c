"""CUDA C sources, one operation per file, compiled at run time by voxtract.backend."""
