"""lzma compressor for kernel."""
