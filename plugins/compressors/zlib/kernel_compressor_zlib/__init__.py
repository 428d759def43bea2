"""zlib compressor for kernel."""
