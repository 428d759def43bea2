"""Serializers and compressors registered in kombu, by their names, for kernel."""
