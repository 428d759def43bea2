"""bzip2 compressor for kernel."""
