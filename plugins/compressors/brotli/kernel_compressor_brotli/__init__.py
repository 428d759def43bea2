"""brotli compressor for kernel."""
