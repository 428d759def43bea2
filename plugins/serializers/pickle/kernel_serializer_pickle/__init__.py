"""pickle serializer for kernel."""
