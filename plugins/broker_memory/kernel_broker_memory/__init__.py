"""In-process broker for kernel."""
