"""The benchmarks, one room for each thing that is measured, in the order in which they are run."""
