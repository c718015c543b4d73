"""Measured side by side with what people use instead; figures are kept in BENCHMARKS.md."""
