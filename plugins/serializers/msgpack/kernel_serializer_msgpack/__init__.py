"""msgpack serializer for kernel."""
