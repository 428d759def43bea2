"""The contracts of the driver kinds, one file each. This package is the stable surface for plugin authors."""
