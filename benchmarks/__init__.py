"""Time and memory of this library, compared with the alternatives: `python -m benchmarks --help`."""
