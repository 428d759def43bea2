"""A distributed task queue built as a pluggable microkernel."""
