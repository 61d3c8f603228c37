"""The Python interface, as ``import dagrec`` exports it."""
