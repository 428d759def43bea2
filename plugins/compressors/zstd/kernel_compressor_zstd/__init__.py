"""zstd compressor for kernel."""
