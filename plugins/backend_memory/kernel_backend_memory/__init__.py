"""In-process result backend for kernel."""
