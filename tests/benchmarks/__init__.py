"""Measure what the package claims: ``python -m tests.benchmarks``, from the repository's root."""
