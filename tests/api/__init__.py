"""The Python interface: ``import dagrec``, and what its functions give back and refuse."""
