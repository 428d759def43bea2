"""json serializer for kernel."""
