"""yaml serializer for kernel."""
